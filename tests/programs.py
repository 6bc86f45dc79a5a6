"""A program of this package as the local launcher starts it, shown as `subprocess.Popen` shows one."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

import psutil

from ft_dagster.launch import processes
from ft_dagster.launch.local import start_program


class RunningProgram:
    """`python -m ft_dagster.PROGRAM RUN_FOLDER` under its supervisor, forked by the suite's warm server.

    `pid` and signals are those of the program itself. A program that a signal ends has 128 + that signal as
    its return code.
    """

    def __init__(self, program: str, run_folder: Path, **environment: str) -> None:
        self._marker = f"test-{uuid.uuid4().hex}"
        self._said = Path(tempfile.mkstemp(prefix="said-")[1])
        self._program = start_program(
            f"ft_dagster.{program}",
            run_folder,
            environment={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            output=self._said,
            marker=self._marker,
        )
        self.returncode: int | None = None
        self._process = self._find()

    @property
    def pid(self) -> int:
        assert self._process is not None, self._said.read_text()
        return self._process.pid

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._program.wait(0)
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Wait for its end: all that it said, twice, since both streams are one.

        Raises subprocess.TimeoutExpired.
        """
        if self.returncode is None:
            self.returncode = self._program.wait(timeout)
            if self.returncode is None:
                self._program.cancel()
                raise subprocess.TimeoutExpired(self._marker, timeout, self._said.read_bytes())
            self._program.close()
        said = self._said.read_text("utf-8", "replace")
        return said, said

    def wait(self, timeout: float = 300) -> int:
        self.communicate(timeout)
        assert self.returncode is not None
        return self.returncode

    def _find(self) -> psutil.Process | None:
        """None where it ended at once."""
        while self.poll() is None:
            found = [each for each in processes.carriers(self._marker) if not _is_supervisor(each)]
            pids = {each.pid for each in found}
            for each in found:
                if _parent(each) not in pids:
                    return each
            time.sleep(0.01)
        return None


def _is_supervisor(process: psutil.Process) -> bool:
    try:
        return "ft_dagster.launch.supervisor" in process.cmdline()
    except psutil.Error:
        return True


def _parent(process: psutil.Process) -> int:
    try:
        return process.ppid()
    except psutil.Error:
        return 0
