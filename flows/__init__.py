"""Prefect: walks DVC's graph; and the `trackway` command."""

import tasks  # noqa: F401  # stops on Windows, before an import fails there
