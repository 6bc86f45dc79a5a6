"""Tells what an export was made of, up to the files of rows, from the manifests alone.

Each manifest names its inputs by digest; what is no longer in the store is left out. No manifest names a
declaration: retention lets it go before its version, and what is left of it says what its files were.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ft_dagster.lineage.entry import ReleaseEntry
from ft_dagster.lineage.frozen import frozen_declarations
from ft_dagster.lineage.graph import StoredGraph, parts_of_version, released_evaluation
from ft_dagster.provenance.digest import sha256_json
from ft_dagster.stage_entries import (
    GENERAL_CORPUS,
    RELEASE_EVALUATION,
    TASK_DATASET,
    made_before,
)
from ft_dagster.store import Artifact, Store

PARTS = ("spec", "task.spec", "general.spec", "judged_by")  # of a key: fields as they were declared
_MADE = (each.name for each in made_before(RELEASE_EVALUATION) if not each.on_demand)
ORDER = tuple(dict.fromkeys((GENERAL_CORPUS.name, *_MADE)))


class SourceFile(NamedTuple):
    """Names a file of a source as it was declared. `digest`: sha256, an object's ETag, or a hub's commit."""

    source: str
    file: str
    size: int | None
    digest: str
    licence: str | None


class MadeOf(NamedTuple):
    """Lists what an export was made of. `artifacts`: by stage, in the order of the graph; `files`: of the
    tenant's rows.
    """

    artifacts: Mapping[str, Artifact]
    files: tuple[SourceFile, ...]


def made_of(store: Store, prefix: str, export: Artifact, released: ReleaseEntry | None = None) -> MadeOf:
    """Return what an export was made of, for the variant whose part of the store is `prefix`; `released`: see
    `artifacts_of`.
    """
    artifacts = artifacts_of(store, prefix, export, released)
    dataset = artifacts.get(TASK_DATASET.name)
    return MadeOf(artifacts, () if dataset is None else tuple(_files(store, prefix, dataset)))


def artifacts_of(
    store: Store, prefix: str, export: Artifact, released: ReleaseEntry | None = None
) -> dict[str, Artifact]:
    """Return the artifacts alone, by stage, in the order of the graph. `released`: the entry that makes the
    export a version: of evaluations with equal bytes it names the one whose verdict counted.
    """
    roots = [export]
    if released is not None and released.evaluation_manifest:
        judged = released_evaluation(store, prefix, released)
        roots += [] if judged is None else [judged]
    found = parts_of_version(StoredGraph(store), roots, ORDER)
    return {stage: found[stage] for stage in ORDER if stage in found}


def source_files(
    declarations: Iterable[Mapping[str, Any]], digest: str
) -> Iterator[list[tuple[Mapping[str, Any], list[Any]]]]:
    """Yield (a source as it was declared, what its files were) for each source of every declaration whose
    fingerprints have the digest that a data set was read by. `declarations`: what their declaration.json
    says; `digest`: the input `sources` of the data set.
    """
    for frozen in declarations:
        if sha256_json(frozen["sources"]) == digest:
            yield list(zip(frozen["spec"]["data"]["sources"], frozen["sources"], strict=True))


def _files(store: Store, prefix: str, dataset: Artifact) -> list[SourceFile]:
    """Return the files of the declaration that the data set was read by."""
    declared = source_files(frozen_declarations(store, prefix), dataset.inputs["sources"])
    return [_file(source, one) for source, files in next(declared, ()) for one in files]


def _file(source: Mapping[str, Any], one: Mapping[str, Any]) -> SourceFile:
    digest = one.get("sha256") or one.get("etag") or one.get("revision") or ""
    return SourceFile(
        source["path"], one.get("path") or one.get("repo", ""), one.get("size"), digest, source.get("licence")
    )
