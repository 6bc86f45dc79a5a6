"""Rows of every format are told apart, checked, and normalized to one form with a stable leaf."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import rfc8785

from ft_dagster.data.locations import DeclaredAt
from ft_dagster.data.rows import Message, Row
from ft_dagster.data.sources import read_rows
from ft_dagster.errors import UserError
from ft_dagster.spec.variant import SourceSpec

ASKED = DeclaredAt("acme/support.yaml", "data.sources[0]")
CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
MESSAGES = (Message("user", "q"), Message("assistant", "a"))


@pytest.fixture
def rows(project: Path, write: Any) -> Any:
    def of(*raw: Any, **spec: Any) -> list[Row]:
        write("rows.jsonl", raw)
        return list(read_rows(SourceSpec(path="rows.jsonl", **spec), project, ASKED))

    return of


@pytest.fixture
def refused(rows: Any) -> Any:
    def of(*raw: Any, **spec: Any) -> UserError:
        with pytest.raises(UserError) as caught:
            rows(*raw, **spec)
        return caught.value

    return of


@pytest.mark.parametrize(
    "raw",
    [
        {"messages": CHAT},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"conversations": CHAT},
        {"instruction": "q", "input": "", "output": "a"},
        {"prompt": CHAT[:1], "completion": CHAT[1:]},
        {"messages": [CHAT[0], {"role": "assistant", "content": [{"type": "text", "text": "a"}]}]},
    ],
)
def test_conversations_of_any_format_become_the_same_messages(rows: Any, raw: dict[str, Any]) -> None:
    [row] = rows(raw)
    assert (row.kind, row.messages) == ("messages", MESSAGES)


def test_the_input_of_an_alpaca_row_follows_its_instruction(rows: Any) -> None:
    [row] = rows({"instruction": "Translate.", "input": "Haus", "output": "house"})
    assert row.messages[0] == Message("user", "Translate.\n\nHaus")


def test_a_prompt_and_completion_stay_as_they_are(rows: Any) -> None:
    [row] = rows({"prompt": "q ", "completion": " a"})
    assert (row.kind, row.prompt, row.completion) == ("prompt_completion", "q ", " a")


@pytest.mark.parametrize("column", ["text", "content"])
def test_a_text_column_makes_a_text_row(rows: Any, column: str) -> None:
    [row] = rows({column: "words", "id": 3})
    assert (row.kind, row.text) == ("text", "words")


def test_columns_are_renamed_before_the_format_is_told(rows: Any) -> None:
    [row] = rows({"q": "x", "a": "y"}, fields={"prompt": "q", "completion": "a"})
    assert (row.prompt, row.completion) == ("x", "y")


def test_a_renamed_column_that_is_not_there_names_the_nearest(refused: Any) -> None:
    error = refused({"question": "x", "answer": "y"}, fields={"prompt": "questoin", "completion": "answer"})
    assert (error.field, error.line) == ("data.sources[0].fields.prompt", 1)
    assert "question" in error.fix


def test_the_declared_system_message_goes_first_unless_the_row_has_its_own(rows: Any) -> None:
    own = {"messages": [{"role": "system", "content": "own"}, *CHAT]}
    declared, kept = rows({"messages": CHAT}, own, system="be brief")
    assert declared.messages[0] == Message("system", "be brief")
    assert kept.messages[0] == Message("system", "own")


def test_a_system_message_for_rows_that_cannot_have_one_is_refused(refused: Any) -> None:
    assert refused({"prompt": "q", "completion": "a"}, system="x").field == "data.sources[0].system"


def test_licence_and_group_come_with_the_row(rows: Any) -> None:
    [row] = rows({"text": "words", "group": "g7", "license": "MIT"})
    assert (row.licence, row.group, row.weight) == ("MIT", "g7", 1.0)
    [row] = rows({"text": "words", "license": "MIT"}, licence="CC0-1.0")
    assert row.licence == "CC0-1.0"


GOOD = {"prompt": "q", "completion": "a"}


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"prompt": "q"}, "without a completion"),
        ({"prompt": "q", "completion": None}, "without a completion"),
        ({"prompt": "q", "completion": "  "}, "without a completion"),
        ({"prompt": "q", "completion": 3}, "not text"),
        ({"completion": "a"}, "column is missing"),
        ({"prompt": "q", "completion": "\ud800"}, "not valid Unicode"),
    ],
)
def test_a_bad_prompt_completion_row_names_file_and_line(refused: Any, bad: Any, said: str) -> None:
    error = refused(GOOD, bad)
    assert (error.file, error.line) == ("rows.jsonl", 2)
    assert said in error.problem


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "not a list of messages"),
        ("hello", "not a list of messages"),
        ([{"role": "robot", "content": "x"}, CHAT[1]], "unknown role"),
        ([{"content": "x"}, CHAT[1]], "unknown role"),
        (CHAT[:1], "not the assistant's"),
        ([CHAT[0], {"role": "assistant", "content": ""}], "without a completion"),
        ([CHAT[0], {"role": "assistant", "content": None}], "not text"),
        ([CHAT[1]], "without a user turn"),
        ([CHAT[0], {**CHAT[1], "tool_calls": [{"name": "f"}]}], "not built yet"),
    ],
)
def test_a_bad_conversation_names_file_and_line(refused: Any, messages: Any, said: str) -> None:
    error = refused({"messages": CHAT}, {"messages": messages})
    assert (error.file, error.line) == ("rows.jsonl", 2)
    assert said in error.problem


def test_a_row_of_no_known_format_names_its_columns(refused: Any) -> None:
    error = refused({"code": "A00", "meaning": "Cholera"})
    assert error.field == "data.sources[0].format"
    assert "code, meaning" in error.fix


def test_a_declared_format_that_the_row_does_not_have_is_refused(refused: Any) -> None:
    assert refused({"text": "x"}, format="chat").field == "messages"


def test_preference_rows_are_not_built_yet(refused: Any) -> None:
    assert "not built yet" in refused({"prompt": "q", "chosen": "a", "rejected": "b"}).problem


@pytest.mark.parametrize(
    "raw",
    [{"messages": CHAT}, {"text": 'é "quoted" \\ \u2028 \x07 \t\n😀'}, {"prompt": "ü", "completion": "z"}],
)
def test_the_leaf_is_the_salted_hash_of_canonical_json(rows: Any, raw: Any) -> None:
    [row] = rows(raw)
    assert row.canonical == rfc8785.dumps(row.content)
    assert len(row.salt) == 32
    assert row.record == hashlib.sha256(bytes.fromhex(row.salt) + row.canonical).hexdigest()


def test_equal_rows_have_one_identity_and_different_leaves(rows: Any) -> None:
    one, two = rows({"messages": CHAT}, {"messages": CHAT})
    assert one.identity == two.identity
    assert one.record != two.record


def test_the_leaf_of_a_row_is_the_same_on_every_reading(rows: Any) -> None:
    assert rows({"messages": CHAT})[0].record == rows({"messages": CHAT})[0].record
