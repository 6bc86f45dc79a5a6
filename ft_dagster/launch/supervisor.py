"""Run one command so that nothing of it is left behind.

    python -m ft_dagster.launch.supervisor --grace 45 --marker RUN -- COMMAND ...

The supervisor is a child subreaper: whatever descends from COMMAND stays below it, in whichever session or
process group. It ends all of it when it gets SIGINT or SIGTERM, when its stdin (a pipe) reaches end of file
because the process that launched it died, and when COMMAND ends and leaves processes behind.
Standard output and error are inherited untouched.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import stat
import sys
import time
from collections.abc import Collection
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, Protocol

from ft_dagster.exit_codes import BAD_INPUT, CANCELLED, DONE, PREEMPTED
from ft_dagster.launch import processes

if TYPE_CHECKING:
    import psutil

Reason = Literal["exited", "cancelled", "preempted", "abandoned"]

OWN_CODES = (DONE, BAD_INPUT, PREEMPTED, CANCELLED)  # torchrun ends with 1 whatever its workers ended with
ORPHANS_GRACE = 10.0  # nobody co-ordinates them any more, so the long grace has no purpose
REASONS: dict[signal.Signals, Reason] = {
    signal.SIGTERM: "preempted",
    signal.SIGINT: "cancelled",
    signal.SIGHUP: "cancelled",
}


class WatchedLauncher(Protocol):
    """Whoever wants the command to run: it ends with them."""

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What can be read once they are gone."""

    def gone(self, ready: Collection[int]) -> bool:
        """Whether they are, given which of the descriptors can be read."""


class Parent:
    """A launcher that started this process: our stdin is a pipe from it, unless a person did."""

    def __init__(self) -> None:
        self.pid = os.getppid()
        self.descriptors: tuple[int, ...] = (0,) if stat.S_ISFIFO(os.fstat(0).st_mode) else ()

    def gone(self, ready: Collection[int]) -> bool:
        # A fork of the launcher may keep the pipe open: then the new parent tells.
        ended = 0 in ready and os.read(0, 4096) == b""
        return bool(self.descriptors) and (ended or os.getppid() != self.pid)


class Supervisor:
    """`grace`: seconds after the first signal, above torchrun's own 30; `kill_after`: after SIGTERM."""

    def __init__(self, launcher: WatchedLauncher, marker: str, grace: float, kill_after: float) -> None:
        self.launcher = launcher
        self.marker = marker
        self.grace = grace
        self.kill_after = kill_after
        self.main = 0
        self.status: int | None = None

    def prepare(self) -> None:
        """Before the command is started."""
        processes.become_subreaper()
        self._watch_signals()

    def attend(self, main: int) -> int:
        """Supervise our child `main` to its end: its exit code.

        After a cancel or a preemption 130 or 75, where it is not one of ours.
        """
        self.main = main
        reason = self._wait()
        self._end(reason)
        return self._exit_code(reason)

    def _watch_signals(self) -> None:
        """Signals become bytes on a pipe, so that one `poll` waits for them and for the launcher's death."""
        self.wake, write = os.pipe()
        os.set_blocking(self.wake, False)
        os.set_blocking(write, False)
        for number in (*REASONS, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        # Who started this may have some of them blocked, as Ray's workers have SIGINT.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*REASONS, signal.SIGCHLD))
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self.poll = select.poll()
        self.poll.register(self.wake, select.POLLIN)
        for descriptor in self.launcher.descriptors:
            self.poll.register(descriptor, select.POLLIN)

    def _wait(self) -> Reason:
        """Until there is a reason to end."""
        while True:
            ready = dict(self.poll.poll(1000))
            numbers = self._signals() if self.wake in ready else b""
            self._reap()
            for number, reason in REASONS.items():
                if number in numbers:
                    return reason
            if self.status is not None:
                return "exited"
            if self.launcher.gone(ready):
                return "abandoned"

    def _signals(self) -> bytes:
        try:
            return os.read(self.wake, 4096)
        except BlockingIOError:
            return b""

    def _reap(self) -> bool:
        """Collect whoever ended below us; True where no child, and so no descendant, is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid == self.main:
                self.status = os.waitstatus_to_exitcode(status)

    def _end(self, reason: Reason) -> None:
        if reason == "exited" and self._gone_within(0.5):
            return
        _say(f"{reason}: ending what is left of {self.marker}")
        if reason == "preempted":
            # The main process tells its own workers; it is asked alone so that it can save a checkpoint.
            if self.status is None:
                os.kill(self.main, signal.SIGTERM)
            done = self._gone_within(self.grace, while_main_lives=True)
        else:
            processes.send(self._members(), signal.SIGINT)
            done = self._gone_within(min(self.grace, ORPHANS_GRACE) if reason == "exited" else self.grace)
        if not done:
            processes.send(self._members(), signal.SIGTERM)
            done = self._gone_within(self.kill_after)
        said = time.monotonic()
        while not done:
            members = self._members()
            processes.send(members, signal.SIGKILL)
            done = self._gone_within(0.1)
            if not done and time.monotonic() - said > 10:
                said = time.monotonic()
                _say(f"SIGKILL does not end {', '.join(str(member.pid) for member in members)}")

    def _members(self) -> list[psutil.Process]:
        found = {process.pid: process for process in processes.descendants()}
        for process in processes.carriers(self.marker):
            found.setdefault(process.pid, process)
        return list(found.values())

    def _gone_within(self, seconds: float, while_main_lives: bool = False) -> bool:
        """Whether nothing of the run is left, waiting up to `seconds` (or until the main process ends)."""
        deadline = time.monotonic() + seconds
        while True:
            if self._reap() and not processes.carriers(self.marker):
                return True
            left = deadline - time.monotonic()
            if left <= 0 or (while_main_lives and self.status is not None):
                return False
            select.select([self.wake], [], [], min(left, 0.1))
            self._signals()

    def _exit_code(self, reason: Reason) -> int:
        status = self.status if self.status is not None else -signal.SIGKILL
        code = status if status >= 0 else 128 - status
        if reason == "exited" or code in OWN_CODES:
            return code
        return CANCELLED if reason == "cancelled" else PREEMPTED


def environment_of(marker: str) -> dict[str, str]:
    """What a program under this supervisor finds in its environment: its run first, by which it is found."""
    own = {processes.MARKER: marker, processes.SUPERVISOR: str(os.getpid())}
    return {**own, **{name: value for name, value in os.environ.items() if name not in own}}


def _spawn(command: list[str], marker: str) -> int:
    return os.posix_spawnp(
        command[0],
        command,
        environment_of(marker),
        file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
        setsigmask=(),
        setsigdef=(*REASONS, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ),
    )


def _say(text: str) -> None:
    with suppress(OSError):  # a full disk or a closed pipe must not keep us from ending the run
        print(f"supervisor: {text}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m ft_dagster.launch.supervisor", description=__doc__)
    parser.add_argument(
        "--grace", type=float, default=45.0, help="seconds between the first signal and SIGTERM"
    )
    parser.add_argument("--kill-after", type=float, default=5.0, help="seconds between SIGTERM and SIGKILL")
    parser.add_argument("--marker", required=True, help="unique value of FT_DAGSTER_RUN in all its processes")
    parser.add_argument("command", nargs="+", metavar="COMMAND")
    given = parser.parse_args()
    supervisor = Supervisor(Parent(), given.marker, given.grace, given.kill_after)
    supervisor.prepare()
    try:
        main = _spawn(given.command, given.marker)
    except OSError as error:
        _say(f"cannot start {given.command[0]}: {error.strerror}")
        return 127
    return supervisor.attend(main)


if __name__ == "__main__":
    sys.exit(main())
