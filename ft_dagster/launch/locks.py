"""flock on small JSON files: what leases are made of.

Such a lock belongs to an open file, so the kernel drops it when the last process that has the file open ends,
however it ends: no clock, no pid and no clean-up is part of its truth.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ft_dagster.strict_json import dumps

EXCLUSIVE = fcntl.LOCK_EX
SHARED = fcntl.LOCK_SH


def lock(path: Path, mode: int, *, create: bool = True) -> int | None:
    """Lock `path` now or not at all: its open descriptor, or None where another process forbids it.

    Raises OSError, FileNotFoundError among it where `create` is off.
    """
    while True:
        descriptor = _open(path, create)
        try:
            fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
            locked = True
        except BlockingIOError:
            locked = False
        except BaseException:
            os.close(descriptor)
            raise
        if locked and is_at(descriptor, path):
            return descriptor
        os.close(descriptor)
        if not locked:
            return None
        # Someone removed the file between our opening and locking it: its lock would protect nothing.


@contextmanager
def locked(path: Path, patience: float) -> Iterator[int]:
    """Hold `path` exclusively. Raises TimeoutError after `patience` seconds."""
    deadline = time.monotonic() + patience
    while (descriptor := lock(path, EXCLUSIVE)) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(path)
        time.sleep(0.002)
    try:
        yield descriptor
    finally:
        unlock(descriptor)


def share(descriptor: int) -> None:
    """Turn an exclusive lock into a shared one."""
    fcntl.flock(descriptor, fcntl.LOCK_SH)


def unlock(descriptor: int) -> None:
    """Give a lock back, also where a forked child still has the descriptor, and close it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is the one that is at `path` now."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def read_json(descriptor: int) -> dict[str, object]:
    """The file's object; empty where it holds none (new, or its writer died)."""
    try:
        value = json.loads(os.pread(descriptor, 1 << 20, 0))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def write_json(descriptor: int, value: dict[str, object]) -> None:
    """Replace the file's content. Raises OSError where the disk is full."""
    content = (dumps(value, indent=1) + "\n").encode()
    if os.pwrite(descriptor, content, 0) != len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.ftruncate(descriptor, len(content))


def _open(path: Path, create: bool) -> int:
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        if not create:
            raise
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _open(path, create)
    # A folder that several users may write to holds files that they may write to.
    os.fchmod(descriptor, path.parent.stat().st_mode & 0o666)
    return descriptor
