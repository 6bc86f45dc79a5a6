"""All that was ever committed under many keys; of a remote store this host reads each manifest once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from ft_dagster.errors import UserError
from ft_dagster.store.artifacts import Artifact, Place, Removed, stated
from ft_dagster.store.blobs import Store

AT_ONCE = 64  # manifests read from a remote store together


def all_committed(
    store: Store, places: Sequence[Place], anew: Collection[Place] = ()
) -> Iterator[Artifact | UserError]:
    """What was removed since too; of a manifest that cannot be read why not.

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
    """What the manifests of a generation say, of the places that have one."""
    paths = {place: place.manifest_of(generation) for place in places}
    known = store.recall([path for place, path in paths.items() if place not in anew])
    absent = [path for path in paths.values() if path not in known]
    read = dict(zip(absent, store.read_each(absent), strict=True))
    found, learned = list[Artifact | Removed | UserError](), dict[str, bytes]()
    for place, path in paths.items():
        content = known[path] if path in known else read[path]
        if content is None:
            continue
        try:
            found.append(stated(store, place, content, generation))
        except UserError as error:
            found.append(error)
        else:
            learned |= {path: content} if path in read else {}
    store.remember(learned)
    return found
