"""Finds the artifacts that a variant's version was made from, from the heads and the manifests alone, as a
run would find them now: an artifact that was made again with equal bytes stands for the first.

The version in production; before the first release the newest that was judged, or at least trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from ft_dagster.lineage.entry import ReleaseEntry
from ft_dagster.lineage.graph import (
    Input,
    StoredGraph,
    of_equal_bytes,
    parts_of_version,
    released_export,
    stage_of,
)
from ft_dagster.lineage.release import history
from ft_dagster.lineage.served import served_in
from ft_dagster.stage_entries import (
    EVALUATION,
    FINE_TUNED_MODEL,
    MODEL_EXPORT,
    TASK_DATASET,
)
from ft_dagster.stages.chain import CHAIN, ON_DEMAND
from ft_dagster.store import SHARED, Artifact, Store, read_head
from ft_dagster.workspace.keyed_inputs import differing
from ft_dagster.workspace.stage_version import is_of_now

STAGES = tuple(stage.name for stage in CHAIN)
HEADLESS = {stage.name for stage in ON_DEMAND}
FOLLOWED = {*STAGES, *HEADLESS}


class VersionArtifacts(NamedTuple):
    """Holds the artifacts of a version. `artifacts`: by stage, none before anything was trained; without the
    corpus, which is the platform's. `heads`: the newest of each stage, of what was trained. `log`: the
    variant's releases, oldest first.
    """

    artifacts: Mapping[str, Artifact]
    heads: Mapping[str, Artifact | None]
    log: tuple[ReleaseEntry, ...]

    @property
    def released(self) -> ReleaseEntry | None:
        return served_in(self.log)

    @property
    def sources_then(self) -> str | None:
        """Return the digest of the sources' fingerprints that its rows were read by."""
        rows = self.artifacts.get(TASK_DATASET.name)
        return None if rows is None else rows.inputs.get("sources")


def version_artifacts(store: Store, prefix: str) -> VersionArtifacts:
    """Return the artifacts of the variant whose part of the store is `prefix`, without what retention
    removed. Raises UserError for damage.
    """
    log = tuple(history(store, prefix))
    if not log and all(
        read_head(store, prefix, stage) is None for stage in (FINE_TUNED_MODEL.name, EVALUATION.name)
    ):
        return VersionArtifacts({}, {}, log)
    heads = {stage: read_head(store, prefix, stage) for stage in STAGES}
    root = _root(store, prefix, heads, served_in(log))
    return VersionArtifacts(_made_of(store, heads, [] if root is None else [root]), heads, log)


def newest_artifacts(store: Store, prefix: str, stage: str) -> VersionArtifacts:
    """Return the newest artifact of a stage, and what it was made from, as `version_artifacts`."""
    heads = {stage: read_head(store, prefix, stage) for stage in STAGES}
    newest = heads[stage]
    return VersionArtifacts(_made_of(store, heads, [] if newest is None else [newest]), heads, ())


def _made_of(
    store: Store, heads: Mapping[str, Artifact | None], roots: Sequence[Artifact]
) -> dict[str, Artifact]:
    return parts_of_version(_AsFoundNow(store, heads), roots, FOLLOWED)


def _root(
    store: Store, prefix: str, heads: Mapping[str, Artifact | None], released: ReleaseEntry | None
) -> Artifact | None:
    export, judged, trained = (
        heads[stage] for stage in (MODEL_EXPORT.name, EVALUATION.name, FINE_TUNED_MODEL.name)
    )
    if released is not None:
        if export is not None and export.digest == released.export:
            return export
        return released_export(store, prefix, released)
    if judged is None or (trained is not None and judged.inputs.get(FINE_TUNED_MODEL.name) != trained.digest):
        return trained
    return export if export is not None and export.inputs.get(EVALUATION.name) == judged.digest else judged


@dataclass(frozen=True)
class _AsFoundNow(StoredGraph):
    """Walks the graph that a run would find now; of equal bytes it takes the newest."""

    heads: Mapping[str, Artifact | None]

    def find(self, artifact: Artifact, name: str, one: Input) -> Sequence[Artifact]:
        """Return the head of the stage if it has the bytes, else the named artifact. If a stage on demand was
        raised since, return the artifact of today's version that shares most inputs: what was made of the
        bytes keeps naming the old one, for it is not made again.
        """
        stage = stage_of(artifact, name)
        head = self.heads.get(stage)
        if head is not None and head.digest == one.digest:
            return (head,)
        found = super().find(artifact, name, one)
        if not found or stage not in HEADLESS or is_of_now(found[0]):
            return found
        places = (artifact.place.prefix, SHARED)
        today = filter(is_of_now, of_equal_bytes(self.store, places, stage, one.digest))
        return (min(today, key=partial(_apart, found[0]), default=found[0]),)


def _apart(one: Artifact, other: Artifact) -> int:
    """Return how many values of their keys differ."""
    return sum(1 for _ in differing({**one.inputs, **one.spec}, {**other.inputs, **other.spec}))
