"""Stops Python's cyclic garbage collector while rows are streamed by the million: they hold no cycles, and
each collection would scan all that libraries hold.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heap_frozen() -> Iterator[None]:
    """Keep the cyclic collector from scanning objects that exist already; no-op where something is frozen."""
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
