"""Ranks forked from one process that has imported what they need, in place of a Python started for each.

Torch's agent tells of one failed rank alone where it runs a function. So each rank is watched by the process
that torch starts, which leaves word of how it ended in memory that the agent's process shares.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import sys
import time
from collections.abc import Callable

from ft_dagster.exit_codes import FAILED
from ft_dagster.launch import processes
from ft_dagster.launch.warm import forked

Main = Callable[[list[str]], int]  # from a program's arguments to its exit code
PASSED_ON = (signal.SIGTERM, signal.SIGINT)
AWAITED = {*PASSED_ON, signal.SIGCHLD}
FIRST_SIGNAL = 128  # an exit code above it: ended by that signal less this
END = struct.Struct("<id")  # exit code, negative: by that signal; seconds since the epoch


class Ends:
    """How each rank of this node ended, written in its watcher and read in the process that forked it."""

    def __init__(self, ranks: int) -> None:
        self._memory = mmap.mmap(-1, ranks * END.size)
        self._ranks = ranks

    def write(self, rank: int, code: int) -> None:
        END.pack_into(self._memory, rank * END.size, code, time.time())

    def failed(self) -> list[tuple[int, float]]:
        """(code, time) of each rank that failed and whose watcher lived to say so."""
        return [(code, ended) for code, ended in self._known() if ended and code]

    def silent(self) -> int:
        """How many ranks nobody told of: their watchers were killed, and they with them."""
        return sum(not ended for _, ended in self._known())

    def _known(self) -> list[tuple[int, float]]:
        return [END.unpack_from(self._memory, rank * END.size) for rank in range(self._ranks)]


def watch_rank(main: Main, ends: Ends, folder: str) -> None:
    """Run `main` in a fork; return once it ended well, else leave as it did. SIGTERM and SIGINT reach it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    watcher, rank = os.getpid(), os.fork()
    if rank == 0:
        _become_rank(main, watcher, folder)

    # Waited for while they are blocked: a handler may be called when it is too late to interrupt the wait.
    signal.pthread_sigmask(signal.SIG_SETMASK, AWAITED)
    while not os.waitid(os.P_PID, rank, os.WEXITED | os.WNOWAIT | os.WNOHANG):
        number = signal.sigwait(AWAITED)
        if number in PASSED_ON:
            os.kill(rank, number)
    code = os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1])
    ends.write(int(os.environ["LOCAL_RANK"]), code)
    if code:
        os._exit(code if code > 0 else FIRST_SIGNAL - code)
    for number in PASSED_ON:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, AWAITED)


def _become_rank(main: Main, watcher: int, folder: str) -> None:
    code = FAILED
    try:
        processes.die_with_parent()
        if os.getppid() != watcher:
            os._exit(FAILED)
        forked.begin()
        code = main([folder])
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)
