"""Removes whatever holds the records of a request, and takes their rows out of the evidence that stays.

What may not be served any more is taken out of production, once the request waits for nothing. Then
artifacts go whole, what was made of others before them, each by a claim and a tombstone as retention removes
them; after that, rows and leaves go out of record evidence under signed amendments (`records.erased_rows`).
In that order, and with each step safe to take again, whoever is killed finds by the evidence what is left.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from ft_dagster.audit.amending import write_over
from ft_dagster.audit.audit import Audit
from ft_dagster.audit.erasure.dry_run import ErasureDryRun, trainings_of
from ft_dagster.audit.erasure.fall_back import fall_back, in_production_of, would_fall_back
from ft_dagster.audit.index.artifact_records import ASKED, HAVE_RECORDS, STATES
from ft_dagster.audit.index.index import Indexed
from ft_dagster.audit.kept_answers import forget_answers_on
from ft_dagster.errors import UserError
from ft_dagster.lineage.erasures import (
    AT_ONCE_QUARANTINE,
    ErasureState,
    read_erasures,
    refuse_waiting,
    states,
)
from ft_dagster.lineage.graph import descendants, inputs, inputs_first
from ft_dagster.lineage.retention import Rules
from ft_dagster.records.erased_rows import erased_evidence
from ft_dagster.records.record_tree import RecordRow, TreeHead
from ft_dagster.records.refusals import Refused, refused_of
from ft_dagster.stage_entries import (
    ANCESTOR_OVERLAP,
    EVALUATION_TEXTS,
    FINE_TUNED_MODEL,
    PROBE,
    TRAINING_MIXTURE,
    UNSAID_TOKENS,
    names_of,
)
from ft_dagster.store.amendments import FOLDER as AMENDMENTS
from ft_dagster.store.amendments import RECORDS_ERASED, amendments
from ft_dagster.store.artifacts import ERASURE, Artifact, Removed, generations
from ft_dagster.store.cache import drop_copy
from ft_dagster.store.make import is_being_made
from ft_dagster.store.removal import claim_removal, finish_removal

LEFT_OUT = STATES[0]  # of a record that was dropped: nothing was made of it
# Of what holds a record these hold its text as well.
WITH_TEXTS = (
    *names_of(lambda entry: entry.judges is not None),
    *(PROBE.name, ANCESTOR_OVERLAP.name, UNSAID_TOKENS.name, EVALUATION_TEXTS.name),
)


@dataclass(frozen=True)
class Purge:
    """Says what a purge takes out, or took. `owners`: whose logs do not say so yet. `removed`: artifacts, by
    their path in the store; `rewritten`: files of evidence without the rows; `waits`: what could not be
    removed yet, and why; `unnamed`: how many records of the request were not among those that were given;
    `out`: what became of versions in production, a sentence each.
    """

    request: str
    owners: tuple[str, ...]
    removed: tuple[str, ...]
    rewritten: tuple[str, ...]
    waits: tuple[str, ...]
    unnamed: int
    out: tuple[str, ...]


def purge(
    audit: Audit,
    found: ErasureDryRun,
    request: str,
    *,
    by: str,
    dry_run: bool,
    say: Callable[[str], None] = lambda line: None,
) -> Purge:
    """Remove what holds the records that were found, as the top says. `by`: who; `dry_run`: only name it.

    Raises UserError where the request waits or is on hold, a record is none of it, somebody else's log has to
    have it, a legal hold keeps an artifact, and while a version in production learned a record or was asked
    it, unless the request is late or has its quarantine at once.
    """
    logs = _logs(audit, request)
    refused = {owner: refused_of(audit.store, audit.settings.keys_folder, owner, request) for owner in logs}
    _refuse_strangers(found, refused, request)
    identities = {bytes.fromhex(each) for one in found.records for each in (*one.identities, *one.exact)}
    going = _going(audit, found)
    _refuse_held(audit, going)
    out = []
    for line in _take_out_of_production(audit, going, logs, by, dry_run=dry_run):
        out.append(line)
        if not dry_run:
            say(line)
    removed, waits = list[str](), list[str]()
    for each in _dependents_first(audit, going):
        if is_being_made(audit.settings.work_folder, each.place):
            waits.append(f"{each.place.path}: it is being made")
        elif dry_run or _remove(audit, each, request):
            removed.append(each.place.path)
            say(f"removed {each.place.path}")
        else:
            waits.append(f"{each.place.path}: others claimed it meanwhile")
    rewritten = () if waits else tuple(_take_rows_out(audit, found, identities, dry_run=dry_run))
    if not dry_run and not waits:
        forget_answers_on(audit.settings, identities)
    exact = {bytes.fromhex(each) for one in found.records for each in one.exact}
    unnamed = max((_unnamed(state, refused[owner], exact) for owner, state in logs.items()), default=0)
    owners = (owner for owner, state in logs.items() if state.purged is None or removed or rewritten)
    return Purge(request, tuple(owners), tuple(removed), rewritten, tuple(waits), unnamed, tuple(out))


def unread_standing(audit: Audit) -> Iterator[str]:
    """Yield why the records of artifacts that stand could not be read."""
    for each in audit.index.unread():
        try:
            stands = not isinstance(audit.read_manifest(each), Removed)
        except UserError:
            stands = True
        if stands:
            yield str(each.problem)
    known = {each.problem for each in audit.index.unread()}
    yield from (each.problem for each in audit.followed.problems if each.problem not in known)


def _logs(audit: Audit, request: str) -> dict[str, ErasureState]:
    """Return how the request stands in each log that has it. Raises UserError."""
    from ft_dagster.lineage.erasures import owners_with_erasures

    found = {}
    for owner in owners_with_erasures(audit.store):
        for state in states(read_erasures(audit.store, owner)):
            if state.asked.request == request:
                refuse_waiting(state)
                found[owner] = state
    return found


def _refuse_strangers(found: ErasureDryRun, refused: Mapping[str, Refused], request: str) -> None:
    """Raises UserError for a record that the request does not name, and for one that is held by whom it was
    not asked of.
    """
    for one in found.records:
        known = (each.since(bytes.fromhex(name)) for each in refused.values() for name in one.exact)
        if one.places and not any(known):
            fix = "Ask for it first (`ft-dagster erase request`), or leave it out"
            raise UserError(f"{one.said} is no record of request {request}", field="FILE", fix=fix)
    strangers = [owner or "what is shared" for owner in found.owners if owner not in refused]
    if strangers:
        fix = "Ask again (`ft-dagster erase request`): they came to hold it since"
        problem = f"the log of {', '.join(strangers)} has no such request, and holds a record"
        raise UserError(problem, field="REQUEST", value=request, fix=fix)


def _unnamed(state: ErasureState, refused: Refused, exact: Collection[bytes]) -> int:
    given = sum(refused.since(each) is not None for each in exact)
    return max(0, len(state.asked.refusals) - given)


def _going(audit: Audit, found: ErasureDryRun) -> list[Indexed]:
    """Return all artifacts that go whole: what holds a record as more than one that was left out, what judged
    by it, models that learned one or were trained beside one, and all that was made of these.
    """
    index = audit.index
    holders = [one for one in _holders(audit, found) if one.stands_in_it]
    mixtures = [one.indexed for one in holders if one.indexed.place.stage == TRAINING_MIXTURE.name]
    weights = [
        *(each for model in found.models if model.trains_again for each in trainings_of(audit, model)),
        *(each for one in mixtures for each in index.made_of(one, FINE_TUNED_MODEL.name)),
    ]
    texts = (each for one in holders for each in index.made_of(one.indexed) if each.place.stage in WITH_TEXTS)
    every = (*(one.indexed for one in holders), *texts, *descendants(index, weights))
    return list({each.id: each for each in every}.values())


class _Holder(NamedTuple):
    """Is an artifact that holds a record. `stands_in_it`: it does so as more than one that was left out."""

    indexed: Indexed
    stands_in_it: bool


def _holders(audit: Audit, found: ErasureDryRun) -> Iterator[_Holder]:
    for one in found.holders:
        for each in audit.index.with_digest(one.digest):
            if (each.place.stage, each.place.key) == (one.stage, one.key):
                yield _Holder(each, any(state != LEFT_OUT for state in one.states))


def _take_out_of_production(
    audit: Audit, going: Iterable[Indexed], logs: Mapping[str, ErasureState], by: str, *, dry_run: bool
) -> Iterator[str]:
    """Take versions out of production that would lose weights, export or evaluation, where the request waits
    for no successor any more, and yield what was done. Raises UserError where it waits.
    """
    ids = {each.id for each in going}
    served = in_production_of(audit, ids)
    if served and not all(is_pressing(state) for state in logs.values()):
        names, due = ", ".join(one.said for one in served), max(state.asked.due for state in logs.values())
        fix = (
            "Release versions without it first: take the rows out of the sources, and run the variants. "
            f"After {due} a purge takes these out of production itself"
        )
        raise UserError(f"in production, and learned a record or was asked it: {names}", fix=fix)
    request = next(iter(logs.values())).asked.request if logs else ""
    for one in served:
        if dry_run:
            yield would_fall_back(audit, one, ids)
        else:
            yield fall_back(audit, one, ids, f"erasure: request {request}", by)


def is_pressing(state: ErasureState) -> bool:
    """Say whether a purge waits for no successor: the day is over by which it is due, or it was asked for at
    once.
    """
    at_once = state.asked.quarantine == AT_ONCE_QUARANTINE
    return at_once or state.days_left(datetime.now(UTC).date()) < 0


def _refuse_held(audit: Audit, going: Iterable[Indexed]) -> None:
    rules = Rules(audit.settings.retention.of, time.time())
    for each in going:
        if rules.for_path(each.place.path).hold:
            owner = each.tenant or "what is shared"
            fix = "End the hold, or have the request held: `ft-dagster erase hold`"
            raise UserError(f"a legal hold keeps all of {owner}", field="retention.hold", fix=fix)


def _dependents_first(audit: Audit, going: Iterable[Indexed]) -> list[Indexed]:
    ids = {each.id: each for each in going}

    def above(id: int) -> Iterator[int]:
        return (each.id for each in inputs(audit.index, ids[id]) if each.id in ids)

    return [ids[id] for id in reversed(inputs_first(ids, above))]


def _remove(audit: Audit, indexed: Indexed, request: str) -> bool:
    """Remove an artifact with all that lies under its key, and what this host has of it; False: somebody
    claimed it meanwhile. One whose removal was begun before is removed to its end.
    """
    store, said = audit.store, audit.read_manifest(indexed)
    artifact = said.artifact if isinstance(said, Removed) else said
    if not isinstance(said, Removed) and not claim_removal(store, artifact, ERASURE + request, time.time()):
        return False
    finish_removal(store, artifact, _below(audit, artifact))
    settings, place = audit.settings, artifact.place
    if store.remote:
        drop_copy(settings.cache_folder, artifact.digest, str(artifact.predicate["attempt"]))
    for folder in (settings.work_folder / "runs").glob(f"*/{place.stage}*-{place.key[:16]}"):
        shutil.rmtree(folder, ignore_errors=True)
    if place.stage in ASKED or (place.stage in HAVE_RECORDS and not _has_rows(audit, artifact)):
        audit.read_again(indexed)  # what alone the index knows of them goes
    audit.forget_said(indexed)
    return True


def _below(audit: Audit, artifact: Artifact) -> Iterator[str]:
    """Yield what lies in attempts under a key: its own, uncommitted ones, checkpoints of trainings; none of
    what was committed before it or after it.
    """
    place = artifact.place
    made = (each.artifact if isinstance(each, Removed) else each for each in generations(audit.store, place))
    others = {str(one.predicate["attempt"]) for one in made} - {str(artifact.predicate["attempt"])}
    for file in audit.store.walk(place.path):
        name = file.path.removeprefix(f"{place.path}/")
        first, slash, _ = name.partition("/")
        if slash and first not in ("claims", AMENDMENTS, *others):
            yield name


def _take_rows_out(
    audit: Audit, found: ErasureDryRun, identities: Collection[bytes], *, dry_run: bool
) -> Iterator[str]:
    """Take the rows of records out of all evidence that has them, and yield each file. What an earlier purge
    began is done as well, and the index is told.
    """
    holders = {one.indexed.id: one.indexed for one in _holders(audit, found)}
    begun = {each.id: each for each in _amended(audit)}
    for each in (holders | begun).values():
        artifact = audit.artifact(each)
        if each.place.stage not in HAVE_RECORDS or not _has_rows(audit, artifact):
            continue
        evidence = audit.stored.evidence(artifact)
        with tempfile.TemporaryDirectory(dir=audit.settings.work_folder) as folder:
            is_erased = _test_of(audit, each, artifact, identities)
            for file in erased_evidence(evidence, Path(folder), is_erased):
                name = f"evidence/{file.name}"
                if not dry_run:
                    write_over(audit, artifact, name, file, RECORDS_ERASED)
                yield audit.store.uri(f"{artifact.path}/{name}")
        if not dry_run:
            audit.read_again(each)


def _has_rows(audit: Audit, artifact: Artifact) -> bool:
    from ft_dagster.data.rows.dataset_io import ORIGINS

    return audit.stored.has(artifact, f"evidence/{ORIGINS}")


def _amended(audit: Audit) -> Iterator[Indexed]:
    """Yield the artifacts of which rows were erased before."""
    paths = {
        file.path.rpartition(f"/{AMENDMENTS}/")[0]
        for file in audit.store.walk()
        if f"/{AMENDMENTS}/" in file.path
    }
    for each in audit.index.all() if paths else ():
        if each.place.path in paths:
            there = amendments(audit.store, each.place.prefix, each.place.path).values()
            if any((one.kind, one.manifest) == (RECORDS_ERASED, each.manifest) for one in there):
                yield each


def _test_of(
    audit: Audit, indexed: Indexed, artifact: Artifact, identities: Collection[bytes]
) -> Callable[[RecordRow], bool]:
    """Return what says of a row whether it is one of the records."""
    head = TreeHead.of(artifact.figures)
    key = None if head is None else audit.keys(indexed.tenant).of_id(head.key)
    lookups = set[bytes]() if key is None else set(key.lookups(identities))

    def is_erased(row: RecordRow) -> bool:
        if not row.keyed:
            return row.known in identities
        return row.known in lookups if key is not None else any(map(row.is_of, identities))

    return is_erased
