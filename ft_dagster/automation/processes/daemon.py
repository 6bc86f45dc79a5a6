"""Provides the daemon that takes runs from the queue: heard of, or started by a command, and shared by all
commands.

Two lock files in the instance's folder say who lives; the kernel drops a lock when its process ends, however:
- `daemon.lock`, exclusive: of the daemon that a command started (daemon_program.py).
- `commands.lock`, shared: of each command that wants a daemon. That daemon ends when no command holds it and
  no run is left, and takes it exclusively for its last moments, so that who comes then waits for a new one.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import dagster as dg

from ft_dagster.automation.processes.instance import Launched, is_retried, status_of
from ft_dagster.automation.processes.unfinished import IN_PROGRESS, work_left
from ft_dagster.errors import UserError
from ft_dagster.launch.locks import EXCLUSIVE, SHARED, lock, read_json, unlock
from ft_dagster.settings import Settings

END_SECONDS = 60.0  # a daemon that ends is gone after this at the latest
HEARTBEAT_SECONDS = 60.0  # of a daemon that lives, which Dagster lets tell so every 30
QUEUE_PATIENCE_SECONDS = 10
HEARD_SECONDS = 5.0  # between two questions after heartbeats
RESTART_SECONDS = 5.0  # between two starts
RUNS_FOLLOW = "--runs-follow"


def commands_lock(settings: Settings) -> Path:
    return settings.dagster_home.resolve() / "commands.lock"


def daemon_lock(settings: Settings) -> Path:
    return settings.dagster_home.resolve() / "daemon.lock"


def own_daemon(settings: Settings) -> dict[str, object] | None:
    """Return `pid`, and soon `id` in heartbeats, of the daemon that a command started, if it lives."""
    free = lock(daemon_lock(settings), SHARED)
    if free is None:
        return _written(settings)
    unlock(free)
    return None


def _written(settings: Settings) -> dict[str, object]:
    """Return what the newest daemon of a command wrote of itself."""
    descriptor = os.open(daemon_lock(settings), os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read_json(descriptor)
    finally:
        os.close(descriptor)


class Daemon:
    """Keeps some daemon that takes runs from the queue while the block lasts: another's, or one that commands
    share.

    That one outlives a command that was killed: it finishes the runs that were submitted and ends then.
    Leaving the block waits until it has ended, unless another command or a run needs it.
    """

    def __init__(
        self, instance: dg.DagsterInstance, settings: Settings, *, runs_follow: bool = False
    ) -> None:
        """Want a daemon. `runs_follow`: the command is about to submit some, so that one which is started
        makes ready.
        """
        self._instance = instance
        self._settings = settings
        self._options = [RUNS_FOLLOW] if runs_follow else []
        self._held: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._started = self._asked = float("-inf")
        self._heard = False
        self._idle_since: float | None = None

    def __enter__(self) -> Self:
        self._held = self._join()
        self.ensure()
        return self

    def __exit__(self, *error: object) -> None:
        if self._held is not None:
            unlock(self._held)
            self._held = None
        self._see_it_end()

    def ensure(self, launched: Sequence[Launched] = ()) -> None:
        """Start a daemon if nobody takes the launched runs. To be called now and then.

        Heartbeats tell of another's, but one that was killed seems alive for a while: so ours is also started
        when runs lie untouched although the queue is idle.
        """
        if own_daemon(self._settings) is not None:
            self._idle_since = None
        elif not self._is_heard() or self._is_idle_for_long(launched):
            self._start()

    def _join(self) -> int:
        """Hold the commands' lock, after the last moments of a daemon that ends. Raises UserError."""
        file = commands_lock(self._settings)
        deadline = time.monotonic() + 2 * END_SECONDS
        while (held := lock(file, SHARED)) is None:
            if time.monotonic() > deadline:
                raise UserError(
                    "the daemon of an earlier command does not end",
                    file=file,
                    value=_written(self._settings).get("pid"),
                    fix="Kill the process of this number (SIGKILL) and try again",
                )
            time.sleep(0.1)
        return held

    def _see_it_end(self) -> None:
        deadline, needed = time.monotonic() + END_SECONDS, 0
        while own_daemon(self._settings) is not None and time.monotonic() < deadline:
            needed = needed + 1 if self._is_needed() else 0
            if needed > 1:  # once may be the moment in which it takes the commands' lock
                return
            time.sleep(0.2)
        if self._process is not None:
            self._process.poll()

    def _is_needed(self) -> bool:
        """Say whether another command or a run keeps the daemon; not so in its last moments."""
        for mode in (SHARED, EXCLUSIVE):
            held = lock(commands_lock(self._settings), mode)
            if held is None:
                return mode == EXCLUSIVE
            unlock(held)
        work = work_left(self._instance)
        return bool(work.waiting or work.active)

    def _is_idle_for_long(self, launched: Sequence[Launched]) -> bool:
        """Say whether runs of ours have waited for a while, in which no run of the instance was in
        progress.
        """
        waiting = any(
            status_of(self._instance, run) == dg.DagsterRunStatus.QUEUED or is_retried(self._instance, run)
            for run in launched
        )
        if not waiting or self._instance.get_runs_count(dg.RunsFilter(statuses=IN_PROGRESS)):
            self._idle_since = None
            return False
        self._idle_since = self._idle_since or time.monotonic()
        return time.monotonic() - self._idle_since > QUEUE_PATIENCE_SECONDS

    def _is_heard(self) -> bool:
        """Say whether a daemon that no command started lives, by its heartbeats."""
        if time.monotonic() - self._asked > HEARD_SECONDS:
            self._asked = time.monotonic()
            heard = self._instance.get_daemon_heartbeats().get("QUEUED_RUN_COORDINATOR")
            self._heard = (
                heard is not None
                and time.time() - heard.timestamp <= HEARTBEAT_SECONDS
                and not heard.errors
                and heard.daemon_id != _written(self._settings).get("id")
            )
        return self._heard

    def _start(self) -> None:
        """Take the daemon's lock and leave it to a new process; nothing where another command just did."""
        if time.monotonic() - self._started < RESTART_SECONDS:
            return
        held = lock(daemon_lock(self._settings), EXCLUSIVE)
        if held is None:
            return
        self._started = time.monotonic()
        log = self._settings.work_folder / "daemon.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        program = [sys.executable, "-P", "-m", "ft_dagster.automation.processes.daemon_program", str(held)]
        program += self._options
        try:
            with log.open("ab") as output:
                self._process = subprocess.Popen(
                    program, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                    start_new_session=True, pass_fds=[held],
                )  # fmt: skip
        finally:
            os.close(held)  # not unlocked: it is the new process's now
