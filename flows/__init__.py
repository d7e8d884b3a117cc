"""The Prefect flows, which run DVC's graph, and the `trackway` command."""

import sys

from tasks.warm import hand_over  # on Windows, importing tasks ends with a message before another import fails

SERVERS = ("up", "down", "status")  # commands that start, stop or look at the warm process itself

if sys.argv[0].endswith("/trackway") and sys.argv[1:] and sys.argv[1] not in SERVERS:
    hand_over("flows.cli", sys.argv[1:])  # before anything else is imported; returns if there is no warm process
