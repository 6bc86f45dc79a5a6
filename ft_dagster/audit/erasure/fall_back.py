"""Takes versions out of production that a purge cannot wait for, and serves what stands on none of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from ft_dagster.audit.audit import Audit
from ft_dagster.audit.index.index import Indexed
from ft_dagster.lineage.entry import ReleaseEntry
from ft_dagster.lineage.graph import exports_of, named
from ft_dagster.lineage.release import history, rollback, take_out
from ft_dagster.lineage.served import production_in, rolled_back, served_before, versions_in
from ft_dagster.lineage.serving import Unserved
from ft_dagster.spec import VariantKey
from ft_dagster.stage_entries import EVALUATION, FINE_TUNED_MODEL, MODEL_EXPORT
from ft_dagster.stages.judging.may_serve import asked_today


class InProduction(NamedTuple):
    """Names a version in production of the variant below a prefix of the store."""

    prefix: str
    variant: str
    version: int

    @property
    def said(self) -> str:
        return f"{self.variant} v{self.version}"


def in_production_of(audit: Audit, ids: Collection[int]) -> list[InProduction]:
    """Return the versions in production of which weights, export or evaluation are among these artifacts."""
    found = []
    for prefix, past in audit.log.items():
        now = production_in(past)
        if now is not None and _stands_on(audit, prefix, versions_in(past)[now], ids):
            found.append(InProduction(prefix, past[0].variant, now))
    return found


def fall_back(audit: Audit, one: InProduction, ids: Collection[int], reason: str, by: str) -> str:
    """Put the newest version back into production that was served before, that a rollback may go back to and
    that stands on none of these artifacts; where there is none, serve nothing. Returns what was done, in a
    sentence.

    Raises UserError where another version went into production meanwhile, or the log cannot be written.
    """
    store, key = audit.store, VariantKey.parse(one.variant)
    request = asked_today(audit.settings, key, reason, by)
    for version in _without(audit, history(store, one.prefix), one, ids):
        with suppress(Unserved):  # another rule keeps it from being served, or its files are gone
            rollback(store, one.prefix, request, version, instead_of=one.version)
            return f"{one.said} was taken out of production; version {version} is served again"
    take_out(store, one.prefix, request, version=one.version)
    return f"{one.said} was taken out of production; none is served"


def would_fall_back(audit: Audit, one: InProduction, ids: Collection[int]) -> str:
    """Say what `fall_back` would do, as far as other rules let it."""
    earlier = next(_without(audit, audit.log[one.prefix], one, ids), None)
    then = (
        "none would be served" if earlier is None else f"version {earlier} would be served again, if it may"
    )
    return f"{one.said} would be taken out of production; {then}"


def _without(
    audit: Audit, past: Sequence[ReleaseEntry], one: InProduction, ids: Collection[int]
) -> Iterator[int]:
    """Yield the versions that were served before and stand on none of these artifacts, the latest first."""
    versions, gone = versions_in(past), rolled_back(past)
    for version in dict.fromkeys(reversed(served_before(past, one.version))):
        other = versions[version].weights != versions[one.version].weights
        if other and version not in gone and not _stands_on(audit, one.prefix, versions[version], ids):
            yield version


def _stands_on(audit: Audit, prefix: str, entry: ReleaseEntry, ids: Collection[int]) -> bool:
    """Say whether weights, export or evaluation of a release are among these artifacts."""
    return any(each.id in ids for each in _parts(audit, prefix, entry))


def _parts(audit: Audit, prefix: str, entry: ReleaseEntry) -> Iterator[Indexed]:
    index = audit.index
    for export in exports_of(index.of_stage(MODEL_EXPORT.name, prefix), entry)[-1:]:
        yield export
        weights = index.parent(export, FINE_TUNED_MODEL.name)
        if weights is not None:
            yield weights
    judged = (each for each in index.with_digest(entry.evaluation) if each.place.prefix == prefix)
    of_stage = [each for each in judged if each.place.stage == EVALUATION.name]
    yield from named(of_stage, prefix, entry.evaluation_manifest)
