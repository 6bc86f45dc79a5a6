"""The process from which programs are forked; the launcher starts it:

    python -P -m ft_dagster.launch.warm.server FOLDER IDENTITY IDLE_SECONDS IMPORTS ROOM

It takes FOLDER/IDENTITY.lock or leaves (exit 3), listens at FOLDER/IDENTITY.sock, and goes on as nobody's
child. Then it imports, touches FOLDER/IDENTITY.ready, and forks for each connection. It reads nothing that a
launcher says, so that no environment and no credential is ever in its memory: the forks do. It ends when it
is idle, when its socket is not at its path any more, and when a fork says that what it imported has changed.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from ft_dagster.launch import locks, processes
from ft_dagster.launch.warm import imports, job, wire
from ft_dagster.launch.warm.room import Room, find_room

LOOK_SECONDS = 2.0  # how often it looks whether its socket is still at its path


class Server:
    """One server; what a fork must not keep is closed by `leave`."""

    def __init__(self, folder: Path, identity: str, idle_seconds: float) -> None:
        self.folder = folder
        self.identity = identity
        self.idle_seconds = idle_seconds
        self.children: dict[int, int] = {}  # descriptor of a process -> its pid
        self.files: dict[str, tuple[int, int]] = {}
        self.room: Room | None = None
        self.stale = False

    def open(self) -> bool:
        """Listen; False where another serves. Raises OSError, wire.Broken."""
        directory = wire.open_folder(self.folder)
        lock = locks.lock(self._file("lock"), locks.EXCLUSIVE)
        if lock is None:
            return False
        self.lock = lock
        for kind in ("ready", "refused"):
            self._file(kind).unlink(missing_ok=True)
        self.listener = wire.new_socket()
        draft = f".{self.identity}.{os.getpid()}"
        self.listener.bind(wire.address(directory, draft))
        self.listener.listen(128)
        os.rename(draft, self._file("sock").name, src_dir_fd=directory, dst_dir_fd=directory)
        os.close(directory)
        self.own = self._file("sock").stat().st_ino
        return True

    def warm_up(self, names: tuple[str, ...]) -> None:
        """Import, and see that forks can be made. Raises CannotServe."""
        gc.disable()
        imports.import_all(names, own=(self.lock, self.listener.fileno()))
        self.files = imports.loaded_files()
        self.room = find_room()
        self._try_room()
        gc.collect()
        gc.freeze()  # a collection in a fork would copy every page that it looks at
        self._file("ready").touch()

    def serve(self) -> job.Asked | None:
        """Fork for each launcher. Returns in a program what it is asked, in the server None when it ends."""
        self.poll = select.poll()
        self.poll.register(self.listener, select.POLLIN)
        self.listener.setblocking(False)
        used = time.monotonic()
        while not self.stale:
            ready = [number for number, _ in self.poll.poll(LOOK_SECONDS * 1000)]
            for child in ready:
                if child in self.children:
                    self._reap(child)
            if self.listener.fileno() in ready:
                used = time.monotonic()
                asked = self._fork()
                if asked is not None:
                    return asked
            if self.children:
                used = time.monotonic()
            elif time.monotonic() - used > self.idle_seconds:
                return None
            if not self._is_at_its_path():
                return None
        return None

    def _fork(self) -> job.Asked | None:
        try:
            connection, _ = self.listener.accept()
        except OSError:  # it went away meanwhile
            return None
        if wire.peer(connection)[1] != os.getuid():
            connection.close()
            return None
        imports.require_forkable()
        pid = os.fork()
        if pid == 0:
            try:
                self.leave()
                return job.serve(connection, self._terms())
            except BaseException as error:
                self._log(f"a fork failed: {type(error).__name__}: {error}")
                os._exit(70)
        connection.close()
        child = os.pidfd_open(pid)
        self.children[child] = pid
        self.poll.register(child, select.POLLIN)
        return None

    def _terms(self) -> job.Terms:
        assert self.room is not None
        return job.Terms(self.identity, self.files, self.room, self.disown)

    def disown(self) -> None:
        """Let the next launcher start another server."""
        for kind in ("sock", "ready", "lock"):
            self._file(kind).unlink(missing_ok=True)

    def leave(self) -> None:
        """Close what belongs to the server, in a fork of it: a lock must not outlive the server."""
        self.listener.close()
        os.close(self.lock)
        for child in self.children:
            os.close(child)

    def refuse(self, reason: str) -> None:
        """Leave word for launchers, so that they start plainly at once."""
        self._log(reason)
        with suppress(OSError):
            self._file("refused").write_text(json.dumps({"reason": reason}))

    def close(self) -> None:
        """Take away what is still its own; a log that says something stays."""
        if self._is_at_its_path():
            self.disown()
            with suppress(OSError):
                if self._file("log").stat().st_size == 0:
                    self._file("log").unlink()

    def _reap(self, child: int) -> None:
        self.poll.unregister(child)
        os.close(child)
        _, status = os.waitpid(self.children.pop(child), 0)
        self.stale |= os.waitstatus_to_exitcode(status) == job.STALE

    def _try_room(self) -> None:
        """A fork that nobody can find by its marker could not be ended. Raises CannotServe."""
        if self.room is None:
            raise imports.CannotServe("there is no room for the environment of a fork")
        marker = f"try-{self.identity}-{os.getpid()}"
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            self.room.write(["try"], {processes.MARKER: marker})
            os.close(write)
            os.read(read, 1)
            os._exit(0)
        try:
            os.close(read)
            deadline = time.monotonic() + 10
            while pid not in [found.pid for found in processes.carriers(marker)]:
                if time.monotonic() > deadline:
                    raise imports.CannotServe("a fork is not found by its marker")
                time.sleep(0.01)
        finally:
            os.close(write)
            os.waitpid(pid, 0)

    def _is_at_its_path(self) -> bool:
        try:
            return self._file("sock").stat().st_ino == self.own
        except OSError:
            return False

    def _file(self, kind: str) -> Path:
        return self.folder / f"{self.identity}.{kind}"

    def _log(self, text: str) -> None:
        with suppress(OSError):
            print(f"warm start {self.identity}: {text}", file=sys.stderr, flush=True)


def main(arguments: list[str]) -> job.Asked | None:
    """Serve; returns in a forked program what it is to run."""
    folder, identity, idle_seconds, names = arguments[:4]
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    server = Server(Path(folder), identity, float(idle_seconds))
    if not server.open():
        sys.exit(wire.TAKEN)
    if os.fork() != 0:
        os._exit(0)  # the launcher need not wait for a child of it
    try:
        server.warm_up(tuple(json.loads(names)))
        asked = server.serve()
    except imports.CannotServe as error:
        server.refuse(str(error))
        asked = None
    if asked is None:
        server.close()
        os._exit(0)  # nothing that a library does on leaving is needed
    return asked


if __name__ == "__main__":
    asked = main(sys.argv[1:])
    if asked is not None:
        job.run(asked)
