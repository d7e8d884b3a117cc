"""Has `dvc --quiet` print errors; DVC itself prints none then, and so ends without a word if the disk is full."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager


def tell_errors() -> None:
    """Replaces DVC's function that sets how much it prints, in this process, which must be one of DVC."""
    from dvc import logger

    set_level = logger.set_loggers_level

    def at_least_errors(level: int = logging.INFO) -> AbstractContextManager[None]:
        return set_level(min(level, logging.ERROR))

    logger.set_loggers_level = at_least_errors
