"""Checks that values have the type of their field, before pydantic turns one type into another."""

from __future__ import annotations

from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin


def plain_value(value: Any, annotation: Any) -> Any:
    """Return `value` if its type may stand in a field of that annotation. Raises ValueError for a truth value
    where a number belongs, and for a number where a truth value does.

    A text may stand for a number: YAML reads 1e-4 as one, and the environment has nothing else. Where a field
    knows the words `off` or `on`, false and true stand for them: YAML reads them so.
    """
    kinds = _kinds(annotation)
    for said, word in ((False, "off"), (True, "on")):
        if value is said and bool not in kinds and word in _words(annotation):
            return word
    if isinstance(value, bool) and bool not in kinds and kinds & {int, float}:
        raise ValueError("a number is needed, not true or false")
    if isinstance(value, int | float) and not isinstance(value, bool) and bool in kinds:
        raise ValueError("true or false is needed, not a number")
    return value


@cache
def _words(annotation: Any) -> frozenset[Any]:
    """Return the values of the Literals in an annotation."""
    parts = get_args(annotation)
    if get_origin(annotation) is Literal:
        return frozenset(parts)
    return frozenset().union(*map(_words, parts))


@cache
def _kinds(annotation: Any) -> frozenset[Any]:
    """Return the types that a value of this annotation itself may have: the members of a union, of a
    Literal.
    """
    parts = get_args(annotation)
    if isinstance(annotation, type) or not parts:
        return frozenset((annotation,))
    origin = get_origin(annotation)
    if origin is Literal:
        return frozenset(type(part) for part in parts)
    if origin is Annotated:
        return _kinds(parts[0])
    if isinstance(origin, type) and origin is not UnionType:
        return frozenset((origin,))
    return frozenset().union(*map(_kinds, parts))
