"""Opens the file of the index: its tables, and what of one of another version is kept.

All that is changed of a file that is there is changed in one transaction: what only the index knows, of
release logs and of evaluations that retention removed, is lost to no kill and no full disk.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.provenance.private_file import make_private

SCHEMA_VERSION = 9
FILE = "index.sqlite"
TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE owners (id INTEGER PRIMARY KEY, name TEXT UNIQUE, key TEXT);
CREATE TABLE artifacts (id INTEGER PRIMARY KEY, prefix TEXT, stage TEXT, key TEXT, generation INTEGER,
  digest TEXT, owner INTEGER, manifest TEXT, created TEXT, records INTEGER, problem TEXT, removed INTEGER,
  UNIQUE (prefix, stage, key, generation));
CREATE INDEX by_digest ON artifacts (digest, manifest);
CREATE INDEX unread ON artifacts (id) WHERE problem IS NOT NULL;
CREATE TABLE inputs (artifact INTEGER, name TEXT, digest TEXT, manifest TEXT, prefix TEXT,
  PRIMARY KEY (artifact, name)) WITHOUT ROWID;
CREATE INDEX by_input ON inputs (digest, manifest);
CREATE INDEX by_input_within ON inputs (digest, prefix);
CREATE TABLE members (place INTEGER PRIMARY KEY, records BLOB);
CREATE TABLE times (model INTEGER, chunk INTEGER, counts BLOB, PRIMARY KEY (model, chunk)) WITHOUT ROWID;
CREATE TABLE releases (prefix TEXT, number INTEGER, entry TEXT, sha256 TEXT, PRIMARY KEY (prefix, number))
  WITHOUT ROWID;
CREATE TABLE gone_releases (prefix TEXT, number INTEGER, entry TEXT, sha256 TEXT,
  PRIMARY KEY (prefix, number, sha256)) WITHOUT ROWID;
CREATE TABLE seen (path TEXT PRIMARY KEY, at TEXT, sha256 TEXT) WITHOUT ROWID;
"""
_OF_8 = "CREATE TABLE seen (path TEXT PRIMARY KEY, at TEXT, sha256 TEXT) WITHOUT ROWID;"
# By the schema before: what makes this one of it, rows and all.
_ALTERED = {8: _OF_8}
# Of (prefix, stage, key, generation, sha256 of the manifest) of some artifacts: whether a store has all.
Holds = Callable[[Sequence[tuple[Any, ...]]], bool]
ASKED_FOR = 20  # of these, the newest
CACHE_KIB = 65_536  # of SQLite's pages in memory


def open_file(folder: Path, store: str, holds: Holds = lambda known: False) -> sqlite3.Connection:
    """Open a connection to the index of a store, empty where there was none that could be used. One of an
    earlier version is altered, or made again with what it knows of release logs. One of a store at another
    address is kept where this store `holds` what it knows: the project was moved.

    Raises sqlite3.OperationalError, see `is_damage`; UserError where the file cannot be opened.
    """
    with _reachable():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    known: list[Any] = []
    try:
        return _opened(folder / FILE, store, known, holds)
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
    remove_index(folder)
    return _opened(folder / FILE, store, known, holds)


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Say whether the file itself is wrong. Where the disk is full, or others hold it, making it again would
    lose what it knows of release logs, and help nothing.
    """
    if not isinstance(error, sqlite3.OperationalError):
        return True
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return bool(code & 0xFF == sqlite3.SQLITE_ERROR)  # a table or a column that is not there


def remove_index(folder: Path) -> None:
    """Remove what is there of an index; it is made again when one is opened. Raises UserError."""
    with _reachable():
        for part in ("", "-wal", "-shm"):
            Path(f"{folder / FILE}{part}").unlink(missing_ok=True)


@contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        said = error.strerror or str(error)
        fix = "Look who owns it, and move away what is no file of ours; it is made again from the store"
        raise UserError(f"the index cannot be opened: {said}", file=error.filename, fix=fix) from None


def _opened(file: Path, store: str, known: list[Any], holds: Holds) -> sqlite3.Connection:
    """Open the file of an index. `known`: takes what one of another version knows of release logs."""
    with _reachable():
        make_private(file)  # one that others may write is not believed
    db = sqlite3.connect(file, timeout=600)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")  # a power cut may take what is new; it takes no more
        db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        db.execute("PRAGMA temp_store = FILE")
        _take_along(db, store, holds)
        schema = _schema_of(db, store)
        if schema in _ALTERED:
            known += _log_entries(db)
            _alter(db, _ALTERED[schema])
        elif schema != SCHEMA_VERSION:
            known += [] if schema is None else _log_entries(db)
            _make(db, store, known)
    except BaseException:
        db.close()  # before another file has its name: closing removes its log by name
        raise
    return db


def _schema_of(db: sqlite3.Connection, store: str) -> int | None:
    """Return the schema of an index; None of another store, and of a file that is no index."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
        return None
    meta = dict(db.execute("SELECT name, value FROM meta"))
    schema = str(meta.get("schema_version"))
    return int(schema) if meta.get("store") == store and schema.isdecimal() else None


def _take_along(db: sqlite3.Connection, store: str, holds: Holds) -> None:
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
        return
    meta = dict(db.execute("SELECT name, value FROM meta"))
    if meta.get("store") in (None, store) or meta.get("schema_version") != str(SCHEMA_VERSION):
        return
    columns = "prefix, stage, key, generation, manifest"
    known = db.execute(f"SELECT {columns} FROM artifacts ORDER BY created DESC LIMIT {ASKED_FOR}").fetchall()
    if known and holds(known):
        with db:
            db.execute("UPDATE meta SET value = ? WHERE name = 'store'", (store,))


def _alter(db: sqlite3.Connection, statements: str) -> None:
    with db:
        _run(db, ("BEGIN IMMEDIATE", *statements.split(";")))
        db.execute("UPDATE meta SET value = ? WHERE name = 'schema_version'", (str(SCHEMA_VERSION),))


def _make(db: sqlite3.Connection, store: str, known: Iterable[Any]) -> None:
    """Make the index in place of all that is there. `known`: of release logs; which of these entries are
    still there the logs say, once they are followed.
    """
    with db:
        db.execute("BEGIN IMMEDIATE")
        there = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        _run(db, (*(f'DROP TABLE "{name}"' for (name,) in there), *TABLES.split(";")))
        since = datetime.now(UTC).isoformat(timespec="seconds")
        made = [("schema_version", str(SCHEMA_VERSION)), ("store", store), ("since", since)]
        db.executemany("INSERT INTO meta VALUES (?, ?)", made)
        db.executemany("INSERT OR IGNORE INTO gone_releases VALUES (?, ?, ?, ?)", known)


def _run(db: sqlite3.Connection, statements: Iterable[str]) -> None:
    for statement in statements:
        db.execute(statement)


def _log_entries(db: sqlite3.Connection) -> list[Any]:
    """Return every entry of a release log that an index of another version knows."""
    found: list[Any] = []
    for table in ("releases", "gone_releases"):
        with suppress(sqlite3.DatabaseError):  # an older one has not both
            found += db.execute(f"SELECT prefix, number, entry, sha256 FROM {table}").fetchall()
    return found
