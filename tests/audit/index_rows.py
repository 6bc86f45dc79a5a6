"""An index as somebody edits it by hand, or as an earlier version left it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np

from ft_dagster.audit.audit import index_folder
from ft_dagster.audit.index.index import MEMBER
from ft_dagster.audit.index.index_file import FILE
from ft_dagster.settings import Settings


def edit_members(settings: Settings, change: Callable[[Any], Any]) -> None:
    """`change` takes some records of an artifact, an array of MEMBER, and returns what is to stand there."""
    with sqlite3.connect(index_folder(settings) / FILE) as db:
        rows = db.execute("SELECT place, records FROM members").fetchall()
        edited = [(change(np.frombuffer(records, MEMBER).copy()).tobytes(), at) for at, records in rows]
        db.executemany("UPDATE members SET records = ? WHERE place = ?", edited)
    assert [content for content, _ in edited] != [records for _, records in rows]


def as_schema(settings: Settings, schema: int) -> None:
    """Let the index be as one of schema 5 to 8 was."""
    with closing(sqlite3.connect(index_folder(settings) / FILE)) as db, db:
        db.execute("DROP TABLE seen")
        if schema < 8:
            db.execute("ALTER TABLE artifacts DROP COLUMN removed")
        if schema < 7:
            for name in ("by_digest", "by_input", "by_input_within"):
                db.execute(f"DROP INDEX {name}")
            db.execute("ALTER TABLE inputs DROP COLUMN prefix")
            db.execute("CREATE INDEX by_digest ON artifacts (digest)")
            db.execute("CREATE INDEX by_input ON inputs (digest)")
        db.execute("UPDATE meta SET value = ? WHERE name = 'schema_version'", (str(schema),))
