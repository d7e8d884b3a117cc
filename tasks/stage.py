"""The command line that all stages share, and the checks of params.yaml before each of them."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path

import learn
from learn.errors import TrackwayError
from tasks.inputs import DVC_YAML, check_imports, helpers
from tasks.params import PARAMS_FILE, Params, parse_params, read_yaml
from tasks.torchrun import is_rank, leave_message
from tasks.workspace.files import DISK_ERRORS, cannot_write, write_atomically
from tasks.workspace.locks import one_process_per_stage
from tasks.workspace.outcome import Outcome, tell
from tasks.workspace.processes import collect_garbage_rarely, end_at_once

# Holds what passed tasks/params/preflight.py: a hash, and params.yaml as JSON. So the next stage need not import torch
# to check it again, and reads in milliseconds what takes a second as YAML if there are 200 experiments.
CHECKED = Path(".dvc/tmp/params-checked.json")


def run_stage(stage: Callable[[Params, str], str | Outcome], what: str) -> None:
    """Runs the command line of a stage, `python -m tasks.STAGE NAME`, and ends the process.

    An error that a user can mend is printed without a traceback, and ends the process with the error's exit code.

    Args:
        stage: The stage's function; it prints and returns a line that says what it made. Its docstring is the
            description in `--help`.
        what: What NAME is one of, `datasets` or `experiments`, for `--help`.
    """
    parser = argparse.ArgumentParser(prog=f"python -m tasks.{stage.__name__}", description=stage.__doc__)
    parser.add_argument("name", help=f"one of the {what} in {PARAMS_FILE}, or the stage's name in DVC: KIND@NAME")
    name = parser.parse_args().name.removeprefix(f"{stage.__name__}@")
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    collect_garbage_rarely()
    try:
        params = checked_params()
        with nullcontext() if is_rank() else one_process_per_stage(stage.__name__, name):
            made = stage(params, name)
        tell(made if isinstance(made, Outcome) else Outcome(made))
    except TrackwayError as error:
        tell(Outcome(error.as_message(), error=type(error).__name__))
        if is_rank():
            leave_message(error.as_message())
        else:
            print(error.as_message(), file=sys.stderr)
        sys.exit(error.exit_code)
    except FileNotFoundError as error:
        if not str(error.filename).startswith(("data/", "models/", "metrics/", "plots/")):
            raise
        sys.exit(f"error: {error.filename} is not there; `dvc repro {stage.__name__}@{name}` makes what comes before")
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        sys.exit(f"error: {cannot_write(f'{stage.__name__} {name}', error)}")
    except KeyboardInterrupt:
        sys.exit(130)
    end_at_once()


def checked_params() -> Params:
    """Reads params.yaml and makes every check that needs no work; slow checks run only once after a change.

    Raises:
        ParamsError: The file has mistakes.
        GraphError: A stage would run code that dvc.yaml does not list.
    """
    if CHECKED.is_file():
        checked = json.loads(CHECKED.read_bytes())
        if checked["digest"] == _digest(checked["helpers"]):
            return parse_params(checked["data"], PARAMS_FILE)
    from tasks.params.preflight import check

    imported = sorted(map(str, helpers()))
    digest = _digest(imported)
    params = check()
    check_imports(params)
    checked = {"digest": digest, "helpers": imported, "data": read_yaml(PARAMS_FILE)}
    if CHECKED.parent.is_dir() and digest == _digest(imported):  # otherwise a file has changed meanwhile
        write_atomically(CHECKED, json.dumps(checked, default=str).encode())
    return params


def _digest(imported: list[str]) -> str:
    """Returns a hash of what the checks of params.yaml depend on.

    Args:
        imported: The project's files outside `learn` that users' files import; they change only together with a file in
            `learn` or one of them.
    """
    code = (Path(learn.__file__).parent, Path(__file__).parent / "params")
    files = [PARAMS_FILE, DVC_YAML, *sorted(file for folder in code for file in folder.rglob("*.py"))]
    digest = hashlib.sha256(version("torch").encode())
    for file in (*files, *map(Path, imported)):
        digest.update(file.read_bytes() if file.is_file() else b"")
    return digest.hexdigest()
