"""Remembers small files of a remote store that never change on this host: releases and manifests.

So what a run asks for does not grow with what was made before it. Who recalls one does not take it for what
stands: entries are held against the log's head in the store, a manifest against its key; of an artifact that
was removed since, it says what it was. The memory is one file of the cache folder, of this user alone; what
it learned first goes first. To lose it costs requests and nothing else.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from ft_dagster.provenance.private_file import Memory

FILE = "recalled.sqlite"
MOST_BYTES = 256 * 2**20  # some 100,000 manifests
MEMORY = Memory(
    FILE,
    "CREATE TABLE IF NOT EXISTS files (store TEXT, path TEXT, content BLOB, PRIMARY KEY (store, path))",
)
FORGET = "DELETE FROM files WHERE rowid IN (SELECT rowid FROM files ORDER BY rowid LIMIT ?)"


def recall(cache: Path, store: str, paths: Sequence[str]) -> dict[str, bytes]:
    """Return what is remembered of the store at an address, content by path."""
    ask = "SELECT content FROM files WHERE store = ? AND path = ?"
    rows = MEMORY.recall(cache, ask, [(store, path) for path in paths])
    try:
        return {path: zlib.decompress(row[0]) for path, row in zip(paths, rows, strict=False) if row}
    except (zlib.error, TypeError):
        return {}


def remember(cache: Path, store: str, contents: Mapping[str, bytes]) -> None:
    rows = [(store, path, zlib.compress(content)) for path, content in contents.items()]
    MEMORY.learn(cache, "INSERT OR REPLACE INTO files VALUES (?, ?, ?)", rows, _make_room)


def _make_room(db: sqlite3.Connection) -> None:
    """Forget the older half where the memory is larger than it may be."""
    free, pages, size = (
        int(db.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("freelist_count", "page_count", "page_size")
    )
    if (pages - free) * size > MOST_BYTES:
        (rows,) = db.execute("SELECT count(*) FROM files").fetchone()
        db.execute(FORGET, (-(-rows // 2),))
