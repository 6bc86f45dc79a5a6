"""Says of which record trees the key is not on this host, before somebody needs it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from ft_dagster.errors import UserError
from ft_dagster.records.record_keys import RESTORE, SHARED_OWNER, ids_here
from ft_dagster.records.record_tree import TreeHead
from ft_dagster.store import Artifact


def lost_keys(folder: Path, made: Iterable[Artifact]) -> list[UserError]:
    """Return an error for each key that record trees of these artifacts name and that is not in the folder
    of keys. Makes no key. Raises UserError for a file of keys that is none, and for figures that name no
    tree.
    """
    named = Counter[tuple[str, str]]()
    for one in {each.place.path: each for each in made}.values():
        head = TreeHead.of(one.figures)
        if head is not None:
            named[_owner(one.place.prefix), head.key] += 1
    lost = [(owner, id) for owner, id in named if id not in ids_here(folder, owner)]
    return [
        UserError(
            f"the key {id} of {owner or 'what all share'} is not here, and orders {named[owner, id]:,} of "
            "the newest record trees: nothing is proved by them, and no record found in them, without it",
            file=folder,
            fix=RESTORE,
        )
        for owner, id in lost
    ]


def _owner(prefix: str) -> str:
    part, *names = prefix.split("/")
    return names[0] if part == "tenants" else SHARED_OWNER
