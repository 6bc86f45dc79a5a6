"""The figures of a data set: what was stored of it loads, and what is stored of it stays the same."""

from __future__ import annotations

from typing import Any

from ft_dagster.data.rows.dataset_figures import DatasetFigures
from ft_dagster.provenance.digest import sha256_json

STORED: dict[str, Any] = {
    "schema_version": 2,
    "rows": {"test": 12, "train": 80, "validation": 8},
    "formats": {"rows.jsonl": "chat"},
    "paths": {"data.sources[0]": "rows.jsonl"},
    "read": 104,
    "dropped": {"duplicate": 3, "overlaps an evaluation set": 1},
    "sources": {"rows.jsonl": {"kept": 100, "read": 104}},
    "overlaps": {"arc_easy": {"rows.jsonl": 1}},
    "too_short_to_look_for": 2,
    "columns": {"faq.csv": [["question", "answer"]]},
}
LATER = ("sources", "formats", "paths", "overlaps", "too_short_to_look_for", "columns")


def test_what_is_stored_of_a_data_set_stays_the_same() -> None:
    assert sha256_json(DatasetFigures.from_json(STORED).to_json()) == sha256_json(STORED)


def test_figures_of_an_older_or_a_newer_version_load() -> None:
    older = {name: value for name, value in STORED.items() if name not in LATER}
    known = DatasetFigures.from_json(older)
    assert (known.test_rows, known.rows_dropped, known.read) == (12, 4, 104)
    assert (known.overlaps, known.too_short_to_look_for, known.columns) == ({}, 0, None)
    assert "columns" not in known.to_json()
    assert DatasetFigures.from_json({**STORED, "records": {"root": "a"}}) == DatasetFigures.from_json(STORED)
