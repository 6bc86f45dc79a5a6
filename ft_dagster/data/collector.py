"""Python's garbage collector while rows are streamed by the million."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def only_new_objects() -> Iterator[None]:
    """Let the collector leave alone what is there already: rows hold no cycles, and make it walk through all
    that libraries hold, time and again. Nothing where somebody else has set objects apart.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
