"""Prefect: walks DVC's graph; and the `trackway` command."""
