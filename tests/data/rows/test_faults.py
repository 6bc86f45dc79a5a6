"""Malformed conversations: each fault is a counted reason, refused above the declared share."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.data.files import time_limit
from ft_dagster.data.rows import tool_schemas
from ft_dagster.data.rows.dataset import build_task_dataset
from ft_dagster.data.rows.faults import (
    AGAINST,
    BROKEN,
    FAULTS,
    NO_SCHEMA,
    ORPHAN,
    SYSTEMS,
    UNKNOWN,
    UNTRAINED,
)
from ft_dagster.errors import UserError

pytestmark = pytest.mark.slow

TOOL = {
    "type": "function",
    "function": {
        "name": "find",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
ASKS, SAYS = {"role": "user", "content": "How is it?"}, {"role": "assistant", "content": "It rains."}
SYSTEM = {"role": "system", "content": "Be brief."}


def calls(*arguments: Any, name: str = "find", ids: tuple[str, ...] = ("1", "2")) -> dict[str, Any]:
    made = [
        {"id": id_, "type": "function", "function": {"name": name, "arguments": given}}
        for id_, given in zip(ids, arguments, strict=False)
    ]
    return {"role": "assistant", "content": None, "tool_calls": made}


def answers(id_: str = "1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id_, "content": "rain"}


def row(*turns: dict[str, Any], tools: Any = (TOOL,)) -> dict[str, Any]:
    return {"messages": list(turns), "tools": tools if isinstance(tools, str) else list(tools)}


def numbered(value: Any, **limits: Any) -> dict[str, Any]:
    """A call with one argument that has these limits."""
    return row(ASKS, calls({"n": value}), tools=[{**FIND, "parameters": {"properties": {"n": limits}}}])


FIND = {"name": "find"}


def patterned(pattern: str) -> dict[str, Any]:
    city = {"type": "string", "pattern": pattern}
    return {"name": "find", "parameters": {"type": "object", "properties": {"city": city}}}


RIGHT = '{"city": "Gdynia"}'
FAULTY = {
    "arguments that are no JSON": (BROKEN, row(ASKS, calls('{"city": '))),
    "arguments that are a list": (BROKEN, row(ASKS, calls("[1]"))),
    "arguments with a name twice": (BROKEN, row(ASKS, calls('{"city": "a", "city": "b"}'))),
    "arguments with a number that is none": (BROKEN, row(ASKS, calls({"city": "a", "days": math.nan}))),
    "arguments with a number without end": (BROKEN, row(ASKS, calls('{"city": "a", "days": 1e400}'))),
    "arguments with half of a surrogate pair": (BROKEN, row(ASKS, calls('{"city": "\\ud83d"}'))),
    "arguments nested a hundred levels": (BROKEN, row(ASKS, calls(f'{{"city": {100 * "["}{100 * "]"}}}'))),
    "a property that is null, in a row without a call": (
        BROKEN,
        row(ASKS, SAYS, tools=[{"name": "find", "parameters": {"properties": {"city": None}}}]),
    ),
    "tools with a name twice": (BROKEN, row(ASKS, SAYS, tools='[{"name": "find", "name": "lost"}]')),
    "calls with a name twice": (
        BROKEN,
        row(ASKS, {**SAYS, "tool_calls": '[{"function": {"name": "find", "name": "lost"}}]'}),
    ),
    "a tool that takes a text": (BROKEN, row(ASKS, SAYS, tools=[{"name": "find", "parameters": "city"}])),
    "a tool whose arguments are a list": (
        BROKEN,
        row(ASKS, SAYS, tools=[{"name": "find", "parameters": {"properties": ["city"]}}]),
    ),
    "tools that are no JSON": (BROKEN, row(ASKS, SAYS, tools='[{"type": ')),
    "tools that are no list": (BROKEN, row(ASKS, SAYS, tools='{"name": "find"}')),
    "a tool without a name": (BROKEN, row(ASKS, SAYS, tools=[{"type": "function", "function": {"a": 1}}])),
    "calls that are no JSON": (BROKEN, row(ASKS, {**SAYS, "tool_calls": '[{"'})),
    "calls that are no objects": (BROKEN, row(ASKS, {**SAYS, "tool_calls": ["find"]})),
    "a call without a name": (BROKEN, row(ASKS, {**SAYS, "tool_calls": [{"id": "1"}]})),
    "an unknown tool": (UNKNOWN, row(ASKS, calls(RIGHT, name="search"))),
    "a wrong type": (AGAINST, row(ASKS, calls('{"city": 7}'))),
    "a fraction where days are counted": (AGAINST, row(ASKS, calls('{"city": "a", "days": 1.5}'))),
    "a missing argument": (AGAINST, row(ASKS, calls({"days": 2}))),
    "a number that a schema cannot divide": (NO_SCHEMA, numbered(10**400, multipleOf=0.5)),
    "a pattern that repeats without end": (NO_SCHEMA, numbered("a", pattern="a{99999999999}")),
    "a schema of no draft": (NO_SCHEMA, row(ASKS, calls({}), tools=[{**FIND, "parameters": {"$schema": 5}}])),
    "no arguments where one is needed": (AGAINST, row(ASKS, calls(""))),
    "a pattern that it breaks": (
        AGAINST,
        row(ASKS, calls(json.dumps({"city": "a" * 60 + "!"})), tools=[patterned("(a+)+$")]),
    ),
    "a pattern that is none": (NO_SCHEMA, row(ASKS, calls(RIGHT), tools=[patterned("(?!a)")])),
    "no trained answer": (UNTRAINED, row(ASKS, {**SAYS, "weight": 0})),
    "no trained answer of two": (
        UNTRAINED,
        row(ASKS, {**SAYS, "train": False}, ASKS, {**SAYS, "train": False}),
    ),
    "two system turns": (SYSTEMS, row(SYSTEM, SYSTEM, ASKS, SAYS, tools=())),
    "a system turn within": (SYSTEMS, row(SYSTEM, ASKS, SAYS, SYSTEM, ASKS, SAYS, tools=())),
    "an answer without a call": (ORPHAN, row(ASKS, answers(), SAYS)),
    "an answer to another call": (ORPHAN, row(ASKS, calls(RIGHT), answers("9"), SAYS)),
    "two answers to a call": (ORPHAN, row(ASKS, calls(RIGHT), answers(), answers(), SAYS)),
    "an answer after the next question": (ORPHAN, row(ASKS, calls(RIGHT), SAYS, ASKS, answers(), SAYS)),
}
SOUND = {
    "parallel calls": row(ASKS, calls(RIGHT, {"city": "a", "days": 2}), answers("2"), answers("1"), SAYS),
    "a call as the answer": row(SYSTEM, ASKS, calls(RIGHT)),
    "calls without ids": row(ASKS, calls(RIGHT, ids=("",)), {"role": "tool", "content": "rain"}, SAYS),
    "calls of tools that stand in a text": row(SYSTEM, ASKS, calls(RIGHT, name="search"), tools=()),
    "an answer that is context": row(ASKS, {**SAYS, "weight": 0}, ASKS, SAYS),
    "tools that are bare functions": row(ASKS, calls(RIGHT), tools=[TOOL["function"]]),
    "reasoning": row(ASKS, {**SAYS, "reasoning_content": "Clouds."}, tools=()),
}


def built(project: Path, out: Path, write: Any, spec: Any, rows: list[dict[str, Any]]) -> dict[str, Any]:
    questions = [{"messages": [{**ASKS, "content": f"{n}?"}, SAYS]} for n in range(40)]
    write("chat.jsonl", [*rows, *questions])
    out.mkdir(exist_ok=True)
    return build_task_dataset(spec, project, [], out)


@pytest.mark.parametrize("name", FAULTY)
def test_each_fault_is_a_counted_reason(
    project: Path, tmp_path: Path, write: Any, variant: Any, name: str
) -> None:
    fault, faulty = FAULTY[name]
    spec = variant(sources=["chat.jsonl"], max_malformed=0.05)
    figures = built(project, tmp_path / "out", write, spec, [faulty])
    assert figures["dropped"] == {fault: 1}
    assert (figures["read"], sum(figures["rows"].values())) == (41, 40)


def test_every_fault_is_tried() -> None:
    assert {fault for fault, _ in FAULTY.values()} == set(FAULTS)


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_conversation_is_kept(
    project: Path, tmp_path: Path, write: Any, variant: Any, name: str
) -> None:
    figures = built(project, tmp_path / "out", write, variant(sources=["chat.jsonl"]), [SOUND[name]])
    assert figures["dropped"] == {}


def test_more_malformed_rows_than_the_declared_share_are_refused(
    project: Path, tmp_path: Path, write: Any, variant: Any
) -> None:
    rows = [FAULTY["an unknown tool"][1], FAULTY["two system turns"][1]]
    with pytest.raises(UserError) as caught:
        built(project, tmp_path / "out", write, variant(sources=["chat.jsonl"], max_malformed=0.04), rows)
    error = caught.value
    assert (error.field, error.value) == ("data.max_malformed", 0.04)
    assert "2 of 42 rows are malformed" in error.problem
    assert f"1: {UNKNOWN} (first chat.jsonl:1)" in error.problem
    assert f"1: {SYSTEMS} (first chat.jsonl:2)" in error.problem
    assert "Gdynia" not in str(error)
    assert built(project, tmp_path / "out", write, variant(sources=["chat.jsonl"], max_malformed=0.05), rows)


def test_no_row_may_be_malformed_unless_declared(
    project: Path, tmp_path: Path, write: Any, variant: Any
) -> None:
    with pytest.raises(UserError, match="1 of 41 rows are malformed"):
        built(
            project, tmp_path / "out", write, variant(sources=["chat.jsonl"]), [FAULTY["two system turns"][1]]
        )


def test_a_schema_that_does_not_end_is_one_error_that_names_the_row(
    project: Path, tmp_path: Path, write: Any, variant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for constant, seconds in (("SECONDS", 0.2), ("EACH", 0.0), ("TICK", 0.01)):
        monkeypatch.setattr(time_limit, constant, seconds)
    monkeypatch.setattr(tool_schemas, "_ACCOUNT", time_limit.Account(0.2))
    twice = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}
    endless = {"name": "find", "parameters": {"$ref": "#/$defs/d0", "$defs": {**twice, "d40": {}}}}
    with pytest.raises(UserError, match="does not seem to end") as caught:
        built(
            project, tmp_path / "out", write, variant(sources=["chat.jsonl"]),
            [row(ASKS, calls(RIGHT), tools=[endless])],
        )  # fmt: skip
    assert (Path(str(caught.value.file)).name, caught.value.line, caught.value.field) == (
        "chat.jsonl",
        1,
        "tools",
    )
    assert "Gdynia" not in str(caught.value)


def test_a_text_that_does_not_parse_is_named_by_no_word_of_it(
    project: Path, tmp_path: Path, write: Any, variant: Any
) -> None:
    secret = row(ASKS, calls(json.dumps({"city": "hunter2"})[:-1]))
    with pytest.raises(UserError) as caught:
        built(project, tmp_path / "out", write, variant(sources=["chat.jsonl"]), [secret])
    assert "hunter2" not in str(caught.value)
