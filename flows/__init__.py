"""The Prefect flows, which run DVC's graph, and the `trackway` command."""

import sys

from tasks.warm import hand_over  # on Windows, importing tasks ends with a message before another import fails

SERVER_COMMANDS = ("up", "down", "status")  # they deal with the warm process themselves


def _arguments() -> list[str]:
    """Those of the `trackway` command, if this process is one; `python -m flows.cli` is that of this folder."""
    if sys.argv[0].endswith("/trackway"):
        return sys.argv[1:]
    return sys.orig_argv[3:] if sys.argv[0] == "-m" and sys.orig_argv[1:3] == ["-m", "flows.cli"] else []


if (arguments := _arguments()) and arguments[0] not in SERVER_COMMANDS:
    hand_over("flows.cli", arguments)  # before anything else is imported; returns if nobody is there to do it
