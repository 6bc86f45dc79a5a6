"""Traces from a source to all that came of it, and lists what a tenant owns, shares and was given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from ft_dagster.audit.answers import CameOf, PartOf, TenantAnswer
from ft_dagster.audit.audit import Audit
from ft_dagster.audit.index.index import Indexed
from ft_dagster.audit.models import declarations
from ft_dagster.audit.records import described, once
from ft_dagster.errors import UserError
from ft_dagster.lineage.graph import descendants, inputs
from ft_dagster.spec.keys import HALF
from ft_dagster.stage_entries import FINE_TUNED_MODEL, GENERAL_CORPUS, MODEL_EXPORT, TASK_DATASET
from ft_dagster.stages.judging.export_lineage import source_files

MADE = "made from it"


def source(audit: Audit, asked: str) -> CameOf:
    """Return all that came of a source: its declared path, a file of it, or the digest of a file or an
    artifact.

    Raises UserError where nothing was made of such a source.
    """
    files: list[Mapping[str, Any]] = []
    starts: dict[int, Indexed] = {}
    for artifact, entry in _sources(audit):
        if _matches(asked, entry):
            starts[artifact.id] = artifact
            files += [] if entry in files else [entry]
    for artifact in audit.allowed(audit.index.with_digest(asked)):
        starts[artifact.id] = artifact
    unread = tuple(_unread(audit))
    if not starts:
        fix = "Give the path as it was declared, a file's path from the project, or a sha256"
        if unread:
            fix += "; `ft-dagster audit index` names what could not be read"
        but = f", of what could be read: {len(unread)} could not" if unread else ""
        raise UserError(f"nothing was made of such a source{but}", value=asked, fix=fix)
    reached = descendants(audit.index, starts.values(), audit.allows)
    made = sorted(reached, key=lambda each: (each.created, each.id))
    parts = (PartOf(each.place.stage, each.digest, each.variant, each.created) for each in made)
    models = (
        described(audit, each, MADE, None) for each in made if each.place.stage == FINE_TUNED_MODEL.name
    )
    return CameOf(asked, tuple(files), tuple(parts), once(models), unread)


def tenant(audit: Audit, name: str) -> TenantAnswer:
    """Raises UserError for a tenant that has nothing here, or that may not be asked about."""
    if not HALF.fullmatch(name) or audit.tenant not in (None, name):
        raise UserError("no tenant that may be asked about", value=name, fix="Name one of tenants/")
    known = audit.index.all()
    own = [each for each in known if each.tenant == name]
    if not own:
        raise UserError(
            "this tenant has nothing in the store", value=name, fix="`ft-dagster status` lists all"
        )
    owns: dict[str, dict[str, int]] = {}
    for each in own:
        stages = owns.setdefault(each.variant or "", {})
        stages[each.place.stage] = stages.get(each.place.stage, 0) + 1
    given: dict[int, Indexed] = {}
    for each in own:
        given |= {part.id: part for part in inputs(audit.index, each) if not part.tenant}
    exports = [each for each in own if each.place.stage == MODEL_EXPORT.name]
    releases = tuple(dict.fromkeys(one for export in exports for one in audit.releases_of(export)))
    shared = (PartOf(part.place.stage, part.digest, None, part.created) for part in given.values())
    datasets = sum(each.records for each in own if each.place.stage == TASK_DATASET.name)
    return TenantAnswer(name, owns, datasets, releases, tuple(shared))


def _unread(audit: Audit) -> Iterator[str]:
    """Yield why a manifest could not be read."""
    known = {each.problem for each in audit.index.unread()}  # of artifacts whose manifests were
    problems = (each for each in audit.followed.problems if each.stage and each.problem not in known)
    yield from dict.fromkeys(each.problem for each in problems if audit.allows_part(each.prefix))


def _sources(audit: Audit) -> Iterator[tuple[Indexed, Mapping[str, Any]]]:
    """Yield (data set or corpus, fingerprint of a file of it), with the path as it was declared."""
    for corpus in audit.index.of_stage(GENERAL_CORPUS.name):
        spec = audit.artifact(corpus).spec
        for declared, prints in zip(spec["corpus"]["sources"], spec["sources"], strict=True):
            yield from ((corpus, {"declared": declared["path"], **entry}) for entry in prints)
    known: dict[str, list[Mapping[str, Any]]] = {}
    for dataset in audit.allowed(audit.index.of_stage(TASK_DATASET.name)):
        prefix = dataset.place.prefix
        if prefix not in known:
            known[prefix] = list(declarations(audit, prefix))
        digest, _ = audit.index.inputs(dataset).get("sources", ("", None))
        for sources in source_files(known[prefix], digest):
            for declared, prints in sources:
                yield from ((dataset, {"declared": declared["path"], **entry}) for entry in prints)


def _matches(asked: str, entry: Mapping[str, Any]) -> bool:
    names = {str(entry[name]) for name in ("declared", "path", "sha256", "repo") if name in entry}
    return asked in names or str(PurePosixPath(asked)) in names
