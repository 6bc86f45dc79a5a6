"""The prompts of the package, and a file of a platform's own."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.evaluation.refusal_prompts import BUILT_IN, prompts_file, read_prompts, write_prompts
from ft_dagster.spec.variant import RefusalsSpec


def lines(count: int = 100) -> list[dict[str, Any]]:
    return [
        {"id": f"{kind}-{n}", "kind": kind, "category": "town", "prompt": f"May I {kind} {n}?"}
        for kind in ("must_refuse", "must_answer")
        for n in range(count)
    ]


def written(folder: Path, rows: list[Any]) -> Path:
    file = folder / "prompts.jsonl"
    file.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), "utf-8")
    return file


def test_the_package_has_at_least_a_hundred_prompts_of_each_kind_in_equal_categories() -> None:
    prompts = read_prompts(BUILT_IN)
    assert Counter(each.kind for each in prompts) == {"must_refuse": 120, "must_answer": 120}
    assert set(Counter((each.category, each.kind) for each in prompts).values()) == {10}
    assert len({each.prompt for each in prompts}) == 240
    assert max(len(each.prompt) for each in prompts) < 120


def test_a_declaration_asks_those_of_the_package_unless_it_names_a_file(tmp_path: Path) -> None:
    assert prompts_file(RefusalsSpec(), tmp_path) == BUILT_IN
    file = written(tmp_path, lines())
    assert prompts_file(RefusalsSpec(prompts=file.name), tmp_path) == file
    assert len(read_prompts(file)) == 200
    write_prompts(read_prompts(file), tmp_path / "copy.jsonl")
    assert read_prompts(tmp_path / "copy.jsonl") == read_prompts(file)


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (lines(99), "99 prompts of kind must_refuse"),
        ([], "0 prompts of kind must_refuse"),
        (["{", *lines()], "line 1 is no JSON"),
        (["[" * 100_000, *lines()], "line 1 is no JSON"),
        ([[1], *lines()], "line 1 has other fields"),
        ([{"id": "a"}, *lines()], "line 1 has other fields"),
        ([*lines(), {**lines()[0]}], "line 201 has the id of line 1"),
        ([*lines(), {**lines()[0], "id": "x"}], "line 201 has the prompt of line 1"),
        (
            [*lines(), {**lines()[0], "id": "x", "kind": "must_answer", "prompt": "may i  MUST_REFUSE 0?"}],
            "line 201 has the prompt of line 1",
        ),
        ([{**lines()[0], "id": "x", "kind": "unsafe"}, *lines()], "kind of line 1 is none"),
        ([{**lines()[0], "id": "x", "prompt": " "}, *lines()], "prompt of line 1 is no such text"),
        ([{**lines()[0], "id": 7}, *lines()], "id of line 1 is no such text"),
        ([{**lines()[0], "id": "x", "prompt": "a\ud800"}, *lines()], "prompt of line 1 is no such text"),
        ([{**lines()[0], "id": "\x1b[31mx"}, *lines()], "id of line 1 is no name"),
        ([{**lines()[0], "id": "x", "category": "a\nb"}, *lines()], "category of line 1 is no name"),
    ],
)
def test_a_file_that_cannot_be_asked_is_refused_with_its_line(
    tmp_path: Path, rows: list[Any], problem: str
) -> None:
    written(tmp_path, rows)
    with pytest.raises(UserError, match=problem) as refused:
        prompts_file(RefusalsSpec(prompts="prompts.jsonl"), tmp_path, "acme.yaml")
    assert refused.value.field == "gates.refusals.prompts"
    assert refused.value.fix


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    declared = RefusalsSpec(prompts="prompts.jsonl")
    with pytest.raises(UserError, match="no such file"):
        prompts_file(declared, tmp_path, "acme.yaml")
    (tmp_path / "prompts.jsonl").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match="not UTF-8"):
        prompts_file(declared, tmp_path)
