"""The task data set: every row is kept in its split or counted by the reason it was dropped."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from ft_dagster.data.rows import rows as row_module
from ft_dagster.data.rows.dataset import build_task_dataset
from ft_dagster.data.rows.dataset_io import read_split
from ft_dagster.data.rows.decontaminate import ITEMS_SCHEMA, EvaluationItem
from ft_dagster.data.sources.fingerprint import Frozen, fingerprint_sources
from ft_dagster.data.sources.locations import DeclaredAt
from ft_dagster.errors import UserError
from ft_dagster.provenance.digest import hash_folder

pytestmark = pytest.mark.slow

SPLITS = ("train", "validation", "test")
COLUMNS = [
    "kind", "messages", "prompt", "completion", "text", "source", "licence", "group", "weight",
]  # fmt: skip


def split_by_prompt(out: Path) -> dict[str, str]:
    return {row.prompt: split for split in SPLITS for row in read_split(out / f"{split}.parquet")}


def test_the_files_are_in_the_agreed_format(
    project: Path, tmp_path: Path, write: Any, variant: Any, questions: Any
) -> None:
    chat = {"messages": [{"role": "user", "content": "ä"}, {"role": "assistant", "content": "a"}]}
    write("faq.jsonl", questions)
    write("chat.jsonl", [chat])
    spec = variant(sources=["faq.jsonl", {"path": "chat.jsonl", "licence": "MIT"}])
    for folder in ("out", "evidence"):
        (tmp_path / folder).mkdir()
    figures = build_task_dataset(spec, project, [], tmp_path / "out", evidence=tmp_path / "evidence")
    tables = [parquet.read_table(tmp_path / "out" / f"{split}.parquet") for split in SPLITS]
    assert all(table.column_names == COLUMNS for table in tables)
    [row] = [r for table in tables for r in table.to_pylist() if r["kind"] == "messages"]
    assert json.loads(row["messages"]) == chat["messages"]
    assert (row["source"], row["licence"], row["prompt"], row["weight"]) == (
        "data.sources[1]",
        "MIT",
        None,
        1.0,
    )
    assert json.loads((tmp_path / "evidence" / "dataset.json").read_text()) == figures
    assert figures["schema_version"] == 2
    assert sum(figures["rows"].values()) == figures["read"] == 41
    assert figures["formats"] == {"faq.jsonl": "prompt_completion", "chat.jsonl": "chat"}
    assert figures["sources"]["chat.jsonl"] == {"read": 1, "kept": 1}


def test_a_stored_row_reads_back_as_it_was(
    project: Path, tmp_path: Path, write: Any, variant: Any, questions: Any
) -> None:
    write("faq.jsonl", questions)
    build_task_dataset(variant(), project, [], tmp_path)
    read = [(row.prompt, row.completion) for row in read_split(tmp_path / "train.parquet")]
    assert read
    assert set(read) <= {(row["prompt"], row["completion"]) for row in questions}


def test_every_dropped_row_is_counted_by_reason(
    project: Path, tmp_path: Path, write: Any, variant: Any, questions: Any
) -> None:
    known = "which of the following words is the one that we all look for here today"
    write("faq.jsonl", [*questions, questions[0], questions[1], {"prompt": known, "completion": "none"}])
    figures = build_task_dataset(variant(), project, [EvaluationItem((known,), (), "exam")], tmp_path)
    assert figures["dropped"] == {"duplicate": 2, "overlaps an evaluation set": 1}
    assert figures["read"] == 43
    assert sum(figures["rows"].values()) == 40


def test_a_question_does_not_hide_beside_the_texts_of_a_row(
    project: Path, tmp_path: Path, write: Any, variant: Any, questions: Any
) -> None:
    """It stands in the reasoning, which is learned, in a call, or in what a tool is for."""
    known = "which of the following cafés\nis the one that we all look for here today"
    turns = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "There."}]
    asked = {"asked": [known]}
    calls = [{"function": {"name": "find", "arguments": each}} for each in (asked, json.dumps(asked))]
    hidden = [
        {"messages": [turns[0], {**turns[1], "reasoning_content": f"Hm: {known}"}]},
        *({"messages": [turns[0], {**turns[1], "tool_calls": [call]}]} for call in calls),
        {"messages": turns, "tools": [{"name": "find", "description": known}]},
    ]
    talks = [[{**turns[0], "content": row["prompt"]}, turns[1]] for row in questions]
    write("faq.jsonl", [*({"messages": talk} for talk in talks), *hidden])
    figures = build_task_dataset(variant(), project, [EvaluationItem((known,), (), "exam")], tmp_path)
    assert figures["dropped"] == {"overlaps an evaluation set": 4}


def test_evaluation_texts_may_come_as_a_parquet_file(
    project: Path, tmp_path: Path, write: Any, variant: Any, questions: Any
) -> None:
    known = "which of the following words is the one that we all look for here today"
    table = pa.Table.from_pylist([{"task": "exam", "questions": [known], "answers": []}], schema=ITEMS_SCHEMA)
    parquet.write_table(table, tmp_path / "texts.parquet")
    write("faq.jsonl", [*questions, {"prompt": known, "completion": "none"}])
    (tmp_path / "out").mkdir()
    figures = build_task_dataset(variant(), project, tmp_path / "texts.parquet", tmp_path / "out")
    assert figures["dropped"] == {"overlaps an evaluation set": 1}


def test_decontamination_and_deduplication_can_be_off(
    project: Path, tmp_path: Path, write: Any, variant: Any, questions: Any
) -> None:
    write("faq.jsonl", [*questions, questions[0]])
    spec = variant(deduplicate="off", decontaminate={"enabled": False})
    figures = build_task_dataset(
        spec, project, [EvaluationItem((q["prompt"] * 5,)) for q in questions], tmp_path
    )
    assert figures["dropped"] == {}


def test_near_duplicates_go_when_asked(
    project: Path, tmp_path: Path, write: Any, variant: Any, questions: Any
) -> None:
    long = (
        "the permit for a small building is given by the town within thirty days of the day it was asked for"
    )
    near = [{"prompt": long, "completion": "a"}, {"prompt": long + " again", "completion": "a"}]
    write("faq.jsonl", [*questions, *near])
    figures = build_task_dataset(
        variant(deduplicate={"method": "near", "threshold": 0.7}), project, [], tmp_path
    )
    assert figures["dropped"] == {"near duplicate": 1}


def test_a_row_never_moves_between_splits(
    project: Path, tmp_path: Path, write: Any, variant: Any, questions: Any
) -> None:
    write("faq.jsonl", questions)
    for folder in ("before", "after"):
        (tmp_path / folder).mkdir()
    build_task_dataset(variant(), project, [], tmp_path / "before")
    more = [{"prompt": f"Another question {i}", "completion": "x"} for i in range(100)]
    write("faq.jsonl", [*more[:50], *reversed(questions), *more[50:]])
    build_task_dataset(variant(), project, [], tmp_path / "after")
    before, after = split_by_prompt(tmp_path / "before"), split_by_prompt(tmp_path / "after")
    assert before == {prompt: after[prompt] for prompt in before}


def test_rows_of_one_first_turn_share_a_split(
    project: Path, tmp_path: Path, write: Any, variant: Any, questions: Any
) -> None:
    twice = [{**q, "completion": f"answer {n}"} for q in questions for n in range(2)]
    write("faq.jsonl", twice)
    build_task_dataset(variant(), project, [], tmp_path)
    seen = [(row.prompt, split) for split in SPLITS for row in read_split(tmp_path / f"{split}.parquet")]
    assert len(seen) == 80
    assert len(set(seen)) == 40


def test_a_split_that_would_be_too_small_is_refused(
    project: Path, tmp_path: Path, write: Any, variant: Any, questions: Any
) -> None:
    write("faq.jsonl", questions[:5])
    with pytest.raises(UserError, match=r"data\.splits\.minimum: the \w+ split would have"):
        build_task_dataset(variant(splits={"minimum": 8}), project, [], tmp_path)


def test_a_malformed_line_stops_the_build(
    project: Path, tmp_path: Path, write: Any, variant: Any, questions: Any
) -> None:
    write("faq.jsonl", "".join(json.dumps(q) + "\n" for q in questions) + '{"prompt": "cut\n')
    with pytest.raises(UserError) as caught:
        build_task_dataset(variant(), project, [], tmp_path)
    assert (caught.value.file, caught.value.line) == ("faq.jsonl", 41)
    assert not (tmp_path / "dataset.json").exists()


def test_a_source_that_changed_after_its_declaration_is_refused(
    project: Path, tmp_path: Path, write: Any, variant: Any, questions: Any
) -> None:
    write("faq.jsonl", questions)
    spec = variant()
    frozen = Frozen(fingerprint_sources(spec.data.sources, project))
    write("faq.jsonl", questions[1:])
    with pytest.raises(UserError, match="changed after it was declared"):
        build_task_dataset(spec, project, [], tmp_path, frozen=frozen)


def test_the_same_rows_give_the_same_bytes(
    project: Path, tmp_path: Path, write: Any, variant: Any, questions: Any
) -> None:
    write("faq.jsonl", questions)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        build_task_dataset(variant(), project, [], tmp_path / name)
    assert hash_folder(tmp_path / "one") == hash_folder(tmp_path / "two")


def test_progress_is_told(project: Path, tmp_path: Path, write: Any, variant: Any, questions: Any) -> None:
    write("faq.jsonl", questions)
    lines: list[str] = []
    build_task_dataset(variant(), project, [], tmp_path, lines.append)
    assert lines == ["reading faq.jsonl"]


@pytest.mark.long
def test_memory_does_not_grow_with_the_rows_beyond_their_hashes(
    project: Path, tmp_path: Path, variant: Any
) -> None:
    def peak(rows: int) -> int:
        with (project / "faq.jsonl").open("w") as file:
            for i in range(rows):
                file.write(json.dumps({"prompt": f"{i} " + "long question " * 40, "completion": "a"}) + "\n")
        (tmp_path / str(rows)).mkdir()
        tracemalloc.start()
        try:
            build_task_dataset(variant(decontaminate={"enabled": False}), project, [], tmp_path / str(rows))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = peak(7000), peak(14_000)  # each split fills a row group in either
    assert many - few <= 64 * 7000 + 200_000


def test_a_test_split_emptied_by_decontamination_says_so(
    project: Path, tmp_path: Path, write: Any, variant: Any, questions: Any
) -> None:
    write("faq.jsonl", questions)
    texts = [EvaluationItem((f"{row['prompt']} {row['completion']}",)) for row in questions]
    spec = variant(decontaminate={"ngram": 3})
    with pytest.raises(UserError, match="40 rows were left out that overlap an evaluation set") as error:
        build_task_dataset(spec, project, texts, tmp_path, asked=DeclaredAt("acme.yaml"))
    assert (error.value.file, error.value.field) == ("acme.yaml", "data.splits.minimum")


@pytest.mark.long
def test_memory_does_not_grow_with_long_rows(project: Path, tmp_path: Path, variant: Any) -> None:
    with (project / "faq.jsonl").open("w") as file:
        for i in range(100):
            words = " ".join(f"w{i}x{n}" for n in range(50_000))
            file.write(json.dumps({"prompt": f"question {i}", "completion": words}) + "\n")
    tracemalloc.start()
    try:
        build_task_dataset(variant(decontaminate={"enabled": False}), project, [], tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 30_000_000  # of 45 MB; all at once take 200 and more
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("method", ["exact", "near"])
def test_how_many_rows_are_looked_at_together_changes_nothing(
    project: Path, tmp_path: Path, write: Any, variant: Any, *, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    rows = [{"prompt": f"What is item {i % 30}?", "completion": f"It is {i % 45}."} for i in range(90)]
    grouped = [{**row, "group": f"g{i % 4}"} if i % 5 == 0 else row for i, row in enumerate(rows)]
    write("faq.jsonl", grouped)
    texts = [EvaluationItem(("what is item 7 it is 7",), (), "quiz")]
    spec = variant(deduplicate=method, decontaminate={"ngram": 5})
    found = []
    for size, characters in ((500, 4_000_000), (7, 4_000_000), (1, 4_000_000), (500, 100)):
        monkeypatch.setattr(row_module, "BATCH", size)
        monkeypatch.setattr(row_module, "BATCH_CHARACTERS", characters)
        out, evidence = tmp_path / f"{size}-{characters}", tmp_path / f"{size}-{characters}-evidence"
        out.mkdir()
        evidence.mkdir()
        figures = build_task_dataset(spec, project, texts, out, evidence=evidence)
        found.append((figures, hash_folder(out), hash_folder(evidence)))
    assert all(each == found[0] for each in found)
    assert figures["overlaps"] == {"quiz": {"faq.jsonl": 3}}


def test_a_column_of_tools_is_there_only_where_a_row_has_any(
    project: Path, tmp_path: Path, write: Any, variant: Any, questions: Any
) -> None:
    tools = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]
    call = [{"function": {"name": "find", "arguments": "{}"}}]
    turns = [{"role": "user", "content": "ä"}, {"role": "assistant", "content": None, "tool_calls": call}]
    write("faq.jsonl", questions)
    write("chat.jsonl", [{"messages": turns, "tools": tools}])
    for name, sources, added in (
        ("no", ["faq.jsonl"], []),
        ("tools", ["faq.jsonl", "chat.jsonl"], ["tools"]),
    ):
        (tmp_path / name).mkdir()
        build_task_dataset(variant(sources=sources), project, [], tmp_path / name)
        tables = [parquet.read_table(tmp_path / name / f"{split}.parquet") for split in SPLITS]
        assert all(table.column_names == [*COLUMNS, *added] for table in tables)
    rows = [row for split in SPLITS for row in read_split(tmp_path / "tools" / f"{split}.parquet")]
    [row] = [row for row in rows if row.kind == "messages"]
    assert row.tool_list == tools
    assert row.messages[-1].said == {"tool_calls": call}
    assert {row.tools for row in rows if row.kind != "messages"} == {""}
