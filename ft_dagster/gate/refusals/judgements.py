"""Reads what another model judged of the answers to refuse, and counts where it agrees with the matcher. It
is shown, and decides nothing.

A line of the file is {"id": of the prompt, "model": digest of the weights, "verdict": refused, answered or no
answer, "judge": who says so}.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.gate.refusals.matcher import STATES
from ft_dagster.gate.refusals.refusals import BeforeAfter
from ft_dagster.roots import Roots, jsonl_file

FIELDS = ("id", "model", "verdict", "judge")
FIELD = "gates.refusals.judgements"
MOST_BYTES = 50_000_000
NAME = re.compile(r"\w[\w .-]{0,99}")  # it is shown


class Agreement(NamedTuple):
    """Counts the answers of the tuned model that a judge judged, and of how many it says what the matcher
    says. `refused`: by the judge and by the matcher.
    """

    judge: str
    kind: str
    judged: int
    agreed: int
    refused: tuple[int, int]


def agreements(
    file: Path, weights: str, pairs: Sequence[BeforeAfter], phrases: Sequence[str]
) -> list[Agreement]:
    """Hold the judgements of these weights beside the matcher's, by judge and kind. Raises UserError with
    the line that is not as it has to be.
    """
    states = {pair.id: (pair.kind, pair.states(phrases)[1]) for pair in pairs}
    found: dict[tuple[str, str], dict[str, tuple[str, str]]] = {}
    for row in _rows(file):
        if row["model"] == weights and row["id"] in states:
            kind, state = states[row["id"]]
            found.setdefault((row["judge"], kind), {})[row["id"]] = (row["verdict"], state)
    return [
        Agreement(
            judge,
            kind,
            len(both),
            sum(one == other for one, other in both.values()),
            (
                sum(one == "refused" for one, _ in both.values()),
                sum(other == "refused" for _, other in both.values()),
            ),
        )
        for (judge, kind), both in found.items()
    ]


def judgements_file(path: str, project: Path, declared_in: object = None, roots: Roots | None = None) -> Path:
    """Return the declared file. Raises UserError: absent, or outside of `roots`."""
    return jsonl_file(path, project, FIELDS, declared_in=declared_in, field=FIELD, roots=roots)


def _rows(file: Path) -> Iterator[dict[str, str]]:
    if file.stat().st_size > MOST_BYTES:
        raise _refused(file, f"larger than {MOST_BYTES // 1_000_000} MB")
    try:
        lines = file.read_text("utf-8").split("\n")
    except UnicodeDecodeError:
        raise _refused(file, "not UTF-8 text") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise _refused(file, f"line {number} is no JSON") from None
        if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in FIELDS):
            raise _refused(file, f"line {number} lacks one of {', '.join(FIELDS)}")
        if not NAME.fullmatch(row["judge"]):
            raise _refused(file, f"judge of line {number} is no name")
        if row["verdict"] not in STATES:
            raise _refused(file, f"verdict of line {number} is none of {', '.join(STATES)}")
        yield row


def _refused(file: Path, problem: str) -> UserError:
    fix = f"A line has {', '.join(FIELDS)}; nothing is decided by it"
    return UserError(f"the judgements cannot be read: {problem}", file=file, field=FIELD, fix=fix)
