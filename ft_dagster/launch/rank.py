"""What every process that will touch a leased device does first."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from ft_dagster.exit_codes import TRANSIENT
from ft_dagster.launch import processes
from ft_dagster.launch.locks import SHARED, lock, read_json, unlock

LEASE = "FT_DAGSTER_LEASE"

_held: dict[str, list[int]] = {}  # token -> descriptors, open until this process ends


class LeaseLost(SystemExit):
    """The devices are not, or no longer, granted to this process: it must not touch them.

    Where nobody catches it the process leaves with exit code 75.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(TRANSIENT)
        self.problem = problem

    def __str__(self) -> str:
        return self.problem


def hold_as_rank(patience: float = 10.0) -> bool:
    """Bind this process to its launcher and hold its share of the lease until it ends.

    Call it before anything touches the device, from the main thread. Returns False where no lease was given
    (a program started by hand). Raises LeaseLost, after a line on stderr, where the lease is not in force.
    """
    if LEASE in os.environ or processes.MARKER in os.environ:
        processes.die_with_parent()
        if processes.supervisor_is_gone():
            raise _lost("its launcher is gone")
    if LEASE not in os.environ:
        return False
    lease = json.loads(os.environ[LEASE])
    token = lease["token"]
    if token not in _held:
        held: list[int] = []
        with ExitStack() as undo:
            for name, written in lease["files"].items():
                descriptor = _share(Path(lease["folder"]) / name, written, patience)
                undo.callback(unlock, descriptor)
                held.append(descriptor)
            undo.pop_all()
        _held[token] = held
    return True


def held_descriptors() -> list[int]:
    """The locks of this process's share, for a program of its own that touches the device too and inherits
    them: the lease then lasts until both have ended.
    """
    return [descriptor for held in _held.values() for descriptor in held]


def _share(path: Path, token: str, patience: float) -> int:
    """The descriptor of a shared lock on a device file that carries `token`."""
    deadline = time.monotonic() + patience
    while True:
        try:
            descriptor = lock(path, SHARED, create=False)
        except OSError as error:
            raise _lost(f"{path}: {error.strerror}") from None
        if descriptor is not None:
            break
        if time.monotonic() > deadline:  # a grant or a look at the table takes milliseconds
            raise _lost(f"{path} is being granted to another")
        time.sleep(0.005)
    granted = read_json(descriptor).get("token")
    if granted != token:
        unlock(descriptor)
        raise _lost(f"{path} was granted to another")
    return descriptor


def _lost(problem: str) -> LeaseLost:
    print(f"ft_dagster: no lease for this process: {problem}", file=sys.stderr, flush=True)
    return LeaseLost(problem)
