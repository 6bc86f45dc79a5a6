"""Runs Dagster's daemon for as long as somebody needs it: what the commands run and ui start in the
background.

    python -P -m ft_dagster.automation.processes.daemon_program LOCK [--runs-follow]

It is in a session of its own, so that neither a closed terminal nor a killed command ends it. It ends by
itself once no command lives and no run needs it. LOCK is the descriptor by which it holds the daemon's lock:
the command took the lock and left it to this process, so that an instance has one such daemon at any moment.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import yaml

import ft_dagster
from ft_dagster.automation.forked_runs import ASKED, NOW, ONCE_NEEDED
from ft_dagster.automation.processes.daemon import END_SECONDS, RUNS_FOLLOW, commands_lock
from ft_dagster.automation.processes.instance import WORKSPACE_YAML, opened, workspace_file
from ft_dagster.automation.processes.unfinished import UnfinishedWork, come_to_each_failure, work_left
from ft_dagster.dagster_private import (
    RELOAD_SECONDS,
    WorkspaceFileTarget,
    code_servers,
    daemon_threads,
    id_of,
)
from ft_dagster.errors import UserError
from ft_dagster.launch.local import make_ready
from ft_dagster.launch.locks import EXCLUSIVE, lock, unlock, write_json
from ft_dagster.launch.warm.choice import as_environment
from ft_dagster.launch.warm.imports import stamp
from ft_dagster.settings import FILE, Settings, load_settings

if TYPE_CHECKING:
    from ft_dagster.dagster_private import DagsterDaemonController

LOOK_SECONDS = 0.5  # how soon the death of the last command is seen; a look is one flock
CHECK_SECONDS = 5.0  # between two looks at Dagster's threads
WORK_SECONDS = 5.0  # between two questions to the instance, which are asked while no command lives
STUCK_SECONDS = 300.0  # waiting runs that nothing holds up and nobody takes
SERVER_SECONDS = 1800.0  # after which a code server is replaced in any case
BLIND_SECONDS = 60.0  # an instance that cannot be asked: its folder was removed, its disk is full

log = logging.getLogger("dagster.daemon.ft_dagster")


class Watch:
    """Decides when the daemon ends: looks for living commands and for runs that need it.

    `commands`: the commands' lock. Once it has decided, it holds that lock until this process is gone: a
    command that comes now waits for the next daemon.
    """

    def __init__(self, instance: dg.DagsterInstance, commands: Path) -> None:
        self._instance = instance
        self._commands = commands
        self._alone_since: float | None = None  # seconds since 1970, as runs are dated
        self._asked = self._answered = self._changed = time.monotonic()
        self._left = UnfinishedWork(frozenset(), frozenset())
        self._held: int | None = None

    def look(self) -> bool:
        """Say whether the daemon ends now."""
        asks = time.monotonic() - self._asked > WORK_SECONDS
        if asks:
            self._asked = time.monotonic()
        if not self._is_alone():
            self._alone_since = None
            return False
        first = self._alone_since is None
        if first:
            self._alone_since, self._changed = time.time(), time.monotonic()
        if not (first or asks) or not self._is_needless():
            return False
        self._held = self._lock_commands()
        if self._held is None:
            return False
        if not self._is_needless():  # a command came, submitted and died since the question
            unlock(self._held)
            return False
        log.info("no command lives and no run needs this daemon: it ends")
        return True

    def _is_alone(self) -> bool:
        """Say whether no command lives."""
        held = self._lock_commands()
        if held is not None:
            unlock(held)
        return held is not None

    def _lock_commands(self) -> int | None:
        try:
            return lock(self._commands, EXCLUSIVE)
        except FileNotFoundError:  # the instance's folder was removed: no command can hold anything in it
            return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _is_needless(self) -> bool:
        if not self._safely(self._ask):
            return time.monotonic() - self._answered > BLIND_SECONDS
        if self._left.active:
            return False
        return not self._left.waiting or time.monotonic() - self._changed > STUCK_SECONDS

    def _ask(self) -> None:
        left = work_left(self._instance, self._alone_since)
        if left != self._left:
            self._changed = time.monotonic()
        self._left = left

    def _safely(self, question: Callable[[], None]) -> bool:
        try:
            question()
        except Exception:
            log.warning("the instance cannot be asked", exc_info=True)
            return False
        self._answered = time.monotonic()
        return True


def serve(settings: Settings, held: int, *, runs_follow: bool = False) -> None:
    """Run Dagster's daemon until it is needless or interrupted. `held`: the daemon's lock. `runs_follow`: so
    that what these and their programs are forked from imports while Dagster starts.
    """
    with opened(settings.dagster_home.resolve()) as instance:
        come_to_each_failure(instance)
        watch = Watch(instance, commands_lock(settings))
        server = CodeServer(settings, runs_follow=runs_follow)
        if runs_follow:  # beside what follows: a server that is stuck must not keep Dagster
            made = threading.Thread(target=make_ready, args=(as_environment(settings.host),), daemon=True)
            made.start()
        try:
            workspace = WorkspaceFileTarget([str(workspace_file(settings))])
            with daemon_threads(instance, workspace) as controller:
                write_json(held, {"pid": os.getpid(), "id": id_of(controller)})
                _until_needless(controller, watch, server)
        except KeyboardInterrupt:
            log.info("interrupted: it ends")
        finally:
            instance.wipe_daemon_heartbeats()


class CodeServer:
    """Decides when Dagster is to start its code server anew. By itself it does so every minute, 3 CPU s each
    time: where the workspace is ours, whose code is known, only once that, libraries, settings or `.env`
    changed, and where it has ended or is old. To be made before the server is.
    """

    def __init__(self, settings: Settings, *, runs_follow: bool = False) -> None:
        here, workspace = settings.project, workspace_file(settings)
        packages = {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")}
        self._settings = settings
        self._workspace = workspace
        self._read = (workspace, here / FILE, here / ".env", Path.cwd() / ".env", *packages)
        self._seen = self._stamps()
        self._fresh = time.time()
        self._ask_for_forks(NOW if runs_follow else ONCE_NEEDED)

    def keep_fresh(self, controller: DagsterDaemonController) -> None:
        """Start the server anew where it is due; this is called now and then. Raises what Dagster raises
        where that fails for five minutes.
        """
        if time.time() - self._fresh <= RELOAD_SECONDS:
            return
        seen = self._stamps()
        if self._is_ours() and seen == self._seen and not self._is_worn(controller):
            self._fresh = time.time()
            return
        self._ask_for_forks()
        before, self._fresh = self._fresh, controller.check_workspace_freshness(self._fresh)
        if self._fresh != before:
            self._seen = seen

    def _stamps(self) -> dict[Path, tuple[int, int]]:
        """Return the stamps of the code's files; empty while files of the code come and go."""
        try:
            code = list(Path(ft_dagster.__file__).parent.rglob("*.py"))
        except OSError:
            return {}
        return {file: stamp(str(file)) for file in (*self._read, *code)}

    def _is_ours(self) -> bool:
        try:
            return bool(yaml.safe_load(self._workspace.read_text("utf-8")) == WORKSPACE_YAML)
        except (OSError, ValueError, yaml.YAMLError):
            return False

    def _is_worn(self, controller: DagsterDaemonController) -> bool:
        """Say whether a server has ended, could not be started, or is old: one that lives may serve no
        more.
        """
        return any(
            not server.lives or time.time() - server.started > SERVER_SECONDS
            for server in code_servers(controller)
        )

    def _ask_for_forks(self, when: str = ONCE_NEEDED) -> None:
        """Ask the next server, whose environment is this process's, for forks. Others' code may not be made
        for it.
        """
        with suppress(UserError):  # what the settings said last stands
            self._settings = load_settings(self._settings.project)
        os.environ.pop(ASKED, None)
        if self._settings.host.warm_start == "auto" and self._is_ours():
            os.environ[ASKED] = when


def _until_needless(controller: DagsterDaemonController, watch: Watch, server: CodeServer) -> None:
    """Run Dagster's own loop, left where nobody needs it; then the process ends, by force if it has to."""
    checked = time.monotonic()
    try:
        while not watch.look():
            time.sleep(LOOK_SECONDS)
            if time.monotonic() - checked > CHECK_SECONDS:
                controller.check_daemon_threads()
                server.keep_fresh(controller)
                checked = time.monotonic()
    finally:
        timer = threading.Timer(END_SECONDS, os._exit, [1])
        timer.daemon = True
        timer.start()


def main() -> None:
    held = int(sys.argv[1])
    os.set_inheritable(held, False)  # the lock is this process's alone
    write_json(held, {"pid": os.getpid()})
    # A shell's background job leaves SIGINT ignored; SIGTERM and SIGINT end this one in order.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    serve(load_settings(), held, runs_follow=RUNS_FOLLOW in sys.argv[2:])


if __name__ == "__main__":
    main()
