"""Remembers the sha256 of files that rarely change, by what a copy cannot bring with it.

A file is known by device and inode, and its hash holds while size, modification and change time are the
same. `cp -p` and `touch` set the modification time; the change time is the kernel's alone. It counts in steps
of some milliseconds, so a file that changed a moment ago is hashed and not remembered.

The memory is one file of a cache folder, of this user alone. To lose it costs time and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ft_dagster.provenance.digest import sha256_file
from ft_dagster.provenance.private_file import Memory
from ft_dagster.provenance.stamp import Stamp

FILE = "digests.sqlite"
SETTLED_SECONDS = 2.0  # coarser than the clock of any file system that we know, FAT's apart
MEMORY = Memory(
    FILE,
    "CREATE TABLE IF NOT EXISTS digests (device INTEGER, inode INTEGER, size INTEGER, mtime_ns INTEGER, "
    "ctime_ns INTEGER, sha256 TEXT, PRIMARY KEY (device, inode)) WITHOUT ROWID",
)


def cached_sha256(path: Path, cache: Path | None, *, fresh: bool = False) -> str:
    """Return the sha256 of a file, in hex; `fresh` hashes it even if it looks unchanged. Without a cache:
    hashes.
    """
    return cached_digests([path], cache, fresh=fresh)[0]


def cached_digests(paths: Sequence[Path], cache: Path | None, *, fresh: bool = False) -> list[str]:
    """Return the sha256 of each file, in hex; see `cached_sha256`."""
    if cache is None:
        return [sha256_file(path) for path in paths]
    known = {} if fresh else _recall(cache, [_stamp(path) for path in paths])
    learned: dict[Stamp, str] = {}
    found = []
    for path in paths:
        stamp = _stamp(path)
        if stamp not in known:
            known[stamp] = _written_and_hashed(path)
            if _stamp(path) == stamp and time.time() - stamp.newest_ns / 1e9 > SETTLED_SECONDS:
                learned[stamp] = known[stamp]
        found.append(known[stamp])
    if learned:
        rows = [(*_as_stored(stamp), digest) for stamp, digest in learned.items()]
        MEMORY.learn(cache, "INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?, ?, ?)", rows)
    return found


def _stamp(path: Path) -> Stamp:
    return Stamp.of(path.stat())


def _written_and_hashed(path: Path) -> str:
    """Hash a file once no page of it is dirty: a write to it through a memory map then moves its times."""
    with path.open("rb") as file:
        with suppress(OSError):  # a file system that has nothing to write back
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _recall(cache: Path, stamps: Sequence[Stamp]) -> dict[Stamp, str]:
    ask = "SELECT sha256 FROM digests WHERE device=? AND inode=? AND size=? AND mtime_ns=? AND ctime_ns=?"
    rows = MEMORY.recall(cache, ask, map(_as_stored, stamps))
    return {stamp: str(row[0]) for stamp, row in zip(stamps, rows, strict=False) if row}


def _as_stored(stamp: Stamp) -> tuple[int, ...]:
    """Return the numbers as SQLite takes them: 64 bits with a sign."""
    return tuple(number - 2**64 if number >= 2**63 else number for number in stamp)
