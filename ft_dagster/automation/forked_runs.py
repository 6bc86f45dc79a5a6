"""Runs forked from a process that has imported what each needs, in place of a Python from nothing for each.

Dagster's code server starts a run by multiprocessing's `spawn`: of its 13 CPU s on a small variant, 6 are
imports. Where the daemon that commands share asks for it (`ASKED`), a run is forked by multiprocessing's
`forkserver` instead: a process that the code server keeps, and that ends with it and its runs. It imports
libraries alone (`forked_imports`): what is this project's a run reads from disk. The code server starts,
cancels and misses such a run as any other; where none can be forked it is spawned.
"""

import logging
import multiprocessing
import os
import select
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from multiprocessing import forkserver, popen_forkserver
from multiprocessing.context import SpawnProcess
from typing import Any

from ft_dagster.launch.warm import fresh

ASKED = "FT_DAGSTER_FORK_RUNS"  # in the environment of a code server
IMPORTS = "ft_dagster.automation.forked_imports"
log = logging.getLogger(__name__)


def fork_runs(environment: MutableMapping[str, str]) -> bool:
    """Have this process, a code server, fork its runs from now on where `environment` asks for it; what it
    starts is not asked. Returns whether it does.
    """
    if environment.pop(ASKED, "") != "1" or sys.platform != "linux":
        return False
    forkserver.set_forkserver_preload([IMPORTS])
    context: Any = multiprocessing.get_context("spawn")  # the one that the code server has
    context.Process = RunProcess
    return True


class RunProcess(SpawnProcess):
    """Forked where that can be done."""

    can_fork = True

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
        super().run()


class _Forked(popen_forkserver.Popen):
    """A run that ends when its own process does, and not when the server that forked it is killed."""

    _process = -1

    def _launch(self, process_obj: Any) -> None:
        super()._launch(process_obj)  # type: ignore[misc]  # typeshed leaves it out
        with suppress(ProcessLookupError):  # it has ended, and the server as well
            self._process = os.pidfd_open(self.pid)

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        if self.returncode is None and self._process >= 0:
            asked = select.poll()
            asked.register(self._process, select.POLLIN)
            if not asked.poll(0 if flag == os.WNOHANG else None):
                return None
            os.close(self._process)
            self._process = -1
            return super().poll(0)  # the server says how it ended, if it lives
        return super().poll(flag)
