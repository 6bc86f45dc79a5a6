"""Finds what the releases were trained on that a base starts from, one after the other, by manifest: through
adapters that were merged or stay beneath, and through whole models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ft_dagster.data.rows.dataset_io import ORIGINS
from ft_dagster.lineage.graph import CORPORA, ListedGraph, StoredGraph, inputs_of, stage_of
from ft_dagster.models.derived import started_from
from ft_dagster.provenance.digest import sha256_file
from ft_dagster.stage_entries import (
    BASE_MODEL,
    FINE_TUNED_MODEL,
    GENERAL_CORPUS,
    MODEL_EXPORT,
    TASK_DATASET,
    TRAINING_MIXTURE,
)
from ft_dagster.store import SHARED, Artifact, Store, find_artifact
from ft_dagster.store.cache import DRAFTS
from ft_dagster.store.committed import committed_in
from ft_dagster.store.transfer import Transfer, fetch_all

RECORDS = f"evidence/{ORIGINS}"


@dataclass(frozen=True)
class Ancestor:
    """Names a release that a base starts from, and what its weights were trained on. `generations`: 1 for the
    parent. An artifact that retention removed is here as its manifest says it; None: nothing is known of it.
    `gone`: the stages of those whose rows cannot be read any more.
    """

    variant: str
    version: int
    generations: int
    weights: str
    mixture: Artifact | None
    dataset: Artifact | None
    general: Artifact | None
    gone: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.variant} v{self.version}"


def ancestors_of(store: Store, base: Artifact) -> list[Ancestor]:
    """Return the releases that a base starts from, the parent first. Raises UserError for a manifest that
    cannot be read.
    """
    return list(_ancestors(store, base))


def _ancestors(store: Store, base: Artifact) -> Iterator[Ancestor]:
    beneath: Artifact | None = base
    generations = 0
    while beneath is not None and (parent := started_from(beneath)):
        generations += 1
        export = _ever(store, beneath, MODEL_EXPORT.name)
        tuned = None if export is None else _ever(store, export, FINE_TUNED_MODEL.name)
        mixture = None if tuned is None else _ever(store, tuned, TRAINING_MIXTURE.name)
        dataset = None if mixture is None else _ever(store, mixture, TASK_DATASET.name)
        general = None if mixture is None else _ever(store, mixture, GENERAL_CORPUS.name)
        has_general = mixture is not None and GENERAL_CORPUS.name in mixture.inputs
        gone = [] if _has_rows(store, dataset) else [TASK_DATASET.name]
        gone += [GENERAL_CORPUS.name] if has_general and not _has_rows(store, general) else []
        weights = beneath.inputs[FINE_TUNED_MODEL.name]
        yield Ancestor(
            *(parent["variant"], parent["version"], generations, weights),
            *(mixture, dataset, general, tuple(gone)),
        )
        beneath = _ever(store, beneath, BASE_MODEL.name)


def _ever(store: Store, artifact: Artifact, name: str) -> Artifact | None:
    """Return what an artifact names as an input, as its manifest says it where retention removed it."""
    one = inputs_of(artifact).get(name)
    if one is None:
        return None
    standing = StoredGraph(store).find(artifact, name, one)
    if standing:
        return standing[0]
    stage, parent = stage_of(artifact, name), started_from(artifact) if _is_base(artifact) else None
    own = parent["places"][MODEL_EXPORT.name][0] if parent else artifact.place.prefix
    prefixes = [own, SHARED]
    if stage == GENERAL_CORPUS.name:
        prefixes = [f"{CORPORA}/{each}" for each in store.names(CORPORA)]
    made = (each for prefix in prefixes for each in committed_in(store, prefix, stage))
    known = ListedGraph(each for each in made if isinstance(each, Artifact) and each.digest == one.digest)
    return next(iter(known.named(own, *one)), None)


def _is_base(artifact: Artifact) -> bool:
    return artifact.place.stage == BASE_MODEL.name


def _has_rows(store: Store, artifact: Artifact | None) -> bool:
    """Say whether the rows of a data set, or the texts of a corpus, are still there."""
    if artifact is None:
        return False
    standing = find_artifact(store, artifact.place)
    files = [f"{artifact.path}/{name}" for name in artifact.files if _is_of_training(name)]
    return standing is not None and standing.digest == artifact.digest and all(map(store.exists, files))


def _is_of_training(name: str) -> bool:
    return name.startswith("payload/") and name.endswith("/train.parquet")


def file_left(store: Store, artifact: Artifact, name: str, scratch: Path) -> Path | None:
    """Return a file of an artifact that may be removed; None where nothing of it is left with the bytes of
    its manifest, or of an amendment. `scratch`: takes the copy of a remote store.
    """
    listed, stored = artifact.files.get(name), f"{artifact.path}/{name}"
    if listed is None or not store.exists(stored):
        return None
    if store.sha256(stored) != listed.sha256:
        amended = artifact.as_amended(store)
        listed = listed if amended is None else amended.files[name]
    path = store.local(stored)
    if path is None:
        path = scratch / f"{artifact.digest}-{Path(name).name}"
        fetch_all(store, [Transfer(path, stored, listed.sha256)], scratch / DRAFTS)
    return path if sha256_file(path) == listed.sha256 else None
