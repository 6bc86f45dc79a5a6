"""How launcher and server speak: JSON and descriptors, a message each, over a socket of this user alone."""

from __future__ import annotations

import json
import os
import socket
import stat
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

MESSAGE_BYTES = 1 << 20
DESCRIPTORS = 8
TAKEN = 3  # the exit code of a server where another one serves


class Broken(Exception):
    """The other side is gone, of another user, too slow, or says what nobody understands."""


class Late(Broken):
    """The other side said nothing in time."""


def open_folder(folder: Path) -> int:
    """A descriptor of the folder, made where it is absent, of this user alone. Raises Broken, OSError."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    found = os.fstat(descriptor)
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        os.close(descriptor)
        raise Broken(f"{folder} is not this user's alone")
    return descriptor


def address(folder: int, name: str) -> str:
    """Of a socket in an open folder: its path could be longer than a socket's address may be."""
    return f"/proc/self/fd/{folder}/{name}"


def new_socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def peer(connection: socket.socket) -> tuple[int, int]:
    """(pid, uid) of the other side."""
    size = struct.calcsize("3i")
    pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return pid, uid


def send(connection: socket.socket, content: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Raises Broken, also where the message is too long."""
    data = json.dumps(content).encode()
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE_BYTES)
        if socket.send_fds(connection, [data], list(descriptors)) != len(data):
            raise Broken("a message was cut off")
    except OSError as error:
        raise Broken(str(error)) from error


def receive(connection: socket.socket, seconds: float | None) -> tuple[dict[str, Any], list[int]]:
    """A message and its descriptors, which the caller closes. Raises Broken."""
    connection.settimeout(seconds)
    try:
        data, descriptors, flags, _ = socket.recv_fds(connection, MESSAGE_BYTES, DESCRIPTORS)
    except TimeoutError as error:
        raise Late(f"no word in {seconds} s") from error
    except OSError as error:
        raise Broken(str(error) or type(error).__name__) from error
    try:
        if not data:
            raise Broken("the other side is gone")
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise Broken("a message was cut off")
        content = json.loads(data)
        if not isinstance(content, dict):
            raise Broken("a message is no object")
    except (Broken, ValueError) as error:
        for descriptor in descriptors:
            os.close(descriptor)
        raise Broken(str(error)) from error
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return content, descriptors
