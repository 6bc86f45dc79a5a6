"""Says on stderr what a command that takes long is doing."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ft_dagster.errors import in_one_line

QUICK_SECONDS = 3.0  # of a command; one that ends sooner says no step


@contextmanager
def steps_said(silent: bool) -> Iterator[Callable[[str], None]]:
    """Yield what takes a line at the beginning of each step, here or in copies of this process. A line is
    said at once where the command is no longer quick; that of a step which goes on till then is said then.
    """
    if silent:
        yield lambda line: None
        return
    steps = _Steps()
    try:
        yield steps
    finally:
        steps.end()


class _Steps:
    """Takes the steps of one command. A thread could not tell the time: what forks may have none."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._step = ""
        self._armed_in: int | None = None

    def __call__(self, line: str) -> None:
        self._step = line
        left = self._began + QUICK_SECONDS - time.monotonic()
        if left <= 0:
            self._say()
        elif self._armed_in != os.getpid() and threading.current_thread() is threading.main_thread():
            self._armed_in = os.getpid()  # a copy inherits no timer
            signal.signal(signal.SIGALRM, lambda *_: self._say())
            signal.siginterrupt(signal.SIGALRM, False)
            signal.setitimer(signal.ITIMER_REAL, left)

    def end(self) -> None:
        """Say nothing any more, in this process."""
        if self._armed_in == os.getpid():
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def _say(self) -> None:
        seconds = time.monotonic() - self._began
        sys.stderr.write(f"{seconds:3.0f} s  {in_one_line(self._step)}\n")
        sys.stderr.flush()
