"""A record whose erasure was asked for does not come back by its source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.data.rows.corpus import build_general_corpus
from ft_dagster.data.rows.dataset import build_task_dataset
from ft_dagster.data.rows.rows import Row
from ft_dagster.data.sources.fingerprint import Frozen, fingerprint_sources
from ft_dagster.errors import UserError
from ft_dagster.spec.variant import CorpusSpec, VariantSpec

ROWS = [{"prompt": f"Where is town {n}?", "completion": f"In the land of {n}."} for n in range(20)]
ERASED = Row("prompt_completion", "", prompt=ROWS[7]["prompt"], completion=ROWS[7]["completion"]).identity


def since(identity: bytes) -> str | None:
    return "2026-12-03" if identity == ERASED else None


def build(folder: Path, rows: list[dict[str, str]]) -> dict[str, Any]:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"sources": ["rows.jsonl"], "splits": {"validation": 0.2, "test": 0.2, "minimum": 1}}
    content = {"description": "x", "owners": ["me"], "base_model": "base", "data": data}
    spec = VariantSpec.model_validate(content)
    out = folder / f"out-{len(rows)}"
    out.mkdir()
    prints = fingerprint_sources(spec.data.sources, folder)
    return build_task_dataset(spec, folder, None, out, frozen=Frozen(prints, None, since))


def test_a_data_set_with_an_erased_record_is_refused_by_file_line_and_day(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        build(tmp_path, ROWS)
    said, where = str(refused.value), "rows.jsonl: data.sources[0], line 8"
    assert said.startswith(f"{where}: a record whose erasure was asked for on 2026-12-03")
    assert "town 7" not in said


def test_the_other_rows_and_one_that_is_nearly_it_are_taken(tmp_path: Path) -> None:
    rows = [row for row in ROWS if row != ROWS[7]]
    near = {**ROWS[7], "completion": "In the lands of 7."}
    assert build(tmp_path, [*rows, near])["read"] == 20


def test_case_and_spacing_bring_no_record_back(tmp_path: Path) -> None:
    again = {"prompt": "where is  TOWN 7?", "completion": "in the land of 7."}
    with pytest.raises(UserError, match="line 20"):
        build(tmp_path, [*(row for row in ROWS if row != ROWS[7]), again])


def test_a_corpus_with_an_erased_document_is_refused(tmp_path: Path) -> None:
    texts = [{"text": f"Document {n} of the town."} for n in range(40)]
    (tmp_path / "general.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    spec = CorpusSpec.model_validate({"description": "x", "sources": ["general.jsonl"], "holdout": 0.2})
    gone = Row("text", "", text=texts[3]["text"]).identity
    prints = fingerprint_sources(spec.sources, tmp_path)
    frozen = Frozen(prints, None, lambda identity: "2026-12-03" if identity == gone else None)
    with pytest.raises(UserError, match="line 4: a record whose erasure was asked for"):
        build_general_corpus("general", spec, tmp_path, tmp_path / "out", frozen=frozen)
