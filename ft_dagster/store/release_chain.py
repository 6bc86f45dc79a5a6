"""Says how an entry of a release log holds those before it, and what of it is signed, by bytes and hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from ft_dagster.provenance.digest import sha256_json
from ft_dagster.store.blobs import as_stored

CHAINED = 3  # the first schema whose entries name what stands before them
FOLDER = "releases"  # of a part of the store
MANIFESTS = ("export_manifest", "evaluation_manifest")  # fields of a chained release: sha256 of what it binds


def link_after(schema: int, hashes: Sequence[str]) -> str | None:
    """Return what an entry names as `previous` that is written after these; `schema`: of the newest of
    them.
    """
    if not hashes:
        return None
    return hashes[-1] if schema >= CHAINED else sha256_json(list(hashes))


def signed_of(schema: int, content: bytes, before: Sequence[str]) -> bytes:
    """Return what is signed of an entry: its bytes. Of one that does not name what stands before it, its hash
    with its number and theirs (`before`), for it would fit anywhere else.
    """
    if schema >= CHAINED:
        return content
    own = hashlib.sha256(content).hexdigest()
    return as_stored({"entry": len(before) + 1, "sha256": own, "after": sha256_json(list(before))})
