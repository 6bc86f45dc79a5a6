"""Scores the calls of tools in one answer against those that are due. Pure: no model, no torch.

A call is valid where it names a tool of the row and its arguments hold the tool's JSON schema. An answer is
right where its calls are those of the reference, or where it calls nothing and nothing was to be called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ft_dagster.data.rendering.call_format import Call, CallsRead
from ft_dagster.data.rows.tool_schemas import why_invalid


def call_scores(
    read: CallsRead, due: Sequence[Call], schemas: Mapping[str, Any], *, ordered: bool
) -> dict[str, float]:
    """Return `calls_right`, 0 or 1; `calls_valid` too where calls are due, and `undue_call` where none is.

    An answer of which one call is invalid is not valid. One that begins a call which cannot be read has
    called. `schemas`: see `schemas_of`; of a row without tools there are none, and any call is valid.
    """
    if not due:
        called = bool(read.calls) or read.broken
        return {"calls_right": float(not called), "undue_call": float(called)}
    valid = bool(read.calls) and not any(why_invalid(*call, schemas) for call in read.calls if schemas)
    right = valid and same_calls(read.calls, due, ordered=ordered)
    return {"calls_right": float(right), "calls_valid": float(valid)}


def same_calls(calls: Sequence[Call], due: Sequence[Call], *, ordered: bool) -> bool:
    """Say whether both are the same calls, each as often; in the same order where `ordered`."""
    if len(calls) != len(due):
        return False
    if ordered:
        return all(map(_same_call, calls, due))
    left = list(due)
    for call in calls:
        place = next((n for n, other in enumerate(left) if _same_call(call, other)), None)
        if place is None:
            return False
        del left[place]
    return True


def same_value(one: Any, other: Any) -> bool:
    """Say whether two values are the same JSON: 1 and 1.0 are, 1 and true are not."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_value(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_value, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return bool(one == other)


def _same_call(one: Call, other: Call) -> bool:
    return one.name == other.name and same_value(one.arguments, other.arguments)
