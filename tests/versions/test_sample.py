"""A sample counts the same of rows that a look has read already as of those it reads itself."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from ft_dagster.data.rendering.known_tokenizer import KnownTokenizer
from ft_dagster.data.rows.rows_read import PLACED, RowsLook
from ft_dagster.data.rows.sources import read_rows
from ft_dagster.data.rows.splits import position_of_normal, split_at
from ft_dagster.data.sources.locations import DeclaredAt
from ft_dagster.spec import Declared, VariantKey, load_variant
from ft_dagster.versions.sample import sample
from tests.tiny_model import make_tiny_model


def declare(folder: Path, texts: Iterable[int]) -> tuple[Declared, KnownTokenizer]:
    """A variant on the tiny model with a row for each number."""
    make_tiny_model(folder / "models" / "tiny")
    lines = (f'{{"prompt": "p {n}", "completion": "c {n}"}}\n' for n in texts)
    (folder / "rows.jsonl").write_text("".join(lines))
    (folder / "tenants" / "acme").mkdir(parents=True)
    (folder / "tenants" / "acme" / "support.yaml").write_text(
        "description: d\nowners: [o]\nbase_model: models/tiny\ndata: {sources: [rows.jsonl]}\n"
    )
    tokenizer = KnownTokenizer(folder / "models" / "tiny", folder / "cache")
    return load_variant(folder, VariantKey.parse("acme.support")), tokenizer


def test_examples_are_those_whose_rows_fall_into_training_and_equal_rows_count_once(tmp_path: Path) -> None:
    declared, tokenizer = declare(tmp_path, [*range(60), *range(20)])
    read = list(read_rows(declared.spec.data.sources[0], tmp_path, DeclaredAt(declared.file, "data")))
    fallen = Counter(
        split_at(position_of_normal(row.first_turn), declared.spec.data.splits) for row in read[:60]
    )
    found = sample(declared, tmp_path, tokenizer)
    assert (found.counts.examples, found.test_rows) == (fallen["train"], fallen["test"])
    assert f"with {fallen['validation']} to validate and {fallen['test']} to test beside them" in found.basis


@pytest.mark.slow
@pytest.mark.parametrize("rows", [60, PLACED + 500])
def test_rows_that_were_looked_at_are_not_read_again(rows: int, tmp_path: Path) -> None:
    declared, tokenizer = declare(tmp_path, range(rows))
    file = tmp_path / "rows.jsonl"
    by_itself = sample(declared, tmp_path, tokenizer, first=100, most=PLACED + 200)
    [source] = declared.spec.data.sources
    look = RowsLook(tmp_path, None).rows(source, DeclaredAt(declared.file, "data.sources[0]"))
    file.write_text(json.dumps({"prompt": "of later", "completion": "unread"}))
    assert sample(declared, tmp_path, tokenizer, first=100, most=PLACED + 200, looks=[look]) == by_itself
