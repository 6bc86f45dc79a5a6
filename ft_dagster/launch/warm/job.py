"""What a fork of the server does: it reads what is asked, becomes the supervisor, and forks the program."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NoReturn

from ft_dagster.launch import processes
from ft_dagster.launch.supervisor import Supervisor, environment_of
from ft_dagster.launch.warm import forked, fresh, wire
from ft_dagster.launch.warm.imports import changed
from ft_dagster.launch.warm.room import Room
from ft_dagster.program import leave

PATIENCE = 10.0  # seconds for a launcher to say what it wants, and that it still wants it
STALE = 77  # the exit code by which a fork tells the server that it serves what is no longer on disk
OUTPUT, ERROR, FOLDER, LAUNCHER = range(4)  # the order of the descriptors of a request


class Refused(Exception):
    """Why this server does not serve that launcher."""


@dataclass(frozen=True)
class Asked:
    """`supervisor`: the command that a plain start would run, `program` the part of it that it supervises."""

    identity: str
    module: str
    argument: str
    marker: str
    grace: float
    kill_after: float
    supervisor: list[str]
    program: list[str]
    surroundings: fresh.Surroundings


def read(content: dict[str, Any]) -> Asked:
    """Raises KeyError, TypeError, ValueError."""
    plain = {name: content[name] for name in Asked.__annotations__ if name != "surroundings"}
    return Asked(**plain, surroundings=fresh.Surroundings.from_json(content["surroundings"]))


@dataclass(frozen=True)
class WaitingLauncher:
    """A launcher at the other end of a connection; its process, whoever has inherited the connection."""

    connection: socket.socket
    process: int

    @property
    def descriptors(self) -> tuple[int, ...]:
        return (self.connection.fileno(), self.process)

    def gone(self, ready: Collection[int]) -> bool:
        return self.process in ready or (self.connection.fileno() in ready and self._ended())

    def _ended(self) -> bool:
        try:
            return self.connection.recv(4096, socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True


@dataclass(frozen=True)
class Terms:
    """What a server gives its forks: its name, what it was read from, room, and how to have it replaced."""

    identity: str
    files: dict[str, tuple[int, int]]
    room: Room
    disown: Callable[[], None]


def serve(connection: socket.socket, terms: Terms) -> Asked:
    """Do what the launcher asks. Returns in the program alone; a supervisor leaves with its exit code."""
    try:
        asked, launcher = _agree(connection, terms)
    except Refused as refused:
        _refuse(connection, terms, str(refused))
    room = terms.room
    supervisor = Supervisor(launcher, asked.marker, asked.grace, asked.kill_after)
    supervisor.prepare()
    environment = environment_of(asked.marker)
    own = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    program = os.fork()
    if program == 0:
        connection.close()
        _become_findable(own, room, asked.program, environment)
        os.environ.update({name: environment[name] for name in (processes.MARKER, processes.SUPERVISOR)})
        return asked
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    code = supervisor.attend(program)
    with suppress(wire.Broken):  # the launcher is gone
        wire.send(connection, {"code": code})
    os._exit(code)


def _become_findable(supervisor: int, room: Room, command: list[str], environment: dict[str, str]) -> None:
    """A program ends with its supervisor until it can be found by its marker."""
    processes.die_with_parent()
    room.write(command, environment)
    if os.getppid() != supervisor:
        os._exit(1)
    processes.outlive_parent()


def _refuse(connection: socket.socket, terms: Terms, reason: str) -> NoReturn:
    stale = changed(terms.files) is not None
    if stale:
        terms.disown()
    with suppress(wire.Broken):
        wire.send(connection, {"refused": reason, "stale": stale})
    os._exit(STALE if stale else 0)


def _agree(connection: socket.socket, terms: Terms) -> tuple[Asked, WaitingLauncher]:
    """Take over what the launcher has, and wait for its word. Raises Refused."""
    try:
        content, descriptors = wire.receive(connection, PATIENCE)
        asked = read(content)
        if asked.identity != terms.identity or len(descriptors) != LAUNCHER + 1:
            raise Refused("it asks another server")
        if file := changed(terms.files):
            raise Refused(f"{file} has changed since the server was started")
        for api in ("blas", "openmp"):
            fresh.threads_of(asked.surroundings.environment, api)
        os.setsid()
        fresh.take(asked.surroundings, descriptors[FOLDER])
        _take_streams(descriptors[OUTPUT], descriptors[ERROR])
        for number in (OUTPUT, ERROR, FOLDER):
            os.close(descriptors[number])
        fresh.default_signals()
        terms.room.write(asked.supervisor, os.environ)
        own = os.pidfd_open(os.getpid())
        wire.send(connection, {"ready": os.getpid()}, [own])
        os.close(own)
        go, _ = wire.receive(connection, PATIENCE)
        if "go" not in go:
            raise Refused("it changed its mind")
        connection.settimeout(None)
        return asked, WaitingLauncher(connection, descriptors[LAUNCHER])
    except wire.Broken:
        os._exit(0)
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise Refused(f"{type(error).__name__}: {error}") from error


def _take_streams(output: int, error: int) -> None:
    os.dup2(output, 1)
    os.dup2(error, 2)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def run(asked: Asked) -> NoReturn:
    """The program itself, in its own process: as `python -P -m module argument`."""
    import runpy

    os.closerange(3, _most_open() + 1)
    fresh.default_signals()
    fresh.start_anew()
    fresh.set_threads(os.environ)
    forked.command = asked.program
    sys.orig_argv = list(asked.program)
    sys.argv = ["-m", asked.argument]
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__annotations__ = {}
    try:
        runpy._run_module_as_main(asked.module)  # type: ignore[attr-defined]  # what `python -m` itself calls
    except SystemExit as ended:
        leave(ended.code)
    leave(None)


def _most_open() -> int:
    return max(int(name) for name in os.listdir("/proc/self/fd"))
