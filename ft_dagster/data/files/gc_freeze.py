"""Stops Python's cyclic garbage collector while rows are streamed by the million: they hold no cycles, and
each collection would scan all that libraries hold.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

# By a block that has not ended, or for good where others froze: to count what is frozen walks through it all.
_frozen = Event()


@contextmanager
def heap_frozen() -> Iterator[None]:
    """Keep the cyclic collector from scanning objects that exist already; no-op where something is frozen."""
    if not _frozen.is_set() and gc.get_freeze_count():
        _frozen.set()
    if _frozen.is_set():
        yield
        return
    gc.freeze()
    _frozen.set()
    try:
        yield
    finally:
        _frozen.clear()
        gc.unfreeze()
