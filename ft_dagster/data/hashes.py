"""sha256 of files that rarely change, remembered by (path, size, modification time)."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from ft_dagster.provenance.digest import sha256_file

TABLE = (
    "CREATE TABLE IF NOT EXISTS hashes "
    "(path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, sha256 TEXT) WITHOUT ROWID"
)


def cached_sha256(path: Path, cache: Path | None, *, fresh: bool = False) -> str:
    """sha256 of a file, in hex; `fresh` hashes it even if it looks unchanged. Without a cache: hashes."""
    if cache is None:
        return sha256_file(path)
    real = path.resolve()
    before = real.stat()
    stamp = (before.st_size, before.st_mtime_ns)
    cache.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(cache / "hashes.sqlite", timeout=60)) as db, db:
        db.execute(TABLE)
        row = db.execute("SELECT size, mtime_ns, sha256 FROM hashes WHERE path = ?", (str(real),)).fetchone()
        if row and tuple(row[:2]) == stamp and not fresh:
            return str(row[2])
    found = sha256_file(real)
    with closing(sqlite3.connect(cache / "hashes.sqlite", timeout=60)) as db, db:
        db.execute("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?, ?)", (str(real), *stamp, found))
    return found
