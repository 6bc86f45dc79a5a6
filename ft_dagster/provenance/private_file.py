"""Makes a file that this user alone may read and write, and a database in one."""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path


def make_private(file: Path) -> None:
    """Make the file, empty, where it is absent; and anew where others own it, may read or write it, or it is
    a link. Raises OSError.
    """
    with suppress(FileNotFoundError):
        found = file.lstat()
        if found.st_uid != os.getuid() or found.st_mode & 0o077 or file.is_symlink():
            file.unlink()
    os.close(os.open(file, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600))


def private_database(file: Path, table: str) -> sqlite3.Connection:
    """Open a database whose loss costs only time, with a table (CREATE TABLE IF NOT EXISTS ...); it is made
    where it is absent. Raises sqlite3.Error and OSError.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    make_private(file)
    db = sqlite3.connect(file, timeout=60)
    db.execute("PRAGMA synchronous = OFF")
    db.execute(table)
    return db
