"""Writes JSON that every reader takes: a figure that is not finite is null, and beside it stands what it was.
`loads` raises only ValueError.
"""

from __future__ import annotations

import json
import math
from typing import Any, TypeAlias

JsonObject: TypeAlias = dict[str, Any]  # as it was parsed, or is to be written
NOT_FINITE = "not_finite"  # field -> "inf", "-inf" or "nan", in the mapping that holds the field
TAG = "__float__"  # of transformers
_NAMES = {math.inf: "Infinity", -math.inf: "-Infinity"}


def loads(content: str | bytes, *, once: bool = False) -> Any:
    """Parse as `json.loads` does. Raises ValueError, also for what is nested beyond Python's depth; `once`:
    also for a name that an object has twice, of which one reader takes the first and another the last.
    """
    try:
        return json.loads(content, object_pairs_hook=_named_once if once else None)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} stands there twice")
        found[name] = value
    return found


def dumps(content: Any, **options: Any) -> str:
    """Write as `json.dumps` does, of what is `finite`; the same text where every number is."""
    try:
        return json.dumps(content, allow_nan=False, **options)
    except ValueError:  # or a circle, which `finite` does not survive either
        return json.dumps(finite(content), allow_nan=False, **options)


def finite(content: Any) -> Any:
    """Return `content` with null for each number that is infinite or none, named under `not_finite` beside
    it.
    """
    if isinstance(content, dict):
        made = {name: finite(value) for name, value in content.items()}
        lost = {str(name): found for name, value in content.items() if (found := _lost(value)) is not None}
        return {**made, NOT_FINITE: {**made.get(NOT_FINITE, {}), **lost}} if lost else made
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if _lost(content) is not None else content


def restored(content: Any) -> Any:
    """Return what `finite` made of content, with each number that it named in its place again."""
    if isinstance(content, dict):
        lost = content.get(NOT_FINITE, {})
        return {
            name: _put_back(value, lost.get(name)) for name, value in content.items() if name != NOT_FINITE
        }
    return [restored(value) for value in content] if isinstance(content, list) else content


def tagged(content: Any) -> Any:
    """Return a model's configuration with such numbers as transformers itself writes and reads them."""
    if isinstance(content, dict):
        return {name: tagged(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [tagged(value) for value in content]
    return content if _lost(content) is None else {TAG: _NAMES.get(content, "NaN")}


def untagged(content: Any) -> Any:
    """Return what `tagged` made of a configuration, with such numbers in their places again."""
    if isinstance(content, dict):
        if set(content) == {TAG}:
            return float(content[TAG])
        return {name: untagged(value) for name, value in content.items()}
    return [untagged(value) for value in content] if isinstance(content, list) else content


def _lost(value: Any) -> Any:
    """Return which number a value is that JSON does not have; of a list, those of its members; None if it has
    it.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, list | tuple):
        found = {str(at): lost for at, one in enumerate(value) if (lost := _lost(one)) is not None}
        return found or None
    return None


def _put_back(value: Any, lost: Any) -> Any:
    """Return the inverse of `_lost`: `value` with the numbers that `lost` names."""
    if isinstance(lost, str):
        return float(lost)
    if isinstance(lost, dict):
        return [_put_back(one, lost.get(str(at))) for at, one in enumerate(value)]
    return restored(value)
