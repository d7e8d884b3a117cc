"""The errors that a user can cause and mend; any other exception is a bug and keeps its traceback.

TrackwayError
├── ParamsError      a mistake in params.yaml
├── GraphError       a mistake in dvc.yaml or dvc.lock, or a stage reads a file that dvc.yaml does not list
├── DownloadError    a dataset's file could not be downloaded
│   └── NetworkError     the network was one of the reasons, so a later attempt may work
├── DataError        a dataset's files are not what they should be
├── DeviceError      the requested device does not exist or has too little memory
├── BatchError       model, loss and data do not fit each other
├── NotFiniteError   a loss, a weight or a metric is NaN or infinite
├── TrackingError    the MLflow store cannot be used
│   └── StoreUnreachable  the store's server does not answer; it may later
├── ExportError      a model cannot be written in a format
├── ServerError      a server could not be started
└── SweepError       a sweep cannot go on
"""

from __future__ import annotations

import difflib
import pickle
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class TrackwayError(Exception):
    """An error that a user can mend; its text names the key, the value, what is allowed and the next step."""

    exit_code = 1
    last_line = ""  # last line of the message, by which whoever started the stage knows whether to try again

    def as_message(self) -> str:
        """Returns the text for a terminal: each line marked as an error, control characters escaped."""
        lines = [f"error: {printable(line)}" for line in str(self).split("\n")]
        return "\n".join([*lines, self.last_line] if self.last_line else lines)


class ParamsError(TrackwayError):
    """One or more mistakes in params.yaml, one on each line."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class ArgumentError(ValueError):
    """A model's constructor refuses one of its arguments.

    Args:
        key: The argument, or a key below it, such as `weights.sha256`.
        message: What follows the key in the message for the user, such as `is 9; it must be ...`.
    """

    def __init__(self, key: str, message: str) -> None:
        self.key = key
        super().__init__(message)


class GraphError(TrackwayError):
    """A mistake in dvc.yaml or dvc.lock, or a stage reads a file that dvc.yaml does not list."""


class DownloadError(TrackwayError):
    """A dataset's file could not be downloaded from any source."""


class NetworkError(DownloadError):
    """A download failed, and the network was one of the reasons, so a later attempt may work."""

    exit_code = 75  # EX_TEMPFAIL: whoever runs the stage may try again
    last_line = "error: the network failed; the same command may work later"


class DataError(TrackwayError):
    """A dataset's files, or the arrays read from them, are not what they should be."""


class DeviceError(TrackwayError):
    """The requested device does not exist, has too little memory, or cannot be locked."""

    last_line = "error: on this machine the same settings would end in the same way"


class BatchError(TrackwayError):
    """Model, loss and data do not fit each other."""


class NotFiniteError(TrackwayError):
    """A loss, a weight or a metric is NaN or infinite."""

    last_line = "error: the same settings would give the same again"


class TrackingError(TrackwayError):
    """The MLflow store cannot be used."""


class StoreUnreachable(TrackingError):
    """The MLflow store's server does not answer; it may later."""


class ExportError(TrackwayError):
    """A registered model cannot be written in a format, or the file does not predict what the model predicts."""


class ServerError(TrackwayError):
    """A server could not be started."""


class SweepError(TrackwayError):
    """A sweep cannot go on, or has nothing to show."""


@contextmanager
def only_data(file: Path, stage: str) -> Iterator[None]:
    """Wraps code that reads a file made by a stage, and turns any failure to parse it into a DataError.

    numpy and torch refuse files with Python objects (pickles), but their messages explain how to load them anyway,
    which would be unsafe; this error does not.

    Args:
        file: The file that is read.
        stage: The stage that writes the file, such as `train@digits-mlp`, for the message.
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
    """Returns the text with control characters (writing direction included) and invalid UTF-8 as escape sequences."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns `; did you mean ...?`, the end of a message about an unknown word; "" if no known word is similar."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
