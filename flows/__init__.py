"""Prefect: walks DVC's graph; and the `trackway` command."""

import sys

from tasks.warm import hand_over  # tasks stops on Windows, before an import fails there

SERVERS = ("up", "down", "status")  # what deals with the warm process itself

if sys.argv[0].endswith("/trackway") and sys.argv[1:] and sys.argv[1] not in SERVERS:
    hand_over("flows.cli", sys.argv[1:])  # before anything else is imported; returns if nobody is there to do it
