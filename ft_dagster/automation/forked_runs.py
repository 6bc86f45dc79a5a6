"""Runs forked from a process that has imported what each needs, in place of a Python from nothing for each.

Dagster's code server starts a run by multiprocessing's `spawn`: of its 13 CPU s on a small variant, 8 are
imports. Where the daemon of commands asks for it (`ASKED`), a run is forked by multiprocessing's `forkserver`
instead, by a process that the code server keeps, some 0.5 GB, and that ends with it and its runs. It imports
libraries, and of this project only what says which (`forked_imports`): a run reads the rest from disk. The
code server starts, cancels and misses such a run as any other; where none can be forked it is spawned.
"""

import atexit
import io
import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterable, MutableMapping
from contextlib import suppress
from multiprocessing import forkserver, popen_forkserver, reduction, spawn, util
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess, set_spawning_popen
from multiprocessing.process import BaseProcess
from typing import Any

from ft_dagster.launch.warm import fresh

ASKED = "FT_DAGSTER_FORK_RUNS"  # in the environment of a code server: one of these
NOW, ONCE_NEEDED = "now", "once needed"  # when the process that runs are forked from is started
IMPORTS = "ft_dagster.automation.forked_imports"
PATIENCE = 20.0  # seconds for a fork, imports among them the first time; Dagster gives the whole start 60
UNKNOWN = 255  # the exit code of a run whose fork server was killed, as multiprocessing gives it
log = logging.getLogger(__name__)


def fork_runs(environment: MutableMapping[str, str]) -> bool:
    """Have this process, a code server, fork its runs from now on where `environment` asks for it; what it
    starts is not asked. Returns whether it does.
    """
    asked = environment.pop(ASKED, "")
    if asked not in {NOW, ONCE_NEEDED} or not _can_fork(environment):
        return False
    forkserver.set_forkserver_preload([IMPORTS])
    context: Any = multiprocessing.get_context("spawn")  # the one that the code server has
    context.Process = RunProcess
    if asked == NOW:
        with suppress(OSError):  # the first run finds out
            forkserver.ensure_running()
    return True


def _can_fork(environment: MutableMapping[str, str]) -> bool:
    """Whether this Python and kernel have what forking takes, and the numbers of threads can be read."""
    try:
        os.close(os.pidfd_open(os.getpid()))
        for api in ("blas", "openmp"):
            fresh.threads_of(environment, api)
    except (AttributeError, OSError, ValueError):
        return False
    return sys.platform == "linux"


class RunProcess(SpawnProcess):
    """Forked where that can be done."""

    can_fork = True
    _after_fork = staticmethod(BaseProcess._after_fork)  # type: ignore[attr-defined]  # typeshed lacks it

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        if RunProcess.can_fork:
            try:
                return _Forked(process_obj)
            except (OSError, EOFError) as error:
                RunProcess.can_fork = False
                log.warning("runs are not forked: %s", error or type(error).__name__)
        return SpawnProcess._Popen(process_obj)

    def run(self) -> None:
        fresh.nothing_shared()
        fresh.set_threads(os.environ)
        try:
            super().run()
        finally:
            atexit._run_exitfuncs()  # a fork of multiprocessing ends without


class _Forked(popen_forkserver.Popen):
    """A run that is told what to do once its pid is known: until then it can be given up and spawned. It ends
    when its own process does, and not when the server that forked it is killed.

    Raises OSError, EOFError: nothing was started.
    """

    _fds: list[int]

    def _launch(self, process_obj: Any) -> None:
        told = io.BytesIO()
        set_spawning_popen(self)
        try:
            reduction.dump(spawn.get_preparation_data(process_obj._name), told)
            reduction.dump(process_obj, told)
        finally:
            set_spawning_popen(None)
        self._ending = threading.Lock()
        self._status, sender = forkserver.connect_to_new_process(self._fds)
        ours = [os.dup(sender), self._status]  # by the first the run sees that this process lives
        try:
            with open(sender, "wb") as run:
                if not wait([self._status], PATIENCE):
                    raise TimeoutError(f"none was forked in {PATIENCE:.0f} s")
                self.pid = forkserver.read_signed(self._status)
                self.sentinel = os.pidfd_open(self.pid)
                ours.append(self.sentinel)
                run.write(told.getbuffer())
        except BaseException:
            _close(ours)
            raise
        self.finalizer = util.Finalize(self, _close, (ours,))

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        if self.returncode is None and wait([self.sentinel], 0 if flag == os.WNOHANG else None):
            with self._ending:  # Dagster asks from several threads
                if self.returncode is None:
                    self.returncode = self._code()
        return self.returncode

    def _code(self) -> int:
        try:
            return forkserver.read_signed(self._status)
        except (OSError, EOFError):
            return UNKNOWN


def _close(descriptors: Iterable[int]) -> None:
    for each in descriptors:
        os.close(each)
