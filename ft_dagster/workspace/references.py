"""Finds the references that new weights are held against: of the variant, and of the whole descent.

The reference is the first version that was released, or the one that `gates.reference` names, whatever was
promoted or rolled back since: no entry of a log moves it. Where a variant starts from another's release, the
descent goes on through that one, down to the variant that starts from a named base.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.gate.power import AfterReference, SinceReference
from ft_dagster.lineage.entry import ReleaseEntry
from ft_dagster.lineage.frozen import named_reference
from ft_dagster.lineage.release import history
from ft_dagster.lineage.served import versions_in
from ft_dagster.models.derived import bases_beneath, parent_prefix, released_parent, started_from
from ft_dagster.provenance.manifest import variant_of
from ft_dagster.spec import VariantSpec
from ft_dagster.spec.reference import ReferenceFloors
from ft_dagster.spec.variant import GatesSpec
from ft_dagster.stage_entries import BASE_MODEL, FINE_TUNED_MODEL, MODEL_EXPORT
from ft_dagster.store import Artifact, Store
from ft_dagster.workspace.past import Released
from ft_dagster.workspace.workspace import Workspace

ROLE = "the reference"


class Reference(NamedTuple):
    """Names a reference. `release`: of which number after it new weights would be released, from 1; `whole`:
    whether it is the variant's own, whose task is that of today.
    """

    released: Released
    release: int
    whole: bool = True

    @property
    def short(self) -> str:
        """Return its name: "version 1", or "acme.support version 1" of another variant."""
        of = "" if self.whole else f"{variant_of(self.released.prefix)} "
        return f"{of}version {self.released.entry.version}"

    @property
    def in_words(self) -> str:
        """Return whose reference it is."""
        return ROLE if self.whole else f"{ROLE} of {variant_of(self.released.prefix)}"

    @property
    def named(self) -> str:
        """Return what rules call it."""
        return f"{self.short}, {ROLE} (release {self.release} after it)"


def references(workspace: Workspace, tuned: Artifact) -> tuple[Reference, ...]:
    """Return the reference of the variant, then that of the descent where it is another variant's; none of
    the weights themselves, nor one that is the base, which they are compared with anyway. Raises UserError
    for a version that the declaration names and that was not released.
    """
    gates = workspace.spec.gates
    if not gates.has_reference:
        return ()
    past = earlier_than(history(workspace.store, workspace.prefix), tuned)
    own = _reference_in(past, gates, workspace)
    below = beneath(workspace.store, workspace.upstream(BASE_MODEL.name))
    others = _of_descent(workspace, below, len(past))
    found = () if own is None else (_after(workspace.prefix, own, past),)
    return tuple(one for one in (*found, *others) if one.released.entry.weights != tuned.digest)


class Beneath(NamedTuple):
    """Names what a variant starts from: the weights of its parent's release, and the `variants` beneath (by
    their part of the store), the nearest first.
    """

    weights: str
    variants: tuple[str, ...]


def beneath(store: Store, base: Artifact) -> Beneath | None:
    """Return what a base starts from; None of one that starts from no release. Raises UserError for a base
    that is gone.
    """
    variants = tuple(dict.fromkeys(parents_beneath(store, base)))
    return Beneath(base.inputs[FINE_TUNED_MODEL.name], variants) if variants else None


def beneath_now(workspace: Workspace, spec: VariantSpec) -> Beneath | None:
    """Return what the next run would start from: what the declared parent has in production; None where none
    is declared. Raises UserError where nothing is, or a release is gone.
    """
    if spec.base_model.variant is None:
        return None
    parent = released_parent(workspace.store, workspace.key, spec.base_model, file=workspace.declared_in)
    nearest = parent_prefix(workspace.key, parent.key)
    others = parents_beneath(workspace.store, parent.base)
    return Beneath(parent.inputs[FINE_TUNED_MODEL.name], tuple(dict.fromkeys((nearest, *others))))


def after_references(workspace: Workspace, gates: GatesSpec, below: Beneath | None) -> SinceReference:
    """Return what the next version of the variant would be after the references that it will be held
    against; `below`: what it starts from.
    """
    if not gates.has_reference:
        return SinceReference()
    versions = released_of(workspace.store, workspace.prefix)
    own = _reference_in(versions, gates, workspace)
    found = [] if own is None else [_after(workspace.prefix, own, versions)]
    found += _of_descent(workspace, below, len(versions))
    sides = {one.whole: AfterReference(one.release, one.in_words) for one in found}
    return SinceReference(sides.get(True), sides.get(False))


def earlier_than(log: Sequence[ReleaseEntry], tuned: Artifact) -> list[ReleaseEntry]:
    """Return the versions that were released before these weights were first, in their order."""
    versions = (entry for _, entry in sorted(versions_in(log).items()))
    return list(takewhile(lambda entry: entry.weights != tuned.digest, versions))


def reference_in(versions: Sequence[ReleaseEntry], gates: GatesSpec) -> ReleaseEntry | None:
    """Return the reference among the versions of a log; None where none has been released."""
    if gates.reference == "first":
        return versions[0] if versions else None
    return next((entry for entry in versions if entry.version == gates.reference), None)


def _reference_in(
    versions: Sequence[ReleaseEntry], gates: GatesSpec, workspace: Workspace
) -> ReleaseEntry | None:
    found = reference_in(versions, gates)
    if found is None and gates.reference != "first":
        known = ", ".join(str(entry.version) for entry in versions)
        raise UserError(
            "no such version was released before",
            file=workspace.declared_in,
            field="gates.reference",
            value=gates.reference,
            fix=f"Name one of {known}, or `first`" if known else "Leave it out: it is the first then",
        )
    return found


def _after(prefix: str, entry: ReleaseEntry, versions: Sequence[ReleaseEntry]) -> Reference:
    """Return the reference of a log's own variant, whose next version is the one to be."""
    return Reference(Released(prefix, entry, ROLE), _since(entry, versions) + 1)


def _since(entry: ReleaseEntry, versions: Sequence[ReleaseEntry]) -> int:
    return sum(one.version > entry.version for one in versions)


def reference_of_root(
    store: Store, root: str, versions: Sequence[ReleaseEntry], floors: ReferenceFloors | None = None
) -> ReleaseEntry | None:
    """Return the version that what descends from another variant is held against: the one that the variant
    names now, else its first; None of an empty log. `floors`: of a policy that may forbid the name.
    """
    named = named_reference(store, root)
    allowed = named is not None and (floors is None or floors.may_name(named))
    found = next((entry for entry in versions if allowed and entry.version == named), None)
    return found or next(iter(versions), None)


def _of_descent(workspace: Workspace, below: Beneath | None, own: int) -> Iterator[Reference]:
    """Yield the reference of the variant at the root of the descent, unless that is this one, or its
    reference is the base itself. `own`: versions of this variant before.
    """
    if below is None or below.variants[-1] == workspace.prefix:
        return
    store, root = workspace.store, below.variants[-1]
    versions = released_of(store, root)
    floors = workspace.settings.policies().of(workspace.key.tenant).gates
    entry = reference_of_root(store, root, versions, floors)
    if entry is None:
        raise UserError(
            f"the reference of {variant_of(root)}, from which it descends, is in no log",
            file=store.uri(root),
            fix="Restore the folder of its releases from a backup",
        )
    if below.weights != entry.weights:
        nearer = [prefix for prefix in below.variants[:-1] if prefix != workspace.prefix]
        others = sum(len(released_of(store, prefix)) for prefix in nearer)
        after = _since(entry, versions) + others + own + 1
        yield Reference(Released(root, entry, ROLE), after, whole=False)


def parents_beneath(store: Store, base: Artifact) -> Iterator[str]:
    """Yield the variants (by their part of the store) whose releases a base was made on, the nearest first.
    Raises UserError for one that is gone.
    """
    for each in bases_beneath(store, base):
        parent = started_from(each)
        if parent:
            yield parent["places"][MODEL_EXPORT.name][0]


def released_of(store: Store, prefix: str) -> list[ReleaseEntry]:
    """Return the versions of the variant below a prefix, in their order."""
    return [entry for _, entry in sorted(versions_in(history(store, prefix)).items())]
