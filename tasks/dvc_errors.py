"""Has `dvc --quiet` print errors; DVC itself prints none then, and so ends without a word if the disk is full."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager

from dvc import logger
from dvc.stage.exceptions import StageCmdFailedError


def tell_errors() -> None:
    """Replaces DVC's function that sets how much it prints, in this process, which must be one of DVC."""
    set_level = logger.set_loggers_level

    def at_least_errors(level: int = logging.INFO) -> AbstractContextManager[None]:
        return set_level(min(level, logging.ERROR))

    logger.set_loggers_level = at_least_errors
    logging.getLogger("dvc.cli").addFilter(_is_news)
    for name in ("dvc", "dvc_objects", "dvc_data"):
        logging.getLogger(name).propagate = False  # another library's handler would add a traceback


def _is_news(record: logging.LogRecord) -> bool:
    """Returns whether DVC says more than that a stage failed, which the stage itself has said."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error and error.__cause__, StageCmdFailedError)
