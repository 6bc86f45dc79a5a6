"""Keeps copies of a remote store's artifacts on this host: `<cache>/<digest>/<attempt>`; the longest unused
go first.

Each has a lock file, `<cache>/locks/<digest>-<attempt>`: who uses the copy holds it, shared, for as long as
that lasts or until its process ends, however that ends, and it says when the copy was used last.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

_DIGEST = re.compile(r"[0-9a-f]{64}")
_HELD: dict[Path, TextIO] = {}  # by lock file, of this process
DRAFTS = "downloads"
DRAFT_SECONDS = 86_400.0  # after which a download is nobody's any more


def hold(cache: Path, digest: str, attempt: str) -> Path:
    """Return the folder of a copy, which stays while this process lives, and keep a file open for it. It
    waits while somebody removes the copy. Waits for who is removing it.
    """
    lock = _lock_of(cache, digest, attempt)
    if lock not in _HELD or not lock.exists():  # the cache may be removed by hand
        _HELD[lock] = _locked(lock)
    os.utime(lock)
    return cache / digest / attempt


@contextmanager
def held(cache: Path, digest: str, attempt: str) -> Iterator[Path]:
    """Yield the folder of a copy, which stays until this ends, whoever else holds it or lets go of it
    meanwhile. Waits for who is removing it.
    """
    lock = _lock_of(cache, digest, attempt)
    with _locked(lock):
        os.utime(lock)
        yield cache / digest / attempt


def release(cache: Path, digest: str, attempt: str) -> None:
    """Let go of a copy that this process held."""
    file = _HELD.pop(_lock_of(cache, digest, attempt), None)
    if file is not None:
        file.close()


def drop_copy(cache: Path, digest: str, attempt: str) -> None:
    """Remove a copy of what was erased; one that another process holds goes by `make_room` after it."""
    release(cache, digest, attempt)
    if (cache / digest / attempt).is_dir():
        _remove(cache, cache / digest / attempt)


def make_room(cache: Path, limit: float, needed: int) -> None:
    """Remove copies that nobody holds until `needed` more bytes fit into `limit`, or no such copy is left."""
    _drop_drafts(cache / DRAFTS)
    copies = sorted((_last_used(cache, folder), folder) for folder in _copies(cache))
    sizes = {folder: _size(folder) for _, folder in copies}
    total = sum(sizes.values()) + needed
    for _, folder in copies:
        if total <= limit:
            return
        if _remove(cache, folder):
            total -= sizes[folder]


def _remove(cache: Path, folder: Path) -> bool:
    """Remove a copy unless somebody holds it; say whether it went."""
    lock = _lock_of(cache, folder.parent.name, folder.name)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        gone = cache / DRAFTS / uuid.uuid4().hex  # in one step, so that nobody finds a half of it
        gone.parent.mkdir(exist_ok=True)
        try:
            folder.rename(gone)
        except FileNotFoundError:  # somebody else removed it
            return False
    shutil.rmtree(gone, ignore_errors=True)
    with suppress(OSError):
        folder.parent.rmdir()
    return True


def _locked(lock: Path) -> TextIO:
    lock.parent.mkdir(parents=True, exist_ok=True)
    file = lock.open("a")
    fcntl.flock(file, fcntl.LOCK_SH)
    return file


def _copies(cache: Path) -> Iterator[Path]:
    for digest in cache.iterdir() if cache.is_dir() else ():
        if _DIGEST.fullmatch(digest.name):
            with suppress(FileNotFoundError):
                yield from (each for each in digest.iterdir() if each.is_dir() and not each.is_symlink())


def _last_used(cache: Path, folder: Path) -> float:
    with suppress(FileNotFoundError):
        return _lock_of(cache, folder.parent.name, folder.name).stat().st_mtime
    return 0.0  # from before there were locks


def _lock_of(cache: Path, digest: str, attempt: str) -> Path:
    return cache / "locks" / f"{digest}-{attempt}"


def _size(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            size += 0 if path.is_dir() else path.lstat().st_size
    return size


def _drop_drafts(drafts: Path) -> None:
    """Remove what a killed download, or a killed removal, left."""
    for draft in drafts.iterdir() if drafts.is_dir() else ():
        with suppress(FileNotFoundError):
            if time.time() - draft.lstat().st_mtime > DRAFT_SECONDS:
                shutil.rmtree(draft) if draft.is_dir() else draft.unlink()
