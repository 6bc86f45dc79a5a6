"""Counts how often the same weights were put to new questions: `<prefix>/tries/<weights>/000001.json`, one a
file.

Each draw of questions is another chance to pass what should not: the gate gives try k a smaller share of its
level. Tries are never changed or removed; the same questions keep their ordinal.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import PurePosixPath

from ft_dagster.errors import UserError
from ft_dagster.lineage.graph import made_in
from ft_dagster.stage_entries import EVALUATION, FINE_TUNED_MODEL
from ft_dagster.store.blobs import Store

RESTORE = "Restore the folder from a backup"


def try_of(store: Store, prefix: str, weights: str, questions: str) -> int:
    """Return the ordinal, from 1, that these questions (by their digest) have, or would have, among all that
    the weights (by theirs) were put to. Raises UserError for a record that cannot be read.
    """
    known = tries(store, prefix, weights)
    return (known.index(questions) if questions in known else len(known)) + 1


def record_try(store: Store, prefix: str, weights: str, questions: str, ordinal: int) -> None:
    """Record that the weights are put to these questions, before they are. Raises UserError where the ordinal
    is another set's, and where an evaluation of the weights stands whose own record is gone.
    """
    refuse_unrecorded(store, prefix, weights, _evaluated(store, prefix, weights))
    at = datetime.now(UTC).isoformat(timespec="seconds")
    content = json.dumps({"schema_version": 1, "questions": questions, "at": at}, indent=1)
    store.create_exclusively(_path(prefix, weights, ordinal), content.encode())
    if tries(store, prefix, weights)[ordinal - 1 : ordinal] != [questions]:
        raise UserError(
            "another evaluation of the same weights began meanwhile",
            file=store.uri(_path(prefix, weights, ordinal)),
            fix="Run it again",
        )


def refuse_unrecorded(store: Store, prefix: str, weights: str, evaluated: int) -> None:
    """Raises UserError where fewer sets of questions are recorded than evaluations say there were."""
    known = len(tries(store, prefix, weights))
    if evaluated > known:
        raise UserError(
            f"{evaluated} sets of questions were put to these weights, and {known} are recorded",
            file=store.uri(_folder(prefix, weights)),
            fix=RESTORE,
        )


def tries(store: Store, prefix: str, weights: str) -> list[str]:
    """Return the digest of each set of questions that these weights were put to, in order. Raises UserError,
    also where one is missing before another.
    """
    found: list[str] = []
    while True:
        path = _path(prefix, weights, len(found) + 1)
        try:
            found.append(str(store.read_json(path)["questions"]))
        except FileNotFoundError:
            break
        except (ValueError, KeyError, TypeError):
            fix = "Restore the file from a backup"
            raise UserError("not a record of an evaluation", file=store.uri(path), fix=fix) from None
    if any(name > PurePosixPath(path).name for name in store.names(_folder(prefix, weights))):
        raise UserError("a record of an evaluation is missing", file=store.uri(path), fix=RESTORE)
    return found


def _evaluated(store: Store, prefix: str, weights: str) -> int:
    """Return the highest ordinal that an evaluation of these weights had; one that cannot be read has
    none.
    """
    of_these = made_in(store, prefix, EVALUATION.name, {FINE_TUNED_MODEL.name: weights})
    return max((int(one.spec.get("tries", 0)) for one in of_these), default=0)


def _folder(prefix: str, weights: str) -> str:
    return f"{prefix}/tries/{weights}"


def _path(prefix: str, weights: str, ordinal: int) -> str:
    return f"{_folder(prefix, weights)}/{ordinal:06d}.json"
