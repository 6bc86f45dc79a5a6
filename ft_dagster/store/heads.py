"""Heads: the mutable pointer to a stage's newest artifact of a variant."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ft_dagster.store.artifacts import Artifact, Place, find_artifact
from ft_dagster.store.blobs import Store


def head_path(prefix: str, stage: str) -> str:
    return f"{prefix}/heads/{stage}.json"


def write_head(store: Store, prefix: str, artifact: Artifact, run_id: str | None) -> None:
    """Point `prefix`'s head of the artifact's stage at it; the artifact may live under another prefix."""
    store.write_json(
        head_path(prefix, artifact.place.stage),
        {
            "prefix": artifact.place.prefix,
            "key": artifact.place.key,
            "digest": artifact.digest,
            "run_id": run_id,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )


def read_head(store: Store, prefix: str, stage: str) -> Artifact | None:
    """The artifact that the head of a stage points at, or None."""
    try:
        head: dict[str, Any] = store.read_json(head_path(prefix, stage))
    except FileNotFoundError:
        return None
    return find_artifact(store, Place(head["prefix"], stage, head["key"]))
