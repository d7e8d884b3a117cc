"""The errors that a user can cause, and mend. Anything else is a bug and keeps its traceback.

TrackwayError
├── ParamsError      something in params.yaml
├── GraphError       something in dvc.yaml or dvc.lock, or a stage reads what dvc.yaml does not list
├── DownloadError    a dataset's file could not be had
│   └── NetworkError     and the network was a reason: later it may be there
├── DataError        a dataset's files are not what they should be
├── DeviceError      the device asked for is not there, or too small
├── BatchError       model, loss and data do not fit each other
├── NotFiniteError   a loss, a weight or a metric is NaN or infinite
├── TrackingError    the MLflow store cannot be used
│   └── StoreUnreachable  its server does not answer now: later it may
└── ServerError      a server could not be started
"""

from __future__ import annotations

import difflib
import pickle
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class TrackwayError(Exception):
    """Its text is the whole message: what, which value, what is allowed, the next step."""

    exit_code = 1
    last_line = ""  # of the message; who started the stage tells by it whether to try again

    def as_message(self) -> str:
        """For the terminal: each line marked as an error, and nothing in it that a terminal would obey."""
        lines = [f"error: {printable(line)}" for line in str(self).split("\n")]
        return "\n".join([*lines, self.last_line] if self.last_line else lines)


class ParamsError(TrackwayError):
    """Every mistake found in params.yaml, one a line."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class GraphError(TrackwayError):
    pass


class DownloadError(TrackwayError):
    pass


class NetworkError(DownloadError):
    exit_code = 75  # EX_TEMPFAIL: who runs the stage may try again
    last_line = "error: the network failed; the same command may work later"


class DataError(TrackwayError):
    pass


class DeviceError(TrackwayError):
    last_line = "error: on this machine the same settings would end in the same way"


class BatchError(TrackwayError):
    pass


class NotFiniteError(TrackwayError):
    last_line = "error: the same settings would give the same again"


class TrackingError(TrackwayError):
    pass


class StoreUnreachable(TrackingError):
    pass


class ServerError(TrackwayError):
    pass


@contextmanager
def only_data(file: Path, stage: str) -> Iterator[None]:
    """Around reading a file that a stage made: raises DataError if it holds something else, such as a pickle.

    numpy and torch refuse Python objects, and their messages tell how to load them all the same; ours does not.
    """
    try:
        yield
    except (
        AttributeError, EOFError, KeyError, RuntimeError, TypeError, ValueError, pickle.UnpicklingError
    ) as error:  # fmt: skip
        raise DataError(
            f"{file} is not what the stage {stage} writes: it is damaged, or holds Python objects, which are never "
            f"loaded ({type(error).__name__}); `dvc checkout {file.parent}` brings back DVC's, "
            f"`dvc repro --force {stage}` makes it anew"
        ) from error


def printable(text: str) -> str:
    """The text with control characters (also those that turn the direction of writing) and broken UTF-8 as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word, where a known one is close."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
