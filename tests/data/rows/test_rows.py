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
