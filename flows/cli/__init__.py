"""The `trackway` command: one file for each group of commands."""

from __future__ import annotations

import sys

from flows.cli import compare, data, export, lineage, model_server, predict, run, serve, share, sweep  # noqa: F401  importing them adds them
from flows.cli.app import app
from learn.errors import TrackwayError
from tasks.workspace.files import DISK_ERRORS, cannot_write
from tasks.workspace.processes import collect_garbage_rarely, end_after_threads


def main() -> None:
    """Runs the command line; an error that a user can mend is printed without a traceback, with exit code 1."""
    collect_garbage_rarely()
    code: object = None
    try:
        app()
    except SystemExit as error:
        code = error.code
    except TrackwayError as error:
        code = error.as_message()
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        code = f"error: {cannot_write('trackway ' + ' '.join(sys.argv[1:2]), error)}"
    end_after_threads(code)
