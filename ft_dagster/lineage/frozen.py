"""Reads the declarations of a variant that were frozen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.stage_entries import DECLARATION
from ft_dagster.store import Artifact, Store, read_head
from ft_dagster.store.committed import committed_in


def content_of(declaration: Artifact) -> dict[str, Any]:
    """Return declaration.json, as its key has it; the first keys had its parts by themselves."""
    content: dict[str, Any] = declaration.spec.get("content", declaration.spec)
    return content


def frozen_declarations(store: Store, prefix: str) -> Iterator[dict[str, Any]]:
    """Yield declaration.json of every declaration of the variant that was frozen, also of those that
    retention removed; the newest first, where its head can be read.
    """
    newest = None
    with suppress(UserError):
        newest = read_head(store, prefix, DECLARATION.name)
    if newest is not None:
        yield content_of(newest)
    for one in committed_in(store, prefix, DECLARATION.name):
        if isinstance(one, UserError):
            raise one
        yield content_of(one)


def named_reference(store: Store, prefix: str) -> int | None:
    """Return the version that a variant's newest frozen declaration names as the reference; None where it is
    the first.
    """
    newest = next(frozen_declarations(store, prefix), {})
    named = newest.get("spec", {}).get("gates", {}).get("reference")
    return named if isinstance(named, int) else None
