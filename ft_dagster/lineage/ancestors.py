"""From a digest that a manifest names to the artifact that has it."""

from __future__ import annotations

from collections.abc import Iterable

from ft_dagster.errors import UserError
from ft_dagster.store.artifacts import Artifact, Place, find_artifact
from ft_dagster.store.blobs import Store


def find_digest(store: Store, prefixes: Iterable[str], stage: str, digest: str) -> Artifact | None:
    """The committed artifact of a stage with this digest, from the first of the prefixes that has one.

    Raises UserError for a manifest that cannot be read, where it is in none of the others.
    """
    damaged: UserError | None = None
    for prefix in prefixes:
        for key in store.names(f"{prefix}/{stage}"):
            try:
                artifact = find_artifact(store, Place(prefix, stage, key))
            except UserError as error:
                damaged = damaged or error
                continue
            if artifact is not None and artifact.digest == digest:
                return artifact
    if damaged is not None:
        raise damaged
    return None
