"""Reads all that was ever committed under many keys; of a remote store this host reads each manifest once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress

from ft_dagster.errors import UserError
from ft_dagster.store.artifacts import Artifact, Place, Removed, stated
from ft_dagster.store.blobs import Store

AT_ONCE = 64  # manifests read from a remote store together


def committed_in(store: Store, prefix: str, stage: str) -> Iterator[Artifact | UserError]:
    """Yield every committed artifact of a stage below a prefix, see `all_committed`."""
    return all_committed(store, [Place(prefix, stage, key) for key in store.names(f"{prefix}/{stage}")])


def all_committed(
    store: Store, places: Sequence[Place], anew: Collection[Place] = ()
) -> Iterator[Artifact | UserError]:
    """Yield every committed artifact, those removed since too; for a manifest that cannot be read, the
    reason.

    A key whose artifact was removed and made again after this host read its manifest: the first alone, unless
    it is among those to be read `anew`. Who needs what stands asks `find_artifact`.
    """
    for first in range(0, len(places), AT_ONCE):
        due, generation = list(places[first : first + AT_ONCE]), 1
        while due:
            found = _read(store, due, generation, anew)
            yield from (one.artifact if isinstance(one, Removed) else one for one in found)
            due = [one.artifact.place for one in found if isinstance(one, Removed)]
            generation += 1


def _read(
    store: Store, places: list[Place], generation: int, anew: Collection[Place]
) -> list[Artifact | Removed | UserError]:
    """Read the manifests of a generation, for the places that have one."""
    found = dict[Place, Artifact | Removed | UserError]()
    found |= _recalled(store, [place for place in places if place not in anew], generation)
    due = {place.manifest_of(generation): place for place in places if place not in found}
    learned = dict[str, bytes]()
    for (path, place), content in zip(due.items(), store.read_each(list(due)), strict=True):
        if content is None:
            continue
        try:
            found[place] = stated(store, place, content, generation)
        except UserError as error:
            found[place] = error
        else:
            learned[path] = content
    store.remember(learned)
    return [found[place] for place in places if place in found]


def _recalled(store: Store, places: list[Place], generation: int) -> dict[Place, Artifact | Removed]:
    """Return what this host remembers, where it holds: a damaged memory says nothing of the store."""
    paths = {place.manifest_of(generation): place for place in places}
    found = dict[Place, Artifact | Removed]()
    for path, content in store.recall(list(paths)).items():
        with suppress(UserError):
            found[paths[path]] = stated(store, paths[path], content, generation)
    return found
