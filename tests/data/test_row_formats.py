"""Rows of every form: what they say is taken whole, or refused by name."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from ft_dagster.data.rows.dataset_io import as_record, as_row
from ft_dagster.data.rows.rows import Message
from ft_dagster.data.rows.sources import read_rows
from ft_dagster.data.sources.formats import COLUMNS, FILED, UNRENDERED
from ft_dagster.data.sources.locations import DeclaredAt
from ft_dagster.data.sources.turns import KEPT
from ft_dagster.errors import UserError
from ft_dagster.spec.data import SourceSpec

PAGE = Path(__file__).parents[2] / "docs" / "objectives.md"
ASKED = DeclaredAt("acme/support.yaml", "data.sources[0]")
QUESTION, ANSWER = Message("user", "q"), Message("assistant", "a")
ASKS, SAYS = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
CALL = [{"type": "function", "function": {"name": "find", "arguments": "{}"}}]
TOOL = {"role": "tool", "content": "42"}
FORMS: dict[
    str, Callable[[list[dict[str, Any]]], dict[str, Any]]
] = {  # how a conversation of turns with `role` and `content` is written in each form that has turns
    "messages": lambda turns: {"messages": turns},
    "sharegpt with roles": lambda turns: {"conversations": turns},
    "sharegpt": lambda turns: {"conversations": [as_sharegpt(turn) for turn in turns]},
    "prompt and completion": lambda turns: {"prompt": turns[:-1], "completion": turns[-1:]},
}
ONE_EXCHANGE = {  # the forms that have columns in place of turns
    "alpaca": {"instruction": "q", "output": "a"},
    "prompt_completion": {"prompt": "q", "completion": "a"},
}


def as_sharegpt(turn: dict[str, Any]) -> dict[str, Any]:
    said = {name: value for name, value in turn.items() if name not in ("role", "content")}
    names = {"user": "human", "assistant": "gpt"}
    return {"from": names.get(turn["role"], turn["role"]), "value": turn["content"], **said}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("turn", "name", "value"),
    [
        (SAYS, "function_call", {"name": "find", "arguments": "{}"}),
        (SAYS, "train", "false"),
        (SAYS, "weight", 0.5),
        (SAYS, "refusal", "No."),
        (SAYS, "a_field_of_next_year", {"deep": {"down": "said"}}),
        (SAYS, "name", 7),
        (ASKS, "train", "yes"),
        (ASKS, "tool_calls", CALL),
        (ASKS, "reasoning_content", "Hm."),
        (ASKS, "images", ["a.png"]),
    ],
)
def test_what_no_turn_may_say_is_refused_by_name(
    refused: Any, form: str, turn: dict[str, Any], name: str, value: Any
) -> None:
    turns = [ASKS, TOOL, SAYS]
    turns[turns.index(turn)] = {**turn, name: value}
    error = refused(FORMS[form](turns))
    assert (error.file, error.line) == ("rows.jsonl", 1)
    assert error.field is not None
    assert error.field.endswith(f"].{name}")
    assert error.fix
    assert error.value is None  # no row stands in an error


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("turn", "given", "kept"),
    [
        (SAYS, {"reasoning_content": "Two."}, {"reasoning_content": "Two."}),
        (SAYS, {"thinking": "Two."}, {"reasoning_content": "Two."}),
        (SAYS, {"thinking": "Two.", "reasoning": "Two."}, {"reasoning_content": "Two."}),
        (SAYS, {"tool_calls": CALL}, {"tool_calls": CALL}),
        (SAYS, {"tool_calls": json.dumps(CALL)}, {"tool_calls": CALL}),
        (
            SAYS,
            {"tool_calls": [{"name": "find", "arguments": {"é": 1}}]},
            {"tool_calls": [{"function": {"name": "find", "arguments": {"é": 1}}}]},
        ),
        (SAYS, {"tool_calls": "[{"}, {"tool_calls": "[{"}),
        (SAYS, {"train": False}, {"train": False}),
        (SAYS, {"weight": 0}, {"train": False}),
        (SAYS, {"loss": 0.0, "weight": 0}, {"train": False}),
        (ASKS, {"name": "Ada"}, {"name": "Ada"}),
        (TOOL, {"name": "find", "tool_call_id": "1"}, {"name": "find", "tool_call_id": "1"}),
    ],
)
def test_a_turn_keeps_all_that_it_says(
    rows: Any, form: str, turn: dict[str, Any], given: dict[str, Any], kept: dict[str, Any]
) -> None:
    turns = [ASKS, TOOL, SAYS]
    place = turns.index(turn)
    turns[place] = {**turn, **given}
    [row] = rows(FORMS[form](turns))
    assert row.messages[place].said == kept
    assert row.messages[place].more == json.dumps(kept, separators=(",", ":"), ensure_ascii=False)
    assert [message.more for message in row.messages if message is not row.messages[place]] == ["", ""]
    assert as_row(as_record(row)).messages == row.messages


@pytest.mark.parametrize(
    ("call", "field"),
    [
        ({"name": "find", "parameters": {"city": "Gdynia"}}, "parameters"),
        ({"function": {"name": "find", "parameters": {"city": "Gdynia"}}}, "function.parameters"),
        ({"function": {"name": "find", "arguments": "{}", "strict": True}}, "function.strict"),
        ({"function": {"name": "find"}, "arguments": {"city": "Gdynia"}}, "arguments"),
    ],
)
def test_what_no_call_may_say_is_refused_by_name(refused: Any, call: dict[str, Any], field: str) -> None:
    error = refused({"messages": [ASKS, {**SAYS, "tool_calls": [call]}]})
    assert error.field == f"messages[1].tool_calls[0].{field}"


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.JSONL", "rows.ndjson", "rows.json.gz"])
def test_a_null_that_a_call_says_is_kept(project: Path, name: str) -> None:
    call = {"function": {"name": "find", "arguments": {"city": None}}}
    line = json.dumps({"messages": [ASKS, {**SAYS, "tool_calls": [call]}]}).encode()
    (project / name).write_bytes(gzip.compress(line) if name.endswith(".gz") else line)
    [row] = read_rows(SourceSpec(path=name), project, ASKED)
    assert row.messages[1].said == {"tool_calls": [call]}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("content", [None, ""])
def test_a_call_is_an_answer_without_a_text(rows: Any, form: str, content: str | None) -> None:
    [row] = rows({**FORMS[form]([ASKS, {**SAYS, "content": content, "tool_calls": CALL}]), "tools": CALL})
    assert row.messages[-1].content == ""
    assert row.tool_list == CALL
    assert as_row(as_record(row)).tools == row.tools


@pytest.mark.parametrize("tools", [CALL, json.dumps(CALL)])
def test_a_rows_tools_are_kept_however_they_are_written(rows: Any, tools: Any) -> None:
    [row] = rows({"messages": [ASKS, SAYS], "tools": tools})
    assert row.tool_list == CALL


def test_two_marks_of_a_turn_that_differ_are_refused(refused: Any) -> None:
    assert refused({"messages": [ASKS, {**SAYS, "train": True, "weight": 0}]}).field == "messages[1].train"
    twice = {**SAYS, "reasoning": "a", "thinking": "b"}
    assert refused({"messages": [ASKS, twice]}).field == "messages[1].reasoning"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "nothing", [None, "", " \n", [], {}, [None], {"name": None, "arguments": ""}, math.nan]
)
@pytest.mark.parametrize("name", ["reasoning_content", "tool_calls", "name", "weight", "train", "new"])
def test_a_field_that_says_nothing_is_no_loss(rows: Any, form: str, nothing: Any, name: str) -> None:
    [row] = rows(FORMS[form]([{**ASKS, name: nothing}, {**SAYS, name: nothing}]))
    assert row.messages == (QUESTION, ANSWER)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("name", "value"), [("train", True), ("weight", 1), ("weight", 1.0), ("loss", True)])
def test_a_turn_may_say_that_it_is_trained_as_it_is(rows: Any, form: str, name: str, value: Any) -> None:
    [row] = rows(FORMS[form]([{**ASKS, name: value}, {**SAYS, name: value}]))
    assert row.messages == (QUESTION, ANSWER)


@pytest.mark.parametrize(("name", "value"), [("train", False), ("weight", 0), ("weight", 0.0)])
def test_a_turn_that_is_never_trained_may_say_so(rows: Any, name: str, value: Any) -> None:
    [row] = rows({"conversations": [{"from": "human", "value": "q", name: value}, as_sharegpt(SAYS)]})
    assert row.messages == (QUESTION, ANSWER)


@pytest.mark.parametrize("form", FORMS)
def test_what_only_files_a_turn_is_left_out(rows: Any, form: str) -> None:
    filed = {"id": "m1", "timestamp": 1732000000, "created_at": "2026-11-30", "metadata": {"agent": 7}}
    [row] = rows(FORMS[form]([{**ASKS, **filed}, {**SAYS, **filed, "model": "m", "language": "en"}]))
    assert row.messages == (QUESTION, ANSWER)


def test_fields_that_parquet_adds_to_each_turn_are_no_loss_where_they_are_null(project: Path) -> None:
    """A column of structs gives every turn each field that any has."""
    called = [ASKS, {**SAYS, "content": "", "tool_calls": CALL}, {**TOOL, "tool_call_id": "1"}, SAYS]
    rows = [{"messages": [ASKS, SAYS], "tools": None}, {"messages": called, "tools": CALL}]
    table = pa.Table.from_pylist(rows)
    assert table.to_pylist()[0]["messages"][0].keys() == {"role", "content", "tool_calls", "tool_call_id"}
    parquet.write_table(table.slice(0, 1), project / "plain.parquet")
    parquet.write_table(table.slice(1), project / "called.parquet")
    [row] = read_rows(SourceSpec(path="plain.parquet"), project, ASKED)
    assert (row.messages, row.tools) == ((QUESTION, ANSWER), "")
    [row] = read_rows(SourceSpec(path="called.parquet"), project, ASKED)
    assert row.tool_list == CALL
    assert [message.said for message in row.messages] == [{}, {"tool_calls": CALL}, {"tool_call_id": "1"}, {}]


@pytest.mark.parametrize("row", [form([ASKS, SAYS]) for form in FORMS.values()] + list(ONE_EXCHANGE.values()))
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("functions", CALL),
        ("chat_template_kwargs", {"enable_thinking": False}),
        ("history", [["before", "then"]]),
        ("images", ["a.png"]),
        ("weight", 0.5),
        ("label", False),
        ("train", False),
        ("trainable", False),
        ("label", "False"),  # as a table says it
        ("train", "false"),
        ("trainable", 0),
        ("reasoning_content", "two and two"),
        ("thinking", "two and two"),
        ("tool_calls", CALL),
    ],
)
def test_what_a_row_says_beside_its_turns_is_refused_by_name(
    refused: Any, row: dict[str, Any], column: str, value: Any
) -> None:
    error = refused({**row, column: value})
    assert (error.file, error.line, error.field) == ("rows.jsonl", 1, column)
    assert error.value is None


@pytest.mark.parametrize("row", [form([ASKS, SAYS]) for form in FORMS.values()] + list(ONE_EXCHANGE.values()))
def test_a_column_that_says_nothing_or_what_holds_anyway_is_no_loss(rows: Any, row: dict[str, Any]) -> None:
    harmless: dict[str, Any] = {
        "tools": [],
        "functions": None,
        "images": "",
        "weight": 1.0,
        "label": True,
        "train": True,
        "thinking": "",
        "id": 7,
        "topic": "x",
    }
    assert len(rows({**row, **harmless})) == 1


def test_an_answer_that_is_false_and_a_class_that_is_0_are_no_rows_to_leave_out(rows: Any) -> None:
    given = {"prompt": "Is it so?", "answer": "x", "label": "false"}
    assert len(rows(given, fields={"completion": "label"})) == 1
    assert len(rows({**given, "completion": "It is.", "label": 0})) == 1


def test_a_column_that_is_renamed_is_known_by_our_name(refused: Any) -> None:
    error = refused(
        {"q": "q", "a": "a", "t": CALL}, fields={"instruction": "q", "output": "a", "functions": "t"}
    )
    assert error.field == "functions"


def test_a_text_has_no_tools(refused: Any) -> None:
    assert refused({**ONE_EXCHANGE["prompt_completion"], "tools": CALL}).field == "tools"


@pytest.mark.parametrize("row", [{"messages": [ASKS, SAYS]}, ONE_EXCHANGE["prompt_completion"]])
def test_a_system_column_is_refused_where_the_form_has_none(refused: Any, row: dict[str, Any]) -> None:
    error = refused({**row, "system": "Be brief."})
    assert error.field == "system"
    assert "sharegpt" in error.fix or "alpaca" in error.fix


@pytest.mark.parametrize(
    ("row", "spec"),
    [
        ({"messages": [ASKS, SAYS]}, {"format": "sharegpt", "fields": {"conversations": "messages"}}),
        (
            ONE_EXCHANGE["prompt_completion"],
            {"format": "alpaca", "fields": {"instruction": "prompt", "output": "completion"}},
        ),
        ({"conversations": [ASKS, SAYS]}, {}),
        (ONE_EXCHANGE["alpaca"], {}),
    ],
)
def test_a_system_column_goes_before_the_turns_as_the_refusal_says(
    rows: Any, row: dict[str, Any], spec: dict[str, Any]
) -> None:
    [read] = rows({**row, "system": "Be brief."}, **spec)
    assert read.messages == (Message("system", "Be brief."), QUESTION, ANSWER)


@pytest.mark.parametrize("part", [{"train": False}, {"cache_control": {"type": "ephemeral"}, "weight": 0.1}])
def test_what_a_part_of_a_text_says_is_refused_by_name(refused: Any, part: dict[str, Any]) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b", **part}]
    error = refused({"messages": [ASKS, {**SAYS, "content": parts}]})
    assert error.field == f"messages[1].content[1].{next(name for name in part if name != 'cache_control')}"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ({}, "null"),
        ({"text": None}, "null"),
        ({"text": 5}, "a number"),
        ({"text": [{"type": "text", "text": "a"}]}, "a list of 1"),
    ],
)
def test_a_part_without_a_text_is_malformed(refused: Any, text: dict[str, Any], kind: str) -> None:
    error = refused({"messages": [ASKS, {**SAYS, "content": [{"type": "text", **text}]}]})
    assert (error.problem, error.field) == (
        f"malformed row: not text but {kind}",
        "messages[1].content[0].text",
    )


def test_parts_of_a_text_are_joined(rows: Any) -> None:
    parts = [{"type": "text", "text": "a", "image_url": None}, {"type": "text", "text": "b", "train": True}]
    [row] = rows({"messages": [ASKS, {**SAYS, "content": parts}]})
    assert row.messages[-1].content == "ab"


def test_a_text_is_all_that_is_read_of_a_row_of_text(rows: Any) -> None:
    [row] = rows({"text": "The hammer falls.", "tools": "hammer, nail", "weight": 1, "label": False})
    assert row.text == "The hammer falls."


@pytest.mark.parametrize(
    ("name", "value"), [("weight", 0.5), ("weight", "3"), ("train", False), ("trainable", False)]
)
def test_a_text_that_is_to_count_otherwise_than_the_others_is_refused(
    refused: Any, name: str, value: object
) -> None:
    assert refused({"text": "The hammer falls.", name: value}).field == name


def test_what_is_nested_deeper_than_anyone_writes_says_something(refused: Any) -> None:
    deep: Any = None
    for _ in range(300):
        deep = [deep]
    assert refused({"messages": [ASKS, {**SAYS, "new": deep}]}).field == "messages[1].new"


def test_a_malformed_row_is_said_as_before(refused: Any) -> None:
    assert "not a list of messages" in refused({"messages": [ASKS, "a"]}).problem
    assert "not a list of messages" in refused({"messages": "a", "format": "chat"}).problem


def test_the_page_names_all_that_is_read_left_out_and_refused() -> None:
    section = PAGE.read_text("utf-8").partition("## Rows")[2].partition("## instruction")[0]
    columns = {column for names in COLUMNS.values() for column in names}
    named = {*COLUMNS, *columns, *FILED, *KEPT, *UNRENDERED, "tools", "system", "label", "group", "licence"}
    assert {name for name in named if f"`{name}`" not in section} == set()


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_a_field_that_is_given_twice_is_not_read_once(project: Path, write: Any, name: str) -> None:
    answer = '{"role": "assistant", "content": "a", "content": "b"}'
    said = f'{{"messages": [{{"role": "user", "content": "q"}}, {answer}]}}'
    write(name, said + "\n" if name.endswith("l") else f"[{said}]")
    with pytest.raises(UserError, match="a field is given twice"):
        list(read_rows(SourceSpec(path=name), project, ASKED))
