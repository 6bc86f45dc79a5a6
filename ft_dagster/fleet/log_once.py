"""Logs an unexpected error of one variant or run once, so that it stops the decision on no other."""

import logging
from functools import lru_cache

log = logging.getLogger(__name__)


def log_once(doing: str, error: Exception) -> str:
    """Log the error that is being handled, and return what to say of it. `doing`: what failed by it."""
    said = f"{doing} failed with {type(error).__name__}: {error}"
    _log(said)
    return f"{said}. Report this as a bug of ft_dagster, with the traceback that the log has of it"


@lru_cache(10_000)
def _log(said: str) -> None:
    """Log it with the traceback, and not again on each tick."""
    log.exception(said)
