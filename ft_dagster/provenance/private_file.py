"""Makes a file that this user alone may read and write, and a memory in one."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple


def make_private(file: Path) -> None:
    """Make the file, empty, where it is absent; and anew where others own it, may read or write it, or it is
    a link. Raises OSError.
    """
    with suppress(FileNotFoundError):
        found = file.lstat()
        if found.st_uid != os.getuid() or found.st_mode & 0o077 or file.is_symlink():
            file.unlink()
    os.close(os.open(file, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600))


class Memory(NamedTuple):
    """Is a database in a cache folder, of this user alone, whose loss costs only time. `table`: what makes
    its table (CREATE TABLE IF NOT EXISTS ...).
    """

    name: str
    table: str

    def recall(self, cache: Path, ask: str, keys: Iterable[Sequence[Any]]) -> list[Any]:
        """Return the row that is asked for by each key, None where there is none; none at all of a memory
        that cannot be read.
        """
        try:
            with closing(self._open(cache)) as db:
                return [db.execute(ask, key).fetchone() for key in keys]
        except (sqlite3.Error, OSError):
            return []

    def learn(
        self,
        cache: Path,
        tell: str,
        rows: Iterable[Sequence[Any]],
        forget: Callable[[Any], None] | None = None,
    ) -> None:
        """Keep rows; `forget` makes room after them. A memory that is no database is begun anew, one that
        cannot be written learns nothing.
        """
        try:
            with closing(self._open(cache)) as db, db:
                db.executemany(tell, rows)
                if forget is not None:
                    forget(db)
        except (sqlite3.OperationalError, OSError):
            pass
        except sqlite3.DatabaseError:
            (cache / self.name).unlink(missing_ok=True)

    def _open(self, cache: Path) -> sqlite3.Connection:
        """Open the memory, made where it is absent; one that others may write is made anew."""
        cache.mkdir(parents=True, exist_ok=True)
        make_private(cache / self.name)
        db = sqlite3.connect(cache / self.name, timeout=60)
        db.execute("PRAGMA synchronous = OFF")
        db.execute(self.table)
        return db
