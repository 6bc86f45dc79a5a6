"""Ends work that may not end: what comes with a base or with rows, as a template or a schema, may compute
whatever it likes.

Work of one kind has an account: at most `SECONDS` of its thread's time, of which each piece of work gives
`EACH` back, however much was taken. Another thread looks at the clock while one is at work, and raises
`OutOfTime` in it. An operation that Python does in one step ends first.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

SECONDS, EACH = 10.0, 0.1  # of CPU time where the system tells another thread's, else by the clock
TICK = 0.25  # seconds between two looks
T = TypeVar("T")


class OutOfTime(BaseException):
    """Signals that an account is used up; none that code of a template could catch."""


@dataclass
class Account:
    """Holds the seconds that work of one kind has left."""

    left: float = SECONDS


class _Watch:
    """Watches the threads that are at work, by the moment of their own clock at which they are to end."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.ends: dict[int, float] = {}
        self.looks = False

    def begin(self, thread: int, end: float) -> None:
        with self.lock:
            self.ends[thread] = end
            if not self.looks:
                self.looks = True
                threading.Thread(target=self._look, daemon=True, name="time limit").start()

    def end(self, thread: int) -> None:
        with self.lock:
            raised = self.ends.pop(thread, None) is None
        if raised:
            _let_it_arrive(thread)

    def _look(self) -> None:
        while True:
            time.sleep(TICK)
            with self.lock:
                if not self.ends:
                    self.looks = False
                    return
                for thread in [each for each, end in self.ends.items() if _time_of(each) > end]:
                    del self.ends[thread]
                    _raise_in(thread, OutOfTime)


_watch = _Watch()
os.register_at_fork(after_in_child=_watch.__init__)  # type: ignore[misc]  # a fork has no thread that looks


def is_watched() -> bool:
    """Say whether the thread that calls is at work on an account."""
    return threading.get_ident() in _watch.ends


def within(account: Account, work: Callable[[], T], pieces: int = 1) -> T:
    """Return what `work` makes, in so many pieces; within other such work it is part of that. Raises
    OutOfTime where it takes all that the account has left.
    """
    if is_watched():
        return work()
    thread = threading.get_ident()
    account.left = min(max(0.0, account.left), SECONDS) + EACH * pieces  # threads at once may take more
    begun = _time_of(thread)
    _watch.begin(thread, begun + account.left)
    try:
        return work()
    finally:
        account.left -= _time_of(thread) - begun
        _watch.end(thread)


def _time_of(thread: int) -> float:
    """Return the CPU seconds of a thread that is at work."""
    if not hasattr(time, "pthread_getcpuclockid"):
        return time.monotonic()
    return time.clock_gettime(time.pthread_getcpuclockid(thread))


def _raise_in(thread: int, error: type[BaseException]) -> None:
    """Raise `error` in a thread at its next step, instead of what was raised so and has not arrived."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))


def _let_it_arrive(thread: int) -> None:
    """Take back what was raised in the thread that calls, whether it arrived or not: it is raised once more,
    and arrives here. To put None in its place leaves CPython a flag that nothing clears: each step of the
    process is slower from then on, and a function that is traced does not begin.
    """
    with suppress(OutOfTime):
        _raise_in(thread, OutOfTime)
        while True:
            pass
