"""Checks amendments: each fits an artifact that was committed under its key, and was carried out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ft_dagster.audit.audit import Audit
from ft_dagster.audit.index.follow import MALFORMED, problem_of
from ft_dagster.audit.index.index import Indexed, tenant_of
from ft_dagster.errors import UserError
from ft_dagster.lineage.erasures import read_erasures, states
from ft_dagster.store import Artifact
from ft_dagster.store.amendments import (
    FIX,
    IDENTITIES_REMOVED,
    RECORDS_ERASED,
    Amendment,
    Change,
    amendments,
    follows,
)
from ft_dagster.store.artifacts import generations

UNASKED = "records were taken out here, and no request for an erasure asked for that"
BEGUN = "this amendment was begun and not carried out"
AGAIN = {
    IDENTITIES_REMOVED: "Run `ft-dagster audit forget-identities` again",
    RECORDS_ERASED: "Run `ft-dagster erase purge` of the request again",
}


class AmendmentsChecked(NamedTuple):
    """Says what does not hold of amendments, and how many artifacts are amended."""

    problems: list[str]
    amended: int


def check_amendments(audit: Audit, wanted: Sequence[Indexed]) -> AmendmentsChecked:
    """Check the amendments of these artifacts; see the top."""
    problems, amended = list[str](), 0
    for place in dict.fromkeys(each.place for each in wanted):
        try:
            found = amendments(audit.store, place.prefix, place.path)
            if found:
                committed = generations(audit.store, place)
                made = [one if isinstance(one, Artifact) else one.artifact for one in committed]
                problems += _problems(audit, found, {one.manifest: one for one in made})
                amended += len({one.manifest for one in found.values()} & {one.manifest for one in made})
        except MALFORMED as error:
            problems.append(problem_of(error, audit.store.uri(place.path)))
    return AmendmentsChecked(problems, amended)


def _problems(audit: Audit, found: Mapping[str, Amendment], made: Mapping[str, Artifact]) -> Iterator[str]:
    """Yield what does not hold of the amendments of a key. `made`: what was committed there, by manifest."""
    for path, amendment in found.items():
        where, artifact = audit.store.uri(path), made.get(amendment.manifest)
        if amendment.kind == RECORDS_ERASED and not _asked(audit, path, amendment.at):
            yield str(UserError(UNASKED, file=where, fix=FIX))
        of_it = [one for one in found.values() if one.manifest == amendment.manifest]
        changes = [change for one in of_it for change in one.changes]
        for change in amendment.changes:
            problem = "it amends no artifact of its key"
            if artifact is not None:
                problem = _problem(audit, artifact, change, changes)
            if problem:
                fix = AGAIN[amendment.kind] if problem == BEGUN else FIX
                yield str(UserError(problem, file=where, value=change.path, fix=fix))


def _asked(audit: Audit, path: str, at: str) -> bool:
    """Say whether an erasure was asked for, and approved, of whom an amendment is, before it was written."""
    entries = read_erasures(audit.store, tenant_of(path))
    return any(state.acts and state.asked.at <= at for state in states(entries))


def _problem(audit: Audit, artifact: Artifact, change: Change, changes: Sequence[Change]) -> str:
    """Say what does not hold of one change; empty where it holds."""
    listed, stored = artifact.files.get(change.path), f"{artifact.path}/{change.path}"
    if listed is None:
        return "it amends a file that is none of the evidence"
    if not follows(change, listed.sha256, changes):
        return "it names other bytes than there were"
    there = audit.store.sha256(stored) if audit.store.exists(stored) else ""
    if there == change.before:
        return BEGUN
    known = {one.after for one in changes if one.path == change.path}
    return "" if there in known else "it names other bytes than lie there"
