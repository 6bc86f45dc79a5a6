"""How often the same weights were put to new questions: `<prefix>/tries/<weights>/000001.json`, one a file.

Each draw of questions is another chance to pass what should not: the gate gives try k a smaller share of its
level. Tries are never changed or removed; the same questions keep their ordinal.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime

from ft_dagster.errors import UserError
from ft_dagster.store.blobs import Store


def try_of(store: Store, prefix: str, weights: str, questions: str) -> int:
    """The ordinal, from 1, that these questions (by their digest) have, or would have, among all that the
    weights (by theirs) were put to. Raises UserError for a record that cannot be read.
    """
    known = tries(store, prefix, weights)
    return (known.index(questions) if questions in known else len(known)) + 1


def record_try(store: Store, prefix: str, weights: str, questions: str, ordinal: int) -> None:
    """Record that the weights are put to these questions, before they are. Raises UserError where the ordinal
    is another set's.
    """
    at = datetime.now(UTC).isoformat(timespec="seconds")
    content = json.dumps({"schema_version": 1, "questions": questions, "at": at}, indent=1)
    store.create_exclusively(_path(prefix, weights, ordinal), content.encode())
    if tries(store, prefix, weights)[ordinal - 1 : ordinal] != [questions]:
        raise UserError(
            "another evaluation of the same weights began meanwhile",
            file=store.uri(_path(prefix, weights, ordinal)),
            fix="Run it again",
        )


def tries(store: Store, prefix: str, weights: str) -> list[str]:
    """The digest of each set of questions that these weights were put to, in order. Raises UserError."""
    found: list[str] = []
    while True:
        path = _path(prefix, weights, len(found) + 1)
        try:
            found.append(str(store.read_json(path)["questions"]))
        except FileNotFoundError:
            return found
        except (ValueError, KeyError, TypeError):
            fix = "Restore the file from a backup"
            raise UserError("not a record of an evaluation", file=store.uri(path), fix=fix) from None


def _path(prefix: str, weights: str, ordinal: int) -> str:
    return f"{prefix}/tries/{weights}/{ordinal:06d}.json"
