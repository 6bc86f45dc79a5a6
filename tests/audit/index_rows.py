"""An index as somebody edits it by hand."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import numpy as np

from ft_dagster.audit.desk import index_folder
from ft_dagster.audit.index import FILE, MEMBER
from ft_dagster.settings import Settings


def edit_members(settings: Settings, change: Callable[[Any], Any]) -> None:
    """`change` takes some records of an artifact, an array of MEMBER, and returns what is to stand there."""
    with sqlite3.connect(index_folder(settings) / FILE) as db:
        rows = db.execute("SELECT place, records FROM members").fetchall()
        edited = [(change(np.frombuffer(records, MEMBER).copy()).tobytes(), at) for at, records in rows]
        db.executemany("UPDATE members SET records = ? WHERE place = ?", edited)
    assert [content for content, _ in edited] != [records for _, records in rows]
