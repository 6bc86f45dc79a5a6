"""From a digest that a manifest names to the artifact that has it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

from ft_dagster.errors import UserError
from ft_dagster.store.artifacts import Artifact, Place, digests_folder, find_artifact, note_digest
from ft_dagster.store.blobs import Store
from ft_dagster.store.committed import all_committed


def find_digest(
    store: Store, prefixes: Iterable[str], stage: str, digest: str, manifest: str | None = None
) -> Artifact | None:
    """The committed artifact of a stage with this digest, from the first of the prefixes that has one.
    `manifest`: sha256 of its manifest, where several may have the digest; of another where none has that.

    By what was noted at the commit; where nothing was, as in a store of an earlier version, all artifacts of
    the stage are looked at, and it is noted then. Raises UserError for a manifest that cannot be read, where
    it is in none of the others.
    """
    known = list(prefixes)
    with suppress(UserError):
        found = _first(store, _noted(store, known, stage, digest), digest, manifest)
        if found is not None:
            return found
    found = _looked_for(store, known, stage, digest)
    if found is not None:
        with suppress(OSError):  # who may only read finds it without
            note_digest(store, found)
    return found


def of_equal_bytes(store: Store, prefixes: Iterable[str], stage: str, digest: str) -> Iterator[Artifact]:
    """All artifacts of a stage that were noted with this digest at their commit; those that cannot be read
    are left out.
    """
    for place in _noted(store, prefixes, stage, digest):
        with suppress(UserError):
            found = _first(store, [place], digest)
            if found is not None:
                yield found


def _noted(store: Store, prefixes: Iterable[str], stage: str, digest: str) -> Iterator[Place]:
    for prefix in prefixes:
        for key in store.names(digests_folder(prefix, stage, digest)):
            yield Place(prefix, stage, key)


def _looked_for(store: Store, prefixes: Iterable[str], stage: str, digest: str) -> Artifact | None:
    """Among all artifacts of the stage; one that was made so stands if it is still there."""
    damaged: UserError | None = None
    for prefix in prefixes:
        places = [Place(prefix, stage, key) for key in store.names(f"{prefix}/{stage}")]
        for one in all_committed(store, places):
            if isinstance(one, UserError):
                damaged = damaged or one
            elif one.digest == digest and (found := _first(store, [one.place], digest)) is not None:
                return found
    if damaged is not None:
        raise damaged
    return None


def _first(
    store: Store, places: Iterable[Place], digest: str, manifest: str | None = None
) -> Artifact | None:
    """Raises UserError for a manifest that cannot be read, where none of the others is it."""
    damaged: UserError | None = None
    other: Artifact | None = None
    for place in places:
        try:
            artifact = find_artifact(store, place)
        except UserError as error:
            damaged = damaged or error
            continue
        if artifact is not None and artifact.digest == digest:
            if manifest in (None, artifact.manifest):
                return artifact
            other = other or artifact
    if other is None and damaged is not None:
        raise damaged
    return other
