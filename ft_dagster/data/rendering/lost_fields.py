"""Finds what of a row a chat template leaves out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ft_dagster.data.rendering.chat_form import chat_noted
from ft_dagster.data.rows.rows import Row
from ft_dagster.data.rows.tool_schemas import function_of
from ft_dagster.data.sources.turns import as_json
from ft_dagster.strict_json import JsonObject


def lost_field(row: Row, whole: str, trained: Sequence[int], tokenizer: Any, render: Any) -> str | None:
    """Return the field of a row that its rendering `whole` does not carry, None where it carries all.

    Ids of calls, and the name of a tool's answer, only tie the answer to its call: the order of turns does,
    too. Reasoning must be carried where it is trained: templates leave out that of earlier turns by design.
    `render(row)` renders another row as this one was.
    """
    if row.tools and not all(_stands(name, whole) for name in _names_of(row.tool_list)):
        return "tools"
    if row.tools and _same(render, replace(row, tools=""), whole):
        return "tools"
    for i, message in enumerate(row.messages):
        if message.more and (
            name := _lost_of_turn(row, i, whole, trained=i in trained, tokenizer=tokenizer, render=render)
        ):
            return f"messages[{i}].{name}"
    return None


def _lost_of_turn(
    row: Row, i: int, whole: str, *, trained: bool, tokenizer: Any, render: Callable[[Row], str]
) -> str | None:
    message, said = row.messages[i], row.messages[i].said
    if calls := said.get("tool_calls"):
        one_less = {**said, "tool_calls": calls[:-1]} if calls[:-1] else _without(said, "tool_calls")
        shown = all(_stands(text, whole) for call in calls for text in _leaves(call["function"]))
        if not shown or _same(render, _with(row, i, one_less), whole):
            return "tool_calls"
    if (
        "name" in said
        and message.role != "tool"
        and _same(render, _with(row, i, _without(said, "name")), whole)
    ):
        return "name"
    thought = said.get("reasoning_content", "").strip()
    dropped = chat_noted(tokenizer).reasoning == "drop"
    return "reasoning_content" if thought and trained and not dropped and thought not in whole else None


def _without(said: Mapping[str, Any], name: str) -> JsonObject:
    return {key: value for key, value in said.items() if key != name}


def _with(row: Row, i: int, said: Mapping[str, Any]) -> Row:
    """Return the row whose i-th turn says this besides."""
    turns = list(row.messages)
    turns[i] = turns[i]._replace(more=as_json(said) if said else "")
    return replace(row, messages=tuple(turns))


def _same(render: Callable[[Row], str], other: Row, whole: str) -> bool:
    try:
        return render(other) == whole
    except Exception:  # a template may refuse the row without it, as answers without their call
        return False


def _names_of(tools: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the names of tools, and of what they take."""
    for function in filter(None, map(function_of, tools)):
        yield function["name"]
        yield from (function.get("parameters") or {}).get("properties") or {}


def _leaves(value: Any) -> Iterator[str]:
    """Yield the texts in a call: its name, and the texts among its arguments."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(each)


def _stands(text: str, whole: str) -> bool:
    """Say whether a text stands in a rendering: as it is, as JSON has it, or as the same arguments."""
    if text.strip() in whole or any(json.dumps(text, ensure_ascii=a)[1:-1] in whole for a in (True, False)):
        return True
    try:
        inner = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(inner, dict | list) and all(_stands(each, whole) for each in _leaves(inner))
