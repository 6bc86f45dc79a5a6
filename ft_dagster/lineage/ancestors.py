"""From an artifact back to what it was made from, by the digests that manifests name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ft_dagster.provenance.stage_versions import STAGE_VERSIONS
from ft_dagster.store.artifacts import Artifact, Place, find_artifact
from ft_dagster.store.blobs import Store

STAGE_OF = {"general_scores": "base_evaluation"}  # inputs that are not named as their stage


def find_digest(store: Store, prefixes: Iterable[str], stage: str, digest: str) -> Artifact | None:
    """The committed artifact of a stage with this digest, from the first of the prefixes that has one."""
    for prefix in prefixes:
        for key in store.names(f"{prefix}/{stage}"):
            artifact = find_artifact(store, Place(prefix, stage, key))
            if artifact is not None and artifact.digest == digest:
                return artifact
    return None


def ancestors(store: Store, artifact: Artifact) -> Iterator[Artifact]:
    """Every artifact that `artifact` was made from, however far back, each once, near ones first.

    Looked for with the artifact itself, with its tenant's other variants, and among what is shared. Inputs
    that are no artifacts (as sources and gates) and artifacts that the store no longer has are left out.
    """
    seen, line = {artifact.digest}, [artifact]
    while line:
        one = line.pop(0)
        for name, digest in one.inputs.items():
            stage = STAGE_OF.get(name, name)
            if digest in seen or stage not in STAGE_VERSIONS:
                continue
            found = find_digest(store, _prefixes(store, one.place.prefix), stage, digest)
            if found is not None:
                seen.add(digest)
                line.append(found)
                yield found


def _prefixes(store: Store, own: str) -> Iterator[str]:
    yield own
    yield "shared"
    yield from (f"shared/corpora/{name}" for name in store.names("shared/corpora"))
    if own.startswith("tenants/"):
        tenant = own.rpartition("/")[0]
        yield from (f"{tenant}/{name}" for name in store.names(tenant) if f"{tenant}/{name}" != own)
