"""Processes of a run: how they are bound to their launcher, found, and ended.

psutil is imported where it is needed, since every rank imports this module.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

MARKER = "FT_DAGSTER_RUN"
SUPERVISOR = "FT_DAGSTER_SUPERVISOR"
GRACE = "FT_DAGSTER_GRACE_SECONDS"  # that a program has after SIGTERM, where that is not the usual

LEAVING_SECONDS = 15.0  # that a program has to end once it has saved

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def grace_told(otherwise: float) -> float:
    """Return the seconds that a program has after SIGTERM, as who started this process says."""
    return float(os.environ.get(GRACE) or otherwise)


def become_subreaper() -> None:
    """Whatever descends from this process and loses its parent becomes its child (Linux)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent's starting thread ends (Linux).

    SIGKILL, because it is the last resort: a parent that ends in order asks with other signals first.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def outlive_parent() -> None:
    """Take that back."""
    _prctl(_PR_SET_PDEATHSIG, 0)


def supervisor_is_gone() -> bool:
    """Whether the supervisor that started this process died before the death signal was set."""
    pid = os.environ.get(SUPERVISOR, "")
    if not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def descendants() -> list[psutil.Process]:
    """The living processes below this one."""
    import psutil

    return _living(psutil.Process().children(recursive=True))


def carriers(marker: str) -> list[psutil.Process]:
    """The living processes whose environment has FT_DAGSTER_RUN=`marker`, but this one and its parents."""
    import psutil

    this = psutil.Process()
    spared = {this.pid, *(parent.pid for parent in this.parents())}
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid not in spared and process.environ().get(MARKER) == marker:
                found.append(process)
        except (psutil.Error, OSError):
            continue  # ended meanwhile, or another user's
    return _living(found)


def send(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    """Signal each; one that ended meanwhile, or whose pid is another's by now, is left out."""
    import psutil

    for process in processes:
        try:
            process.send_signal(number)
        except psutil.Error:
            continue


def sweep(marker: str, patience: float = 5.0) -> None:
    """End what a dead supervisor left: SIGTERM, `patience` seconds, then SIGKILL until none is left."""
    send(carriers(marker), signal.SIGTERM)
    deadline = time.monotonic() + patience
    while left := carriers(marker):
        if time.monotonic() > deadline:
            send(left, signal.SIGKILL)
        time.sleep(0.05)


def _living(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    import psutil

    living = []
    for process in processes:
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                living.append(process)
        except psutil.Error:
            continue
    return living


def _prctl(option: int, value: int) -> None:
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
