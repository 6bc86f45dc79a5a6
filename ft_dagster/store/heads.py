"""Reads and writes heads: the mutable pointer to a stage's newest artifact of a variant."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime

from ft_dagster.errors import UserError
from ft_dagster.store.artifacts import Artifact, Place, find_artifact
from ft_dagster.store.blobs import SHARED, Store
from ft_dagster.store.removal import keep

KEY = re.compile(r"[0-9a-f]{64}")


def tenant_name(tenant: str) -> str:
    """Return a tenant's name as it is listed beside SHARED: a tenant called SHARED, from before the name was
    reserved, is listed by its folder.
    """
    return f"tenants/{tenant}" if tenant == SHARED else tenant


def head_path(prefix: str, stage: str) -> str:
    return f"{prefix}/heads/{stage}.json"


def write_head(store: Store, prefix: str, artifact: Artifact, run_id: str | None) -> None:
    """Point `prefix`'s head of the artifact's stage at it; the artifact may live under another prefix. What
    it pointed at before is kept for a while: somebody may be reading it.
    """
    with suppress(UserError):  # a broken head is written over
        former = _pointed_at(store, prefix, artifact.place.stage)
        if former is not None and former[0] != artifact.place:
            _keep_former(store, former[0])
    store.write_json(
        head_path(prefix, artifact.place.stage),
        {
            "prefix": artifact.place.prefix,
            "key": artifact.place.key,
            "digest": artifact.digest,
            "run_id": run_id,
            "at": datetime.now(UTC).isoformat(timespec="microseconds"),  # an audit tells two writes by it
        },
    )


def _keep_former(store: Store, place: Place) -> None:
    former = find_artifact(store, place)
    if former is not None:
        keep(store, former)


def read_head(store: Store, prefix: str, stage: str) -> Artifact | None:
    """Return the artifact that the head of a stage points at, or None.

    Raises UserError for a head that points into another variant's part of the store, or at an artifact that
    is another one by now.
    """
    pointed_at = _pointed_at(store, prefix, stage)
    if pointed_at is None:
        return None
    place, digest = pointed_at
    artifact = find_artifact(store, place)
    if artifact is not None and artifact.digest != digest:
        found = f"points at {digest[:12]}, where {artifact.digest[:12]} stands"
        raise _wrong(store, head_path(prefix, stage), found, stage)
    return artifact


def _pointed_at(store: Store, prefix: str, stage: str) -> tuple[Place, str] | None:
    """Return place and digest that a head names; None without one. Raises UserError, see `read_head`."""
    path = head_path(prefix, stage)
    try:
        head: dict[str, object] = store.read_json(path)
        place, digest = Place(str(head["prefix"]), stage, str(head["key"])), str(head["digest"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise _wrong(store, path, "not a head", stage) from None
    if not KEY.fullmatch(place.key):
        raise _wrong(store, path, "not a head: its key is none", stage)
    if not (place.prefix == SHARED or f"{prefix}/".startswith(f"{place.prefix}/")):
        raise _wrong(store, path, f"a head that points into {place.prefix}", stage)
    return place, digest


def head_time(store: Store, prefix: str, stage: str) -> datetime | None:
    """Return when a stage's head was written, by the run that made or found its artifact; None without
    one.
    """
    try:
        return datetime.fromisoformat(store.read_json(head_path(prefix, stage))["at"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise _wrong(store, head_path(prefix, stage), "not a head", stage) from None


def _wrong(store: Store, path: str, what: str, stage: str) -> UserError:
    fix = f"Restore it from a backup, or delete it and materialize {stage} again"
    return UserError(what, file=store.uri(path), fix=fix)
