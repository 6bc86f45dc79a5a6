"""The artifacts that a variant's version was made from, found from the heads and the manifests alone.

The version in production; before the first release the newest that was judged, or at least trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ft_dagster.lineage.ancestors import find_digest
from ft_dagster.lineage.entry import ReleaseEntry
from ft_dagster.lineage.release import history, served_in
from ft_dagster.stages.chain import CHAIN, ON_DEMAND
from ft_dagster.stages.corpora import NAME as CORPUS
from ft_dagster.store import SHARED, Artifact, Place, Store, find_artifact, read_head

STAGES = tuple(stage.name for stage in CHAIN)
FOLLOWED = {*STAGES, *(stage.name for stage in ON_DEMAND)}
EXPORT, EVALUATION, MODEL, BASE = "model_export", "evaluation", "fine_tuned_model", "base_model"


class VersionArtifacts(NamedTuple):
    """`artifacts`: by stage, none before anything was trained; without the corpus, which is the platform's.
    `heads`: the newest of each stage, of what was trained. `log`: the variant's releases, oldest first.
    """

    artifacts: Mapping[str, Artifact]
    heads: Mapping[str, Artifact | None]
    log: tuple[ReleaseEntry, ...]

    @property
    def released(self) -> ReleaseEntry | None:
        return served_in(self.log)

    @property
    def sources_then(self) -> str | None:
        """The digest of the sources' fingerprints that its rows were read by."""
        rows = self.artifacts.get("task_dataset")
        return None if rows is None else rows.inputs.get("sources")


def version_artifacts(store: Store, prefix: str) -> VersionArtifacts:
    """Of the variant whose part of the store is `prefix`; what retention removed is left out. Raises
    UserError for damage.
    """
    log = tuple(history(store, prefix))
    if not log and all(read_head(store, prefix, stage) is None for stage in (MODEL, EVALUATION)):
        return VersionArtifacts({}, {}, log)
    heads = {stage: read_head(store, prefix, stage) for stage in STAGES}
    root = _root(store, prefix, heads, served_in(log))
    found = {} if root is None else dict(_followed(store, prefix, root, heads))
    return VersionArtifacts(found, heads, log)


def _root(
    store: Store, prefix: str, heads: Mapping[str, Artifact | None], released: ReleaseEntry | None
) -> Artifact | None:
    export, judged, trained = (heads[stage] for stage in (EXPORT, EVALUATION, MODEL))
    if released is not None:
        if export is not None and export.digest == released.export:
            return export
        return find_artifact(store, Place(prefix, EXPORT, released.export_key))
    if judged is None or (trained is not None and judged.inputs.get(MODEL) != trained.digest):
        return trained
    return export if export is not None and export.inputs.get(EVALUATION) == judged.digest else judged


def _followed(
    store: Store, prefix: str, root: Artifact, heads: Mapping[str, Artifact | None]
) -> Iterator[tuple[str, Artifact]]:
    """From input to input; of equal bytes the newest, or that whose manifest is named: what a run would
    find.
    """
    found, due = {root.place.stage}, [root]
    while due:
        artifact = due.pop()
        yield artifact.place.stage, artifact
        if artifact.place.stage == BASE:  # what it was made from is the parent's, or the platform's
            continue
        manifests = artifact.predicate.get("input_manifests") or {}
        for name, digest in artifact.inputs.items():
            stage = "base_text" if name == CORPUS and _is_of_base(artifact) else name
            if stage not in FOLLOWED or stage in found:
                continue
            found.add(stage)
            head = heads.get(stage)
            same = head if head is not None and head.digest == digest else None
            made = same or find_digest(store, (prefix, SHARED), stage, digest, manifests.get(name))
            due += [] if made is None else [made]


def _is_of_base(mixture: Artifact) -> bool:
    """Whether the general text of a mixture was written by its base."""
    general = mixture.spec.get("spec", {}).get("data", {}).get("general") or {}
    return general.get("corpus") is None
