"""Remembers on this host what was found out about content once, by all that the answer depends on.

The memory is one file of the cache folder, of this user alone. To lose it costs time and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ft_dagster.provenance.digest import sha256_json
from ft_dagster.provenance.private_file import Memory

FILE = "findings.sqlite"
MEMORY = Memory(
    FILE, "CREATE TABLE IF NOT EXISTS findings (question TEXT PRIMARY KEY, answer TEXT) WITHOUT ROWID"
)
T = TypeVar("T")


def remembered(cache: Path | None, question: Mapping[str, Any], find: Callable[[], T]) -> T:
    """Return the answer to a question, plain JSON both; `find` is called where the answer is not remembered.
    Without a cache: each time. Raises what `find` raises, which is not remembered.
    """
    if cache is None:
        return find()
    asked = sha256_json(dict(question))
    known = _recall(cache, asked)
    if known is not None:
        answer: T = json.loads(known)
        return answer
    found = find()
    MEMORY.learn(cache, "INSERT OR REPLACE INTO findings VALUES (?, ?)", [(asked, json.dumps(found))])
    return found


def recalled(cache: Path, question: Mapping[str, Any]) -> Any:
    """Return the answer, where it is remembered; else None."""
    known = _recall(cache, sha256_json(dict(question)))
    return None if known is None else json.loads(known)


def _recall(cache: Path, asked: str) -> str | None:
    rows = MEMORY.recall(cache, "SELECT answer FROM findings WHERE question = ?", [(asked,)])
    return next((str(row[0]) for row in rows if row), None)
