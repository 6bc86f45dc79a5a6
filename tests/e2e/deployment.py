"""The processes of deploy/one-machine as systemd has them: those of a unit are started anew whenever it ends,
and whatever is left of it is killed before. Killed in a drill, one by one or all at once.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any, Generic, TypeVar

import psutil
import yaml

from ft_dagster.launch.warm.choice import FOLDER, PREFIX
from tests.e2e.fleet import Deployed
from tests.e2e.instance import BIN, free_port, wait_for_ui
from tests.postgres import PostgresServer

UNITS = Path(__file__).parents[2] / "deploy/one-machine"
RESTART_SECONDS = 0.1  # systemd's own
STOP_SECONDS = 90.0


Fleet = TypeVar("Fleet", bound=Deployed)


@dataclass
class Unit:
    """A service: what is started anew while it is wanted."""

    command: list[str]
    environment: dict[str, str]
    log: Path
    warm: str  # the folder of its own warm server, whose processes are no children of it
    starts: int = 0
    _wanted: Event = field(default_factory=Event)
    _process: psutil.Popen | None = None
    _keeper: Thread | None = None

    @classmethod
    def of(cls, file: Path, fleet: Deployed, places: dict[str, str]) -> Unit:
        """Read it, with the folders and the port of this fleet."""
        text = file.read_text("utf-8")
        for one, other in places.items():
            text = text.replace(one, other)
        lines = [line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#")]
        service = dict[str, Any](line for line in lines)
        assert (service["Restart"], service["KillMode"]) == ("always", "mixed")
        words = [word for name, value in lines if name == "Environment" for word in value.split()]
        given = dict[str, Any](word.split("=", 1) for word in words)
        outer = {name: value for name, value in fleet.environment.items() if not name.startswith(PREFIX)}
        warm = tempfile.mkdtemp(prefix="ft_dagster-warm-")
        own = {**outer, **given, FOLDER: warm}
        return cls(service["ExecStart"].split(), own, fleet.folder / f"{file.stem}.log", warm)

    @property
    def processes(self) -> list[psutil.Process]:
        """Return those that live, the main one first; its cgroup has those of a detached warm server too."""
        roots = [] if self._process is None else [self._process, *self._warm_servers()]
        found: list[psutil.Process] = []
        for root in roots:
            with suppress(psutil.NoSuchProcess):
                found += [root, *root.children(recursive=True)]
        return [*dict.fromkeys(found)]  # a program that has not begun yet looks like its server

    def _warm_servers(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if self.warm in process.cmdline():
                    found.append(process)
        return found

    def start(self) -> None:
        self._wanted.set()
        self._keeper = Thread(target=self._keep, daemon=True)
        self._keeper.start()

    def _keep(self) -> None:
        while self._wanted.is_set():
            with self.log.open("ab") as log:
                self._process = psutil.Popen(
                    self.command, env=self.environment, stdout=log, stderr=log, start_new_session=True
                )
            self.starts += 1
            self._process.wait()
            time.sleep(RESTART_SECONDS)

    def kill(self) -> None:
        """Kill the main process, then all that it had started, as systemd does, and as a power cut does."""
        for process in self.processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def stop(self) -> None:
        """End it for good."""
        self._wanted.clear()
        if self._process is not None:
            with suppress(psutil.NoSuchProcess):
                self._process.send_signal(signal.SIGTERM)
            with suppress(psutil.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
            self.kill()
        if self._keeper is not None:
            self._keeper.join(STOP_SECONDS)


@dataclass
class Deployment(Generic[Fleet]):
    """The units of a fleet on one machine. `postgres`: has its instance; None: files have."""

    fleet: Fleet
    daemon: Unit
    webserver: Unit
    port: int
    postgres: PostgresServer | None = None

    @classmethod
    def of(cls, fleet: Fleet, postgres: PostgresServer | None) -> Deployment[Fleet]:
        """Lay the files of deploy/one-machine into a fleet's Dagster home."""
        content = yaml.safe_load((UNITS / "dagster.yaml").read_text("utf-8"))
        (fleet.home / "dagster.yaml").write_text(yaml.safe_dump(content))
        if postgres is not None:
            fleet.keep_in(postgres.new_database())
        shutil.copy(UNITS / "workspace.yaml", fleet.home / "workspace.yaml")
        port = free_port()
        places = {"/opt/ft_dagster/bin": str(BIN), "/srv/ft_dagster": str(fleet.folder), "3000": str(port)}
        daemon, webserver = (
            Unit.of(UNITS / f"ft-dagster-{name}.service", fleet, places) for name in ("daemon", "webserver")
        )
        return cls(fleet, daemon, webserver, port, postgres)

    @contextmanager
    def running(self) -> Iterator[None]:
        units = (self.daemon, self.webserver)
        try:
            for unit in units:
                unit.start()
            yield
        finally:
            for unit in units:
                unit.stop()

    def wait_for_ui(self) -> None:
        wait_for_ui(self.port)

    def power_cut(self) -> None:
        """Kill all of it at once; each unit starts anew by itself, and Postgres with them."""
        if self.postgres is not None:
            self.postgres.crash()
        for unit in (self.daemon, self.webserver):
            unit.kill()
        if self.postgres is not None:
            self.postgres.start()
