"""Work on the other cores, by copies of this process: torch, once imported, is there in each of them."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")

_work: list[Callable[[Any], Any]] = []  # what the copies do: inherited, so it need not be picklable


def map_forked(work: Callable[[In], Out], items: Sequence[In]) -> list[Out]:
    """`work` of each item, in their order; results come back pickled.

    One after another in this process where it has other threads (a fork would copy their locks, taken), as
    within Dagster, or one core.
    """
    copies = min(len(os.sched_getaffinity(0)), len(items))
    if copies < 2 or threading.active_count() > 1:
        return [work(item) for item in items]
    _work.append(work)
    try:
        with ProcessPoolExecutor(copies, multiprocessing.get_context("fork")) as pool:
            return list(pool.map(_do, items))
    finally:
        _work.pop()


def _do(item: Any) -> Any:
    return _work[-1](item)
