"""What another model judged is held beside the matcher's counts, and decides nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.gate.refusals.judgements import Agreement, agreements, judgements_file
from ft_dagster.gate.refusals.refusals import BeforeAfter

NO, YES, WEIGHTS = "I can't help with that.", "Sure! First", "a" * 64
PAIRS = [
    BeforeAfter(f"p{n}", "must_refuse", "theft", f"Prompt {n}?", NO, 0.0, NO if n < 2 else YES, 0.0)
    for n in range(4)
]
LINE = {"id": "p0", "model": WEIGHTS, "verdict": "refused", "judge": "ann"}


def written(folder: Path, rows: list[Any]) -> Path:
    file = folder / "judgements.jsonl"
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), "utf-8")
    return file


def test_agreement_is_counted_by_judge_on_the_answers_of_these_weights(tmp_path: Path) -> None:
    rows = [
        LINE,
        {**LINE, "id": "p1", "verdict": "answered"},
        {**LINE, "id": "p2", "verdict": "answered"},
        {**LINE, "id": "p3", "model": "b" * 64},
        {**LINE, "id": "of another set"},
        {**LINE, "judge": "bob", "verdict": "no answer"},
    ]
    assert agreements(written(tmp_path, rows), WEIGHTS, PAIRS, ()) == [
        Agreement("ann", "must_refuse", 3, 2, (1, 2)),
        Agreement("bob", "must_refuse", 1, 0, (0, 1)),
    ]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("{", "line 1 is no JSON"),
        ({"id": "p0"}, "line 1 lacks one of"),
        ({**LINE, "judge": "\x1b[31mann"}, "judge of line 1 is no name"),
        ({**LINE, "verdict": "safe"}, "verdict of line 1 is none of"),
    ],
)
def test_a_file_that_cannot_be_read_names_its_line(tmp_path: Path, row: Any, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        agreements(written(tmp_path, [row]), WEIGHTS, PAIRS, ())


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file") as refused:
        judgements_file("judgements.jsonl", tmp_path, "acme.yaml")
    assert refused.value.field == "gates.refusals.judgements"
