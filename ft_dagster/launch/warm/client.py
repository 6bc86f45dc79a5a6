"""Ask the server for a program; start the server where there is none."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ft_dagster.launch.warm import fresh, imports, room, wire, world
from ft_dagster.launch.warm.choice import WarmStart, of_environment

WARM_PATIENCE = 10.0  # seconds for an answer of a server that is ready
COLD_PATIENCE = 120.0  # and of one that still imports
REFUSAL_SECONDS = 600.0  # how long the word of a server counts that it cannot serve
BINDING_SECONDS = 5.0  # a server that has the lock listens within milliseconds
log = logging.getLogger(__name__)


class NoWarmStart(Exception):
    """Why the plain start has to do; `again`: another server may serve."""

    def __init__(self, reason: str, *, again: bool = False) -> None:
        super().__init__(reason)
        self.again = again


@dataclass(frozen=True)
class Wanted:
    """A program and its supervisor; both commands as a plain start would run them."""

    module: str
    argument: str
    marker: str
    grace: float
    kill_after: float
    supervisor: list[str]
    program: list[str]
    environment: dict[str, str]


class WarmSupervisor:
    """A supervisor that is no child of ours, as `subprocess.Popen` shows one that is.

    Its end is read from the kernel, by a descriptor that is of this process and never of another that got its
    pid; its exit code from itself. One that ends without a word was killed.
    """

    def __init__(self, connection: socket.socket, process: int, pid: int) -> None:
        self._connection = connection
        self._process = process
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._process, select.POLLIN)
            if not poll.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired("a supervisor", timeout or 0)
            self.returncode = self._code()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """From now on it takes us for gone."""
        self._connection.close()
        if self._process >= 0:
            os.close(self._process)
            self._process = -1

    def _code(self) -> int:
        try:
            content, _ = wire.receive(self._connection, 1.0)
            return int(content["code"])
        except (wire.Broken, KeyError, TypeError, ValueError):
            return -signal.SIGKILL


def start_warm(wanted: Wanted, output: int | None = None) -> WarmSupervisor | None:
    """A supervisor that runs the program, or None, with the reason logged: start it plainly.

    What it says goes where this process' own output goes, or all of it to the descriptor `output`.
    """
    choice = of_environment(wanted.environment)
    if not choice.on or sys.platform != "linux":
        return None
    streams = (1, 2) if output is None else (output, output)
    try:
        try:
            return _ask(wanted, choice, streams)
        except NoWarmStart as refused:
            if not refused.again:
                raise
            log.info("warm start: %s; another server is asked", refused)
            return _ask(wanted, choice, streams, last=True)
    except Exception as error:  # whatever it is: a plain start has none of it
        log.info("plain start: %s", str(error) or type(error).__name__)
        return None


def start_server(environment: Mapping[str, str]) -> None:
    """Have a server of programs with this environment import what it serves, while other things are done."""
    choice = of_environment(environment)
    if not choice.on or sys.platform != "linux":
        return
    try:
        names = imports.chosen(choice.imports)
        _Server(choice, world.identity(environment, names), names, environment).connect().close()
    except Exception as error:  # a program asks for one itself
        log.info("no warm server: %s", str(error) or type(error).__name__)


def _ask(
    wanted: Wanted, choice: WarmStart, streams: tuple[int, int], *, last: bool = False
) -> WarmSupervisor:
    names = imports.chosen(choice.imports)
    server = _Server(choice, world.identity(wanted.environment, names), names, wanted.environment)
    connection = server.connect()
    process = -1
    try:
        if wire.peer(connection)[1] != os.getuid():
            raise NoWarmStart("another user listens there")
        _send_request(connection, wanted, server.identity, streams)
        process, pid = _answer(connection, server, last)
        wire.send(connection, {"go": True})  # until here nothing was started, and a plain start may follow
    except BaseException:
        connection.close()
        if process >= 0:
            os.close(process)
        raise
    return WarmSupervisor(connection, process, pid)


def _send_request(connection: socket.socket, wanted: Wanted, identity: str, streams: tuple[int, int]) -> None:
    folder = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    this = os.pidfd_open(os.getpid())
    try:
        wire.send(connection, _request(wanted, identity), [*streams, folder, this])
    finally:
        os.close(folder)
        os.close(this)


def _answer(connection: socket.socket, server: _Server, last: bool) -> tuple[int, int]:
    """The supervisor as (descriptor, pid). Raises NoWarmStart."""
    patience = WARM_PATIENCE if server.is_ready() else COLD_PATIENCE
    try:
        content, descriptors = wire.receive(connection, patience)
    except wire.Late as error:
        server.disown()
        raise NoWarmStart(f"the server is stuck: {error}") from error
    except wire.Broken as error:
        if last and not server.is_ready():
            server.refuse("it ended twice before it was ready")
        raise NoWarmStart(f"the server is gone: {error}", again=True) from error
    if "refused" in content or len(descriptors) != 1:
        raise NoWarmStart(str(content.get("refused")), again=bool(content.get("stale")))
    return descriptors[0], int(content["ready"])


def _request(wanted: Wanted, identity: str) -> dict[str, object]:
    plain = {name: value for name, value in vars(wanted).items() if name != "environment"}
    given = fresh.surroundings(wanted.environment)
    return {"identity": identity, **plain, "surroundings": vars(given)}


class _Server:
    """The server of one identity, running or not."""

    def __init__(
        self, choice: WarmStart, identity: str, names: tuple[str, ...], environment: Mapping[str, str]
    ) -> None:
        self.choice = choice
        self.identity = identity
        self.names = names
        self.environment = environment

    def connect(self) -> socket.socket:
        """To the server, started where there is none. Raises NoWarmStart, wire.Broken, OSError."""
        directory = wire.open_folder(self.choice.folder)
        try:
            deadline = time.monotonic() + BINDING_SECONDS
            while True:
                self._heed_refusal()
                if connection := self._try(directory):
                    return connection
                if time.monotonic() > deadline:
                    raise NoWarmStart("no server came up")
                if self._start() == wire.TAKEN:  # by one that is about to listen, or about to end
                    time.sleep(0.05)
        finally:
            os.close(directory)

    def is_ready(self) -> bool:
        return self._file("ready").exists()

    def refuse(self, reason: str) -> None:
        """Leave word for launchers in place of a server that could not."""
        with suppress(FileExistsError), self._file("refused").open("x") as file:
            json.dump({"reason": reason}, file)

    def disown(self) -> None:
        """Let the next launcher start another; this one ends once it sees that its socket is gone."""
        for kind in ("sock", "ready", "lock"):
            self._file(kind).unlink(missing_ok=True)

    def _try(self, directory: int) -> socket.socket | None:
        connection = wire.new_socket()
        connection.settimeout(WARM_PATIENCE)
        try:
            connection.connect(wire.address(directory, self._file("sock").name))
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            return None
        except BaseException:
            connection.close()
            raise
        return connection

    def _start(self) -> int:
        """Its exit code, once it listens or has left: 0, or TAKEN. Raises NoWarmStart, OSError."""
        kept = world.kept(self.environment)
        environment = {**kept, **world.GIVEN, **imports.environment_for_imports(kept), **room.variable()}
        command = [sys.executable, "-P", "-m", "ft_dagster.launch.warm.server", str(self.choice.folder)]
        options = [self.identity, str(self.choice.idle_seconds), json.dumps(self.names), room.argument()]
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        said = os.open(self._file("log"), flags, 0o600)
        try:
            code = subprocess.run(
                [*command, *options],
                env=environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
                timeout=COLD_PATIENCE,
                check=False,
            ).returncode
        finally:
            os.close(said)
        if code not in (0, wire.TAKEN):
            raise NoWarmStart(f"the server did not start (exit code {code}): see {self._file('log')}")
        return code

    def _heed_refusal(self) -> None:
        """Raises NoWarmStart where a server of late said that it cannot serve."""
        file = self._file("refused")
        try:
            if time.time() - file.stat().st_mtime < REFUSAL_SECONDS:
                raise NoWarmStart(str(json.loads(file.read_text())["reason"]))
        except (FileNotFoundError, KeyError, TypeError):
            return

    def _file(self, kind: str) -> Path:
        return self.choice.folder / f"{self.identity}.{kind}"
