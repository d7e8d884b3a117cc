"""The errors that a user can cause, and mend. Anything else is a bug and keeps its traceback.

TrackwayError
├── ParamsError      something in params.yaml
├── DownloadError    a dataset's file could not be had
│   └── NetworkError     and the network was a reason: later it may be there
├── DataError        a dataset's files are not what they should be
├── DeviceError      the device asked for is not there, or too small
├── BatchError       model, loss and data do not fit each other
├── NotFiniteError   the loss became NaN or infinite
├── TrackingError    the MLflow store cannot be used
└── ServerError      a server could not be started
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TrackwayError(Exception):
    """Its text is the whole message: what, which value, what is allowed, the next step."""

    exit_code = 1
    last_line = ""  # of the message; who started the stage tells by it whether to try again

    def as_message(self) -> str:
        """For the terminal: each line marked as an error."""
        lines = [f"error: {line}" for line in str(self).splitlines()]
        return "\n".join([*lines, self.last_line] if self.last_line else lines)


class ParamsError(TrackwayError):
    """Every mistake found in params.yaml, one a line."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class DownloadError(TrackwayError):
    pass


class NetworkError(DownloadError):
    exit_code = 75  # EX_TEMPFAIL: who runs the stage may try again
    last_line = "error: the network failed; the same command may work later"


class DataError(TrackwayError):
    pass


class DeviceError(TrackwayError):
    pass


class BatchError(TrackwayError):
    pass


class NotFiniteError(TrackwayError):
    last_line = "error: the same settings would give the same loss again"


class TrackingError(TrackwayError):
    pass


class ServerError(TrackwayError):
    pass


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word, where a known one is close."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
