"""Handles signals: SIGTERM is preemption (finish the step, save, exit 75), SIGINT is a cancel (exit 130)."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from ft_dagster.exit_codes import CANCELLED, PREEMPTED
from ft_dagster.launch import processes

GRACE_SECONDS = 10.0  # unless who started this process gives more
STATUS = {PREEMPTED: "preempted", CANCELLED: "cancelled"}


class Stopped(BaseException):
    """Signals that the process was asked to stop; `code` is its exit code. Not an Exception: no handler may
    swallow it.
    """

    def __init__(self, code: int) -> None:
        super().__init__(STATUS[code])
        self.code = code


class Stop:
    """Handles the signals of this process. Inside `saving()` a SIGTERM waits for the next checkpoint.

    If that takes longer than the grace, in seconds, the process ends at once: the checkpoint before is whole.
    """

    def __init__(self) -> None:
        self.requested = False
        self._asked: int | None = None  # the exit code of a stop that may be on its way up
        self.grace = processes.grace_told(GRACE_SECONDS)
        self._can_save = False
        self._last_words: Callable[[], None] = lambda: None

    @contextmanager
    def handling(self) -> Iterator[None]:
        """Take the process' signals; whoever had them before has them again after it."""
        before = {
            signal.SIGTERM: signal.signal(signal.SIGTERM, self._terminate),
            signal.SIGINT: signal.signal(signal.SIGINT, self._interrupt),
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    @contextmanager
    def saving(self, last_words: Callable[[], None]) -> Iterator[None]:
        """Let the training loop watch `requested` within this context; `last_words` runs if the grace is
        over.
        """
        self.check()
        self._can_save, self._last_words = True, last_words
        try:
            yield
        finally:
            self._can_save = False
        if self.requested:
            raise Stopped(PREEMPTED)

    def check(self) -> None:
        """Raise Stopped once this process was asked to end: an extension may have made another error of it,
        and the interpreter drops what is raised in a destructor.
        """
        if self._asked is not None:
            raise Stopped(self._asked)

    def _terminate(self, _signal: int, _frame: FrameType | None) -> None:
        if not self._can_save or self.requested:
            self._end(PREEMPTED)
        self.requested = True
        timer = threading.Timer(self.grace, self._give_up)
        timer.daemon = True
        timer.start()

    def _give_up(self) -> None:
        try:
            self._last_words()
        finally:
            os._exit(PREEMPTED)

    def _interrupt(self, _signal: int, _frame: FrameType | None) -> None:
        self._end(CANCELLED)

    def _end(self, code: int) -> None:
        self._asked = code
        raise Stopped(code)
