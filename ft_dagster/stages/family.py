"""What an artifact was made of, through the releases that it starts from, and what was made of it so far.

From manifests alone. Above: all that they name, as far as it stands. Below: of the newest artifacts of the
variant, and of those of variants that are declared on its release, what leads back to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from ft_dagster.lineage.entry import RELEASE
from ft_dagster.lineage.release import history
from ft_dagster.report.family import Relative
from ft_dagster.spec import Declarations, VariantKey
from ft_dagster.stage_entries import BASE_MODEL, FINE_TUNED_MODEL, MODEL_EXPORT
from ft_dagster.stages.chain import CHAIN
from ft_dagster.stages.made_of import ORDER, find_input
from ft_dagster.stages.workspace import Workspace
from ft_dagster.store import Artifact, Store, read_head

STAGES = tuple(stage.name for stage in CHAIN)
Heads = Mapping[str, Artifact]


class Family(NamedTuple):
    """`above` and `below` in the order of the graph; what is another variant's first above, last below.
    `versions`: of the variant, released of the artifact or of what is below.
    """

    above: Sequence[Relative]
    below: Sequence[Relative]
    versions: Sequence[int]


@dataclass(frozen=True)
class Kin:
    """What stands of a variant by now. `heads`: its newest artifacts; `children`: what variants that are
    declared on it made of its newest export, read when it is first asked for.
    """

    workspace: Workspace
    heads: Heads

    @cached_property
    def children(self) -> tuple[Relative, ...]:
        export = self.heads.get(MODEL_EXPORT.name)
        return () if export is None else tuple(_children(self.workspace, export))


def family(kin: Kin, artifact: Artifact) -> Family:
    """Raises UserError for what cannot be read."""
    workspace = kin.workspace
    above = sorted(_above(workspace, artifact), key=lambda one: (one.variant is None, _rank(one.artifact)))
    own = list(_below(kin.heads, artifact))
    known = {(each.place.stage, each.digest) for each in (artifact, *own)}
    stages = {stage for stage, _ in known}
    children = kin.children if MODEL_EXPORT.name in stages else ()
    versions = _versions(workspace, known) if stages & {FINE_TUNED_MODEL.name, MODEL_EXPORT.name} else ()
    return Family(above, [*map(Relative, own), *children], list(versions))


def newest(store: Store, prefix: str) -> Heads:
    """The newest artifact of each stage of the variant whose part of the store is `prefix`."""
    found = {stage: read_head(store, prefix, stage) for stage in STAGES}
    return {stage: head for stage, head in found.items() if head is not None}


def _above(workspace: Workspace, artifact: Artifact) -> Iterator[Relative]:
    store, prefix = workspace.store, workspace.prefix
    seen, due = {artifact.place}, [Relative(artifact)]
    while due:
        below, variant = due.pop()
        whose = _parent(below) or variant
        there = prefix if whose is None else VariantKey.parse(whose).prefix
        for name, digest in below.inputs.items():
            named = below.input_manifests.get(name)
            found = find_input(store, there, name, digest, named) if name in ORDER else None
            if found is not None and found.place not in seen:
                seen.add(found.place)
                due.append(Relative(found, whose if found.place.prefix == there else None))
                yield due[-1]


def _parent(artifact: Artifact) -> str | None:
    """The variant whose release a base is."""
    parent = artifact.figures.get("parent") if artifact.place.stage == BASE_MODEL.name else None
    return str(parent["variant"]) if parent else None


def _below(heads: Heads, artifact: Artifact) -> Iterator[Artifact]:
    """Those that lead back to an artifact, in the order of the graph."""
    known = {(artifact.place.stage, artifact.digest)}
    for stage in STAGES:
        head = heads.get(stage)
        if head is not None and head.place != artifact.place and known & set(head.inputs.items()):
            known.add((stage, head.digest))
            yield head


def _children(workspace: Workspace, export: Artifact) -> Iterator[Relative]:
    """The newest artifacts of variants that are declared on this one, as far as they are of its export."""
    declared = Declarations(workspace.project)
    for key in declared:
        base = declared.content(key).get(BASE_MODEL.name) if key.tenant == workspace.key.tenant else None
        if isinstance(base, dict) and base.get("variant") == str(workspace.key):
            head = read_head(workspace.store, key.prefix, BASE_MODEL.name)
            if head is not None and head.inputs.get(MODEL_EXPORT.name) == export.digest:
                below = _below(newest(workspace.store, key.prefix), head)
                yield from (Relative(each, str(key)) for each in (head, *below))


def _versions(workspace: Workspace, known: set[tuple[str, str]]) -> Iterator[int]:
    for entry in history(workspace.store, workspace.prefix):
        if entry.action == RELEASE and known & {
            (FINE_TUNED_MODEL.name, entry.weights),
            (MODEL_EXPORT.name, entry.export),
        }:
            yield entry.version


def _rank(artifact: Artifact) -> int:
    return ORDER.index(artifact.place.stage)
