"""An error that nobody foresaw, of one variant or run: it is said, and stops the decision on no other."""

import logging
from functools import lru_cache

log = logging.getLogger(__name__)


def unforeseen(doing: str, error: Exception) -> str:
    """What is to be said of the error that is being handled; `doing`: what failed by it."""
    said = f"{doing} failed with {type(error).__name__}: {error}"
    _log_once(said)
    return f"{said}. Report this as a bug of ft_dagster, with the traceback that the log has of it"


@lru_cache(10_000)
def _log_once(said: str) -> None:
    """With the traceback, and not again on each tick."""
    log.exception(said)
