"""Narrows a declaration to the fields that a stage listed: no other can be read."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

M = TypeVar("M", bound=BaseModel)


def narrowed(spec: M, fields: Iterable[str]) -> M:
    """Return `spec` with the dotted `fields` alone; reading another one raises UnlistedField.

    A field that is a part ("data.general") brings all that is below it. A part that is not declared (None)
    has nothing below it. Raises KeyError for a field that no declaration has.
    """
    return _narrowed(spec, _tree_of(frozenset(fields)))


@cache
def _tree_of(listed: frozenset[str]) -> dict[str, Any]:
    """Return the names of the fields, each with those below it."""
    tree = dict[str, Any]()
    for field in listed:
        if any(field.startswith(f"{whole}.") for whole in listed):
            continue  # a part that is listed whole brings it
        here = tree
        for name in field.split("."):
            here = here.setdefault(name, {})
    return tree


def shown(spec: BaseModel) -> dict[str, Any]:
    """Return the readable fields of a declaration, narrowed or whole, as plain JSON, as a key covers them."""
    return {
        name: shown_value(value) for name, value in spec.__dict__.items() if not _is_later(spec, name, value)
    }


def shown_value(value: object) -> Any:
    """Return the same for the value of a field: a part, several of them, or anything else."""
    if isinstance(value, BaseModel):
        return shown(value)
    return [shown_value(each) for each in value] if isinstance(value, tuple) else to_jsonable_python(value)


def _is_later(spec: BaseModel, name: str, value: object) -> bool:
    """Say whether it is a field that keys did not cover at first (`SpecModel.added`), at its default."""
    kind = type(spec)
    return name in getattr(kind, "added", ()) and value == kind.model_fields[name].default


def _narrowed(spec: M, tree: dict[str, Any]) -> M:
    kind = type(spec)
    values: dict[str, Any] = {}
    for name, below in tree.items():
        if name not in kind.model_fields:
            raise KeyError(f"{kind.__name__} has no field {name}")
        value = getattr(spec, name)
        values[name] = _narrowed(value, below) if below and isinstance(value, BaseModel) else value
    made = kind.__new__(kind)
    object.__setattr__(made, "__dict__", values)
    object.__setattr__(made, "__pydantic_fields_set__", set(values))
    object.__setattr__(made, "__pydantic_extra__", None)
    object.__setattr__(made, "__pydantic_private__", None)
    return made
