"""Each documented field of a chat row is kept, written in the form of today, or dropped and counted."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.data.sources.readers import RawRow
from ft_dagster.errors import UserError
from ft_dagster.versions.imports.openai_rows import Noted, ReadRow, read_row
from tests.versions.imports.imported import (
    WEATHER,
    call,
    chat,
    declaration,
    imported,
    lines,
    pair,
    refused,
    rows_of,
)

ASKED = {"role": "user", "content": "Rain in Oslo, and in Bergen?"}
TOLD = {"role": "assistant", "content": "In both."}


def read(**fields: Any) -> tuple[ReadRow, dict[str, str]]:
    noted = Counter[Noted]()
    row = read_row(RawRow(fields, "rows.jsonl", 1), noted)
    assert set(noted.values()) == {1}  # a row counts once, however often it has a field
    return row, {each.name: each.kind for each in noted}


def of(*messages: dict[str, Any], **more: Any) -> tuple[ReadRow, dict[str, str]]:
    return read(messages=list(messages), **more)


CALLED = {"role": "assistant", "content": None, "tool_calls": [call("Oslo"), call("Bergen", "call_2")]}
KEPT: dict[str, tuple[tuple[dict[str, Any], ...], dict[str, Any], str]] = {
    "tools": ((ASKED, TOLD), {"tools": [WEATHER]}, "rows.tools"),
    "a call": ((ASKED, {**CALLED, "tool_calls": [call("Oslo")]}), {}, "rows.messages.tool_calls"),
    "parallel calls": ((ASKED, CALLED), {}, "rows.messages.tool_calls, several in a turn"),
    "a tool's answer": (
        (ASKED, CALLED, {"role": "tool", "tool_call_id": "call_1", "content": "rain"}, TOLD),
        {},
        "rows.messages.tool_call_id",
    ),
    "a weight": ((ASKED, {**TOLD, "weight": 0}, ASKED, TOLD), {}, "rows.messages.weight"),
    "a name": (({**ASKED, "name": "kim"}, TOLD), {}, "rows.messages.name"),
    "parallel_tool_calls": ((ASKED, CALLED), {"parallel_tool_calls": True}, "rows.parallel_tool_calls"),
    "parallel_tool_calls off": ((ASKED, TOLD), {"parallel_tool_calls": False}, "rows.parallel_tool_calls"),
    "parts of text": (
        ({"role": "user", "content": [{"type": "text", "text": "Rain?"}]}, TOLD),
        {},
        "rows.messages",
    ),
}


@pytest.mark.parametrize("what", KEPT)
def test_a_row_of_today_is_kept_as_it_is(what: str) -> None:
    messages, more, name = KEPT[what]
    row, noted = of(*messages, **more)
    assert row == ReadRow({"messages": list(messages), **more})
    assert noted[name] == "carried"


def test_former_functions_are_written_as_tools_and_their_answers_name_the_call() -> None:
    function = {"name": "weather", "arguments": '{"place": "Oslo"}'}
    row, noted = of(
        ASKED,
        {"role": "assistant", "content": None, "function_call": function},
        {"role": "function", "name": "weather", "content": "rain"},
        TOLD,
        functions=[WEATHER["function"]],
    )
    assert row.row == {
        "messages": [
            ASKED,
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
            },
            {"role": "tool", "name": "weather", "content": "rain", "tool_call_id": "call_1"},
            TOLD,
        ],
        "tools": [WEATHER],
    }
    assert noted["rows.functions"] == "changed"
    assert noted["rows.messages.function_call"] == "changed"
    assert noted["rows.messages.role function"] == "changed"


def test_a_developers_turn_is_the_systems() -> None:
    row, noted = of({"role": "developer", "content": "Be short."}, ASKED, TOLD)
    assert row.row is not None
    assert row.row["messages"][0] == {"role": "system", "content": "Be short."}
    assert noted["rows.messages.role developer"] == "changed"


@pytest.mark.parametrize(
    "refusal",
    [
        {"role": "assistant", "refusal": "I cannot say."},
        {"role": "assistant", "content": None, "refusal": "I cannot say."},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "I cannot say."}]},
    ],
)
def test_a_refusal_is_the_answer(refusal: dict[str, Any]) -> None:
    row, noted = of(ASKED, refusal)
    assert row.row is not None
    assert row.row["messages"][-1] == {"role": "assistant", "content": "I cannot say."}
    assert noted["rows.messages.refusal"] == "changed"


@pytest.mark.parametrize("part", ["image_url", "input_audio", "file"])
def test_a_row_with_other_than_text_is_dropped(part: str) -> None:
    row, noted = of({"role": "user", "content": [{"type": part, part: {"url": "https://x"}}]}, TOLD)
    assert (row, noted) == (ReadRow(None), {"rows": "dropped"})


def test_a_row_without_an_answer_is_dropped() -> None:
    assert of(ASKED, reference_answer="both") == (ReadRow(None), {"rows": "dropped"})


def test_a_column_that_nothing_reads_is_dropped_and_counted() -> None:
    row, noted = of(ASKED, TOLD, difficulty=3, group="a", id="7", metadata={"x": 1})
    assert row.row is not None
    assert {name for name, kind in noted.items() if kind == "dropped"} == {"rows.difficulty"}


def test_one_call_at_a_time_beside_several_calls_is_dropped() -> None:
    _, noted = of(ASKED, CALLED, parallel_tool_calls=False)
    assert noted["rows.parallel_tool_calls"] == "dropped"


def test_a_prompt_and_its_completion_are_kept() -> None:
    row, noted = read(prompt="Rain?", completion=" Yes.")
    assert row == ReadRow({"prompt": "Rain?", "completion": " Yes."})
    assert noted == {"rows.prompt and completion": "carried"}


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": ["user"], "content": []}, {"role": "assistant", "content": [{"type": ["x"]}]}],
        [{"role": "assistant", "tool_calls": 3, "content": "a", "refusal": 7, "function_call": "x"}],
        [{"role": "assistant", "content": [3, None, "x"], "audio": []}],
    ],
)
def test_a_row_of_odd_types_is_read_or_refused_in_one_line(messages: Any) -> None:
    with suppress(UserError):
        row, _ = of(*messages, tools=7, parallel_tool_calls="no")
        assert row.pair is None


def test_pairs_go_into_a_file_of_their_own_and_count_as_dropped() -> None:
    rows = lines("rows.jsonl", [*(chat(number) for number in range(400)), pair(1), pair(2)])
    assert "2 would be dropped" in refused("openai", rows, "--base-model", "base", allow="1").problem
    assert not Path("mine").exists()
    made = imported("openai", rows, "--base-model", "base", allow="2")
    assert len(rows_of(made)) == 400
    file = Path("mine/data/acme/support/preferences.jsonl")
    pairs = [json.loads(line) for line in file.read_text().splitlines()]
    assert pairs[1]["chosen"] == [{"role": "assistant", "content": "It is on its way."}]
    assert pairs[1]["rejected"] == [{"role": "assistant", "content": "No idea."}]
    assert pairs[1]["prompt"] == [{"role": "user", "content": "Letter 2?"}]
    assert [source["path"] for source in declaration(made)["data"]["sources"]] == [
        "data/acme/support/rows.jsonl"
    ]


def test_each_answer_is_trained_as_it_was_there() -> None:
    rows = lines("rows.jsonl", [chat(number) for number in range(400)])
    made = imported("openai", rows, "--base-model", "base")
    assert declaration(made)["data"]["train_on"] == "assistant_turns"
