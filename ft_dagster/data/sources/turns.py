"""Reads what a turn of a conversation says beside its role and text: calls of tools, a name, reasoning,
whether it is trained; and the tools of a row.

Nothing here judges whether a call is right: `rows/faults.py` does. What does not parse is kept as it is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from ft_dagster.data.sources.readers import RawRow, kind_of
from ft_dagster.strict_json import dumps, loads

REASONING = ("reasoning_content", "reasoning", "thinking")  # names of one thing; the first is ours
# Whether a message is trained, by 0 or 1, false or true.
TRAINED = ("train", "trainable", "weight", "loss")
# What is read of a message beside its role and text.
KEPT = ("tool_calls", "name", "tool_call_id", *REASONING, *TRAINED)
CALL, FUNCTION = ("id", "type", "function", "index"), ("name", "arguments")
DEEPEST = 8  # of fields within fields that are looked through for anything said


def as_json(content: Any) -> str:
    """Return the JSON text of a content, without spaces, its names in the order in which they were given: a
    template writes tools and arguments in that order, and a model learns it.
    """
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False)


def in_order(text: str) -> str:
    """Return a JSON text with the names of each object sorted, as identities take it; what is no JSON as it
    is.
    """
    try:
        return dumps(loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def more_of(raw: RawRow, turn: Mapping[str, Any], where: str, role: str) -> str:
    """Return the JSON of what a message says beside role and text, "" where it says nothing. Raises
    UserError.
    """
    more: dict[str, Any] = {}
    if says(turn.get("tool_calls")):
        _only(raw, role, ("assistant",), f"{where}.tool_calls")
        more["tool_calls"] = _calls(raw, _parsed(raw, turn["tool_calls"]), f"{where}.tool_calls")
    for name in ("name", "tool_call_id"):
        if says(turn.get(name)):
            more[name] = _text(raw, turn[name], f"{where}.{name}")
    reasons = {name: _text(raw, turn[name], f"{where}.{name}") for name in REASONING if says(turn.get(name))}
    if reasons:
        _only(raw, role, ("assistant",), f"{where}.{next(iter(reasons))}")
        if len(set(reasons.values())) > 1:
            problem = f"{' and '.join(reasons)} say different things"
            raise raw.error(problem, "Keep one of them", field=f"{where}.{next(iter(reasons))}")
        more["reasoning_content"] = next(iter(reasons.values()))
    if not _is_trained(raw, turn, where) and role == "assistant":
        more["train"] = False
    return _json(raw, more, where) if more else ""


def tools_of(raw: RawRow, tools: Any, where: str) -> str:
    """Return the JSON of a row's list of tools, "" where it has none; a text that does not parse as
    it is. Raises UserError.
    """
    if not says(tools):
        return ""
    content = _parsed(raw, tools)
    return content if isinstance(content, str) else _json(raw, content, where) if says(content) else ""


def says_nothing(value: Any, depth: int = DEEPEST) -> bool:
    """Say whether a value is empty, however deep: a file of columns gives each message the fields of all."""
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return depth > 0 and all(says_nothing(each, depth - 1) for each in inner)
    return value is None or (isinstance(value, float) and math.isnan(value))


def says(value: Any) -> bool:
    return not says_nothing(value)


def _is_trained(raw: RawRow, turn: Mapping[str, Any], where: str) -> bool:
    said = {name: turn[name] for name in TRAINED if says(turn.get(name))}
    for name, value in said.items():
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            problem = f"neither 0 nor 1, neither true nor false: {kind_of(value)}"
            raise raw.error(problem, "A turn is trained whole or is context", field=f"{where}.{name}")
    if len({bool(value) for value in said.values()}) > 1:
        problem = f"{' and '.join(said)} say different things"
        raise raw.error(problem, "Keep one of them", field=f"{where}.{next(iter(said))}")
    return all(said.values())


def _only(raw: RawRow, role: str, roles: tuple[str, ...], where: str) -> None:
    if role not in roles:
        raise raw.error(
            f"a turn of role {role} has none", f"Only {' or '.join(roles)} may have it", field=where
        )


def _text(raw: RawRow, value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise raw.error(f"malformed row: not text but {kind_of(value)}", "Put a string there", field=where)
    return value


def _calls(raw: RawRow, calls: Any, where: str) -> Any:
    """Return calls as {id?, type?, function}; what are no calls as they are."""
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        return calls
    made = []
    for i, call in enumerate(calls):
        bare = "function" not in call and "name" in call
        function = call if bare else call.get("function")
        _only_names(raw, call, (*CALL, *FUNCTION) if bare else CALL, f"{where}[{i}]")
        kept = {name: call[name] for name in ("id", "type") if says(call.get(name))}
        if isinstance(function, dict):
            if not bare:
                _only_names(raw, function, FUNCTION, f"{where}[{i}].function")
            function = {name: function[name] for name in FUNCTION if name in function}
        made.append({**kept, "function": function})
    return made


def _only_names(raw: RawRow, said: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    for name, value in said.items():
        if name not in names and says(value):
            problem = "not built yet: what it says would be lost"
            raise raw.error(problem, "Remove it", field=f"{where}.{name}")


def _parsed(raw: RawRow, value: Any) -> Any:
    """Return what a text holds as JSON, itself where it is none; without the nulls that a file of columns
    gives each object for the names of all others.
    """
    if isinstance(value, str):
        try:
            return loads(value, once=True)
        except ValueError:
            return value
    return _without_nulls(value) if raw.columnar else value


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nulls(each) for name, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


def _json(raw: RawRow, content: Any, where: str) -> str:
    try:
        text = as_json(content)
        text.encode()
    except (TypeError, RecursionError):
        problem = "malformed row: values that are no JSON, or too deep"
        raise raw.error(problem, "Put texts, numbers, lists and objects there", field=where) from None
    except UnicodeEncodeError:
        fix = "Remove the lone surrogate (a broken emoji, as a rule)"
        raise raw.error("malformed row: not valid Unicode", fix, field=where) from None
    return text
