"""Rows of every format are told apart, checked, and normalized to one form with a stable leaf."""

from __future__ import annotations

import hashlib
from typing import Any

from ft_dagster.data.rows.rows import Message, in_exchange

CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
MESSAGES = (Message("user", "q"), Message("assistant", "a"))


def test_the_leaf_is_the_salted_hash_of_the_identity(rows: Any) -> None:
    [row] = rows({"messages": CHAT})
    assert len(row.salt) == 16
    assert row.record == hashlib.sha256(row.salt + row.identity).digest()


def test_equal_rows_have_one_identity_and_different_leaves(rows: Any) -> None:
    one, two = rows({"messages": CHAT}, {"messages": CHAT})
    assert one.identity == two.identity
    assert one.record != two.record


TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL: dict[str, Any] = {
    "id": "1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Paris"}'},
}


def turned(**more: Any) -> dict[str, Any]:
    return {"messages": [CHAT[0], {**CHAT[1], **more}]}


def test_rows_that_differ_only_beside_their_texts_are_other_records_and_no_duplicates(rows: Any) -> None:
    function = {**CALL["function"], "arguments": '{"city": "Rome"}'}
    given = [
        {"messages": CHAT},
        {"messages": CHAT, "tools": [TOOL]},
        turned(tool_calls=[CALL]),
        turned(tool_calls=[{**CALL, "function": function}]),
        turned(reasoning_content="I know."),
        turned(reasoning_content="I guess."),
        {"messages": [*CHAT, {**CHAT[0], "name": "ann"}, CHAT[1]]},
        {"messages": [*CHAT, {**CHAT[0], "name": "bob"}, CHAT[1]]},
        {"messages": [CHAT[0], {**CHAT[1], "train": False}, *CHAT]},
        {"messages": [*CHAT, *CHAT]},
    ]
    made = rows(*given)
    assert len({row.identity for row in made}) == len({row.likeness for row in made}) == len(given)
    assert len({row.identity_1 for row in made}) == 2  # of two turns and of four
    for row in made:
        assert (row.identity == row.identity_1) == (row.likeness == row.identity_1) == (not row.says_more)


def test_beside_the_texts_neither_case_nor_spacing_nor_the_order_of_names_makes_another_record(
    rows: Any,
) -> None:
    turned_round = {"function": {"parameters": {"type": "object"}, "name": "weather"}, "type": "function"}
    one, other = rows(
        {"messages": turned(reasoning_content="I  KNOW\u200b that\n")["messages"], "tools": [TOOL]},
        {"messages": turned(reasoning_content="I know that")["messages"], "tools": [turned_round]},
    )
    assert one.identities == other.identities


def test_what_stands_beside_the_texts_may_be_nested_however_deep(rows: Any) -> None:
    deep: Any = "10⁶"
    for _ in range(400):
        deep = {"a": [deep]}
    [one], [other] = rows({"messages": CHAT, "tools": [deep]}), rows({"messages": CHAT, "tools": [TOOL]})
    assert one.identity != other.identity


def test_a_lost_character_makes_another_record_and_no_other_question(rows: Any) -> None:
    one, other = rows(turned(reasoning_content="10⁶"), turned(reasoning_content="106"))
    assert one.identity != other.identity
    assert (one.likeness, one.identity_1) == (other.likeness, other.identity_1)


def test_the_leaf_of_a_row_is_the_same_on_every_reading(rows: Any) -> None:
    assert rows({"messages": CHAT})[0].record == rows({"messages": CHAT})[0].record


def test_a_prompt_and_its_completion_as_an_exchange_are_the_same_record(rows: Any) -> None:
    [row] = rows({"prompt": "q", "completion": "a", "group": "g"})
    made = in_exchange(row, True)
    assert (made.kind, made.messages, made.group) == ("messages", MESSAGES, "g")
    assert (made.identity, made.record, made.salt) == (row.identity, row.record, row.salt)
    assert in_exchange(row, False) is row
    [talk] = rows({"messages": CHAT})
    assert in_exchange(talk, True) is talk
