"""A sample counts the same of rows that a look has read already as of those it reads itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ft_dagster.data.rendering.known_tokenizer import KnownTokenizer
from ft_dagster.data.rows.rows_read import PLACED, RowsLook
from ft_dagster.data.sources.locations import DeclaredAt
from ft_dagster.spec import VariantKey, load_variant
from ft_dagster.versions.sample import sample
from tests.tiny_model import make_tiny_model


@pytest.mark.slow
@pytest.mark.parametrize("rows", [60, PLACED + 500])
def test_rows_that_were_looked_at_are_not_read_again(rows: int, tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "models" / "tiny")
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f'{{"prompt": "p {n}", "completion": "c {n}"}}\n' for n in range(rows)))
    (tmp_path / "tenants" / "acme").mkdir(parents=True)
    (tmp_path / "tenants" / "acme" / "support.yaml").write_text(
        "description: d\nowners: [o]\nbase_model: models/tiny\ndata: {sources: [rows.jsonl]}\n"
    )
    declared = load_variant(tmp_path, VariantKey.parse("acme.support"))
    tokenizer = KnownTokenizer(tmp_path / "models" / "tiny", tmp_path / "cache")
    by_itself = sample(declared, tmp_path, tokenizer, first=100, most=PLACED + 200)
    [source] = declared.spec.data.sources
    look = RowsLook(tmp_path, None).rows(source, DeclaredAt(declared.file, "data.sources[0]"))
    file.write_text(json.dumps({"prompt": "of later", "completion": "unread"}))
    assert sample(declared, tmp_path, tokenizer, first=100, most=PLACED + 200, looks=[look]) == by_itself
