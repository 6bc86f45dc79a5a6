"""A real program under the real launcher and a real lease, disturbed at a chosen moment."""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from ft_dagster.launch.inventory import Device, Inventory
from ft_dagster.launch.leases import Ask, Leases
from ft_dagster.launch.local import Patience, run_program
from ft_dagster.launch.processes import carriers
from ft_dagster.launch.warm.choice import START
from ft_dagster.provenance.digest import hash_folder, payload_digest

GRACE, KILL_AFTER = 30.0, 1.0
AT_FILES = Path(__file__).parent / "at_files"


class MissedMoment(AssertionError):
    """A program ended before it was seen at a moment."""


class Cancelled(Exception):
    """What a cancel raises in the process that waits for the program."""


@dataclass
class DisturbedRun:
    """One run of `ft_dagster.<program>` in `run_folder`; its output goes to `output.log` there.

    `fresh`: by an interpreter of its own. `stop_file`, of a fresh one: a glob below `run_folder`; the program
    stops itself once a file matches it.
    """

    program: str
    run_folder: Path
    grace: float = GRACE
    fresh: bool = False
    stop_file: str = ""
    marker: str = field(default_factory=lambda: f"chaos-{uuid.uuid4().hex[:8]}")
    code: int | None = None
    cancelled: bool = False
    _main: psutil.Process | None = None

    def __post_init__(self) -> None:
        devices = (Device("0", None, "CPU slot"), Device("1", None, "CPU slot"))
        self.leases = Leases(self.run_folder.parent / "leases", Inventory("cpu", devices), poll_seconds=0.02)
        self._cancel = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        ask = Ask("acme.support", "acme", 1, 0, "chaos", self.marker)
        with self.leases.acquire(ask) as lease:
            try:
                self.code = run_program(
                    f"ft_dagster.{self.program}",
                    self.run_folder,
                    lease,
                    poll=self._raise_if_cancelled,
                    patience=Patience(self.grace, KILL_AFTER),
                    output=self.run_folder / "output.log",
                    marker=self.marker,
                    environment=self._environment() if self.fresh else None,
                )
            except Cancelled:
                self.cancelled = True

    def _environment(self) -> dict[str, str]:
        if not self.stop_file:
            return {START: "off"}
        at = str(self.run_folder / self.stop_file)
        stop = {"FT_STOP_AT": at, "FT_STOP_SAYS": str(self.stop_mark)}
        return {START: "off", "PYTHONPATH": str(AT_FILES), **stop}

    @property
    def stop_mark(self) -> Path:
        """The file that says that the program came to `stop_file`."""
        return self.run_folder / "stopped"

    def _raise_if_cancelled(self) -> None:
        if self._cancel.is_set():
            raise Cancelled

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    @property
    def said(self) -> str:
        return (self.run_folder / "output.log").read_text()

    def main(self) -> psutil.Process:
        """The program itself: the child of the supervisor."""
        if self._main is None:
            found: list[psutil.Process] = []

            def look() -> list[psutil.Process]:
                found.extend(self._without_parents())
                return found

            self.wait_for(look)
            self._main = found[0]
        return self._main

    def stop_at(self, moment: Callable[[], object]) -> None:
        """Wait for a moment and stop the program there, until it is resumed. Raises MissedMoment."""
        program = self.main()  # looked for before: it takes longer than some programs live after their moment
        self.wait_for(moment)
        with suppress(psutil.NoSuchProcess):
            program.suspend()
            if program.status() != psutil.STATUS_ZOMBIE:
                return
        raise MissedMoment(f"it ended at that moment:\n{self.said}")

    def ranks(self) -> list[psutil.Process]:
        """The processes that train, where they are not the program itself: by number. Each is a child of its
        watcher, which is one of torch's agent, the program; or of that where it was started plainly.
        """
        alive = {process.pid: process for process in carriers(self.marker)}

        def is_forked(process: psutil.Process) -> bool:
            watcher = alive.get(process.ppid())
            return watcher is not None and watcher.ppid() in alive

        with suppress(psutil.Error):  # one that ended meanwhile: asked again
            return [each for each in alive.values() if "RANK" in _environ(each) or is_forked(each)]
        return []

    def _without_parents(self) -> list[psutil.Process]:
        alive = carriers(self.marker)
        pids = {process.pid for process in alive}
        return [process for process in alive if process.ppid() not in pids]

    def wait_for(self, moment: Callable[[], object], seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not moment():
            if not self.running:
                raise MissedMoment(f"it ended before that moment:\n{self.said}")
            assert time.monotonic() < deadline, f"that moment did not come:\n{self.said}"
            time.sleep(0.0003)

    def cancel(self) -> None:
        self._cancel.set()

    def end(self, seconds: float = 120) -> int | None:
        """Wait for its end; the exit code, None where it was cancelled."""
        self._thread.join(seconds)
        assert not self.running, f"still running after {seconds} s"
        return self.code

    def assert_nothing_is_left(self) -> None:
        """A process that the kernel is taking apart gives its lock back last: that may take a moment."""
        assert carriers(self.marker) == []
        deadline = time.monotonic() + 60
        while {device.state for device in self.leases.table().devices} != {"free"}:
            assert time.monotonic() < deadline, "a lease is left"
            time.sleep(0.02)

    def rescue(self) -> None:
        """End it, whatever a failed test left."""
        for process in carriers(self.marker):
            process.kill()
        self._thread.join(60)


def kill(process: psutil.Process) -> None:
    process.send_signal(signal.SIGKILL)


def loaded(pid: int, library: str) -> bool:
    """Whether a process has mapped a file with that word in its path."""
    try:
        return library in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


def digest_of(payload: Path) -> str:
    return payload_digest(hash_folder(payload))


def _environ(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except (psutil.Error, OSError):
        return dict(os.environ) if process.pid == os.getpid() else {}


Admit = Callable[..., DisturbedRun]
