"""Finds what an artifact was made of, through the releases that it starts from, and what was made of it so
far.

From manifests alone. Above: all that they name, as far as it stands. Below: of the newest artifacts of the
variant, and of those of variants that are declared on its release, what leads back to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from ft_dagster.lineage.graph import ListedGraph, StoredGraph, ancestors, inputs, stage_of, versions_of, walk
from ft_dagster.lineage.release import history
from ft_dagster.provenance.manifest import variant_of
from ft_dagster.report.tables.relatives import Relative
from ft_dagster.spec import Declarations
from ft_dagster.stage_entries import BASE_MODEL, FINE_TUNED_MODEL, MODEL_EXPORT
from ft_dagster.stages.chain import CHAIN
from ft_dagster.stages.judging.export_lineage import ORDER
from ft_dagster.store import Artifact, Store, read_head
from ft_dagster.workspace.workspace import Workspace

STAGES = tuple(stage.name for stage in CHAIN)
RELEASED = {FINE_TUNED_MODEL.name, MODEL_EXPORT.name}
Heads = Mapping[str, Artifact]


class Family(NamedTuple):
    """Lists an artifact's relatives: `above` and `below` in the order of the graph; what is another variant's
    first above, last below. `versions`: of the variant, released of the artifact or of what is below.
    """

    above: Sequence[Relative]
    below: Sequence[Relative]
    versions: Sequence[int]


@dataclass(frozen=True)
class Kin:
    """Holds what stands of a variant by now. `heads`: its newest artifacts; `children`: what variants that
    are declared on it made of its newest export, read when it is first asked for.
    """

    workspace: Workspace
    heads: Heads

    @cached_property
    def children(self) -> tuple[Relative, ...]:
        export = self.heads.get(MODEL_EXPORT.name)
        return () if export is None else tuple(_children(self.workspace, export))


def family(kin: Kin, artifact: Artifact) -> Family:
    """Raises UserError for what cannot be read."""
    workspace, store = kin.workspace, kin.workspace.store
    above = sorted(_above(workspace, artifact), key=lambda one: (one.variant is None, _rank(one.artifact)))
    own = _below(kin.heads, artifact)
    stages = {each.place.stage for each in (artifact, *own)}
    children = kin.children if MODEL_EXPORT.name in stages else ()
    log = history(store, workspace.prefix) if stages & RELEASED else ()
    versions = [entry.version for entry in versions_of(store, workspace.prefix, log, (artifact, *own))]
    return Family(above, [*map(Relative, own), *children], versions)


def newest(store: Store, prefix: str) -> Heads:
    """Return the newest artifact of each stage of the variant whose part of the store is `prefix`."""
    found = {stage: read_head(store, prefix, stage) for stage in STAGES}
    return {stage: head for stage, head in found.items() if head is not None}


def _above(workspace: Workspace, artifact: Artifact) -> Iterator[Relative]:
    graph = StoredGraph(workspace.store)

    def inputs_in_order(made: Artifact) -> Iterator[Artifact]:
        return inputs(graph, made, [name for name in made.inputs if stage_of(made, name) in ORDER])

    for each, below in walk([artifact], inputs_in_order):
        whose = variant_of(each.place.prefix)
        if below is not None:
            yield Relative(each, None if whose == str(workspace.key) else whose)


def _below(heads: Heads, artifact: Artifact) -> list[Artifact]:
    """Return those that were made of an artifact, in the order of the graph."""
    graph = ListedGraph([artifact, *heads.values()])
    others = [head for head in heads.values() if head.place != artifact.place]
    return [head for head in others if artifact in ancestors(graph, [head])]


def _children(workspace: Workspace, export: Artifact) -> Iterator[Relative]:
    """Return the newest artifacts of variants that are declared on this one, as far as they are of its
    export.
    """
    declared = Declarations(workspace.project)
    for key in declared:
        base = declared.content(key).get(BASE_MODEL.name) if key.tenant == workspace.key.tenant else None
        if isinstance(base, dict) and base.get("variant") == str(workspace.key):
            head = read_head(workspace.store, key.prefix, BASE_MODEL.name)
            if head is not None and head in ListedGraph([head, export]).made_of(export):
                below = _below(newest(workspace.store, key.prefix), head)
                yield from (Relative(each, str(key)) for each in (head, *below))


def _rank(artifact: Artifact) -> int:
    return ORDER.index(artifact.place.stage)
