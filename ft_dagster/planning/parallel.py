"""Works in copies of this process: on the other cores, or in one that may import less than the rest needs."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar, cast

from ft_dagster.errors import UserError
from ft_dagster.launch.processes import die_with_parent

In = TypeVar("In")
Out = TypeVar("Out")

UNCALLED = ("bitsandbytes", "scipy")  # the first with torch's compiler

_work: list[Callable[[Any], Any]] = []  # what the copies do: inherited, so it need not be picklable


def map_parallel(work: Callable[[In], Out], items: Sequence[In]) -> list[Out]:
    """Return `work` of each item, in their order, on all cores; results and errors come back pickled.

    One after another in this process where it has other threads (a fork would copy their locks, taken), as
    within Dagster, or one core. Raises UserError where a copy is ended from outside.
    """
    copies = min(len(os.sched_getaffinity(0)), len(items))
    if copies < 2 or threading.active_count() > 1:
        return [work(item) for item in items]
    return _in_copies(work, items, copies)


def in_own_process(work: Callable[[], Out]) -> Out:
    """Do `work` in one copy, which imports transformers and PEFT without what they take along if it is there
    and no dry run calls (`UNCALLED`): a third of a plan's imports.

    In this process where it has other threads.
    """
    if threading.active_count() > 1:
        return work()

    def without(_: None) -> Out:
        cast("dict[str, Any]", sys.modules).update(dict.fromkeys(UNCALLED))  # "not installed", says importlib
        return work()

    return _in_copies(without, [None], 1)[0]


def _in_copies(work: Callable[[In], Out], items: Sequence[In], copies: int) -> list[Out]:
    _work.append(work)
    try:
        fork = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(copies, fork, initializer=die_with_parent) as pool:
            return list(pool.map(_do, items))
    except BrokenProcessPool:
        raise UserError(
            "a process of the plan was ended from outside",
            fix="Run it again; where memory is short, end other programs first",
        ) from None
    finally:
        _work.pop()


def _do(item: Any) -> Any:
    return _work[-1](item)
