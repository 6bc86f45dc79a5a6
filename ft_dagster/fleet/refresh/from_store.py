"""Reads what the store knows of a variant: what stands of it and why that is out of date, what its next
retrain costs, and what its parent released since.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import chain

from ft_dagster.errors import UserError
from ft_dagster.fleet.device_hours import TAKE_DEVICES, computed, hours_of, made
from ft_dagster.fleet.due.costs import STAGES, cost_items, cost_row
from ft_dagster.fleet.due.reasons import EXACT_STAMP, News, next_look, not_dealt_with
from ft_dagster.fleet.due.retrain_cost import Amount, PaidFor, PlannedCost, expected_cost
from ft_dagster.fleet.history import RunHistory
from ft_dagster.fleet.refresh.listing import unasked_places
from ft_dagster.fleet.refresh.shared_state import SharedState
from ft_dagster.fleet.table.table_rows import FleetRow
from ft_dagster.fleet.table.version import Gain, KnownVersion
from ft_dagster.gate.verdict_words import verdict_sentence, verdict_word
from ft_dagster.lineage.entry import RELEASE, ReleaseEntry
from ft_dagster.lineage.graph import ListedGraph, StoredGraph, input_of, released_evaluation
from ft_dagster.lineage.reachable import PRODUCTION
from ft_dagster.lineage.served import rolled_back
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.models.derived import newer_parent
from ft_dagster.provenance.digest import sha256_json
from ft_dagster.report.sentences.next_step import next_step
from ft_dagster.report.sentences.result import result_sentence
from ft_dagster.spec import Declared, VariantKey
from ft_dagster.stage_entries import (
    BASE_MODEL,
    ENTRIES,
    EVALUATION,
    FINE_TUNED_MODEL,
    MODEL_EXPORT,
    PROBE,
    TRAINING_PLAN,
)
from ft_dagster.stages.chain import CHAIN
from ft_dagster.store import SHARED, Artifact, Place, Store, outage, read_head, refused, unreachable
from ft_dagster.store.committed import all_committed
from ft_dagster.versions.newest_plan import newest_plan
from ft_dagster.versions.now import difference
from ft_dagster.versions.results import result_of
from ft_dagster.versions.version_artifacts import VersionArtifacts, version_artifacts
from ft_dagster.workspace.workspace import Workspace

PAID = tuple(stage for stage in TAKE_DEVICES if not ENTRIES[stage].on_demand)
ON_DEMAND = tuple(stage for stage in TAKE_DEVICES if stage not in PAID)  # which no head names
CLOCKS_APART = 60.0  # seconds between a store's clock and this host's
# Which stage's artifact names what is made for it and may be all tenants', by which input.
SHARED_INPUTS = tuple(
    (stage.name, read.given_as or read.name)
    for stage in CHAIN
    for read in stage.reads
    if read.on_demand and read.shared and read.device_use is not None
)
COUNTED = tuple(sorted(STAGES))
MadeOf = Mapping[str, Sequence[Artifact]]  # by stage

# What a damaged file of a store may raise, or folders nested without end.
DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


def said_of(error: Exception) -> str:
    """Return why the store of one variant cannot be read; begins with UNREACHED where a retry may find it
    again.
    """
    if unreachable(error):
        return outage(error).problem
    return str(error) if isinstance(error, UserError) else f"the store cannot be read: {error!r}"


def out_of_reach(error: Exception) -> bool:
    """Say whether an error is of the whole store, which is away or lets nobody in, and not of one
    variant's.
    """
    return unreachable(error) or refused(error) is not None


def learnt(
    shared: SharedState, row: FleetRow, runs: RunHistory, others: Sequence[PaidFor], now: datetime
) -> FleetRow:
    """Return the row with what runs and store say of it now, its `version` read before. Raises UserError for
    a store that cannot be read.

    `others`: what trainings of other variants took.
    """
    store, key = shared.store, row.state.key
    plan = planned_cost(store, key)
    paid = _paid(plan, 0.0 if row.version is None else row.version.retrain_hours)
    if runs.served is None:
        judged = read_head(store, key.prefix, EVALUATION.name)
        if judged is not None:
            passed = judged.figures.get("verdict", {}).get("passed", False)
            runs = runs._replace(served=made(judged), renewed=made(judged) if passed else None)
    state = replace(
        row.state,
        cost=expected_cost(plan, () if paid is None else (paid,), others),
        **runs._asdict(),
        news=(*_of_parent(row, store, now), *(news for news in row.state.news if news.kind != "parent")),
    )
    return replace(
        row,
        state=state,
        learnt=True,
        paid=paid,
        next_look=next_look(state, shared.settings.fleet.orders, now),
    )


def planned_cost(store: Store, key: VariantKey) -> PlannedCost | None:
    """Return what the newest plan estimates for a training, its evaluation and the probe before it; None
    where it cannot say.
    """
    plan = newest_plan(store, key)
    if plan is None or plan.method is None or plan.planned_row.hours is None:
        return None
    row, predicted, hours = plan.planned_row, plan.predicted, plan.planned_row.hours
    with_probe, without = predicted.usd(1.0), replace(predicted, probe_hours=None).usd(1.0)
    dearer = with_probe / without if with_probe and without else 1.0  # hours of one device, of one price
    return PlannedCost(
        hours + (predicted.probe_hours or 0.0),
        predicted.layout.gpus,
        None if row.cost_usd is None else row.cost_usd * dearer,
    )


def paid_for(store: Store, key: VariantKey, plan: PlannedCost | None) -> PaidFor | None:
    """Return what the newest training took, and what was made for it; reads all that was made of the
    variant.
    """
    return _paid(plan, retrain_hours(_read(store, _places(store, key.prefix))))


def _paid(plan: PlannedCost | None, hours: float) -> PaidFor | None:
    return PaidFor(0.0 if plan is None else plan.hours, hours) if hours > 0 else None


def retrain_hours(made_of: MadeOf) -> float:
    """Return the hours by the clock of the newest training of a variant, the probe of its plan, the newest
    evaluations and export, and what of versions before was asked since; 0 before any. `made_of`: all of the
    variant.
    """
    trained = _newest(made_of.get(FINE_TUNED_MODEL.name, ()))
    if trained is None:
        return 0.0
    graph = ListedGraph(chain.from_iterable(made_of.values()))
    probe = input_of(graph, trained, TRAINING_PLAN.name, PROBE.name)
    judged = [_newest(made_of.get(stage, ())) for stage in PAID if stage != FINE_TUNED_MODEL.name]
    asked = (each for stage in PRODUCTION for each in made_of.get(stage, ()))
    again = [each for each in asked if made(each) >= made(trained)]
    return sum(hours_of(each) for each in (trained, probe, *judged, *again) if each is not None)


def _newest(artifacts: Iterable[Artifact]) -> Artifact | None:
    return max(artifacts, key=made, default=None)


def hours_between(store: Store, key: VariantKey, since: datetime, until: datetime) -> float:
    """Return the hours by the clock of all that devices made for a variant in this time; of what all tenants
    share, the scores and the text of the base that it has now.
    """
    heads = [head for stage in PAID if (head := read_head(store, key.prefix, stage)) is not None]
    replaced = [head.place.stage for head in heads if made(head) > until]
    written = since.timestamp() - CLOCKS_APART
    places = [
        Place(key.prefix, stage, name)
        for stage in (*ON_DEMAND, *replaced)
        for name in store.names_written(f"{key.prefix}/{stage}", "manifest*.json", written)
    ]
    others = [each for made_of in _read(store, places, anew=places).values() for each in made_of]
    found = computed([*heads, *others, *_shared(store, key)])
    return sum(hours_of(each) for each in found if since <= made(each) <= until)


def _shared(store: Store, key: VariantKey) -> Iterator[Artifact]:
    for stage, name in SHARED_INPUTS:
        head = read_head(store, key.prefix, stage)
        found = None if head is None else input_of(StoredGraph(store), head, name)
        if found is not None and found.place.prefix == SHARED:
            yield found


def _places(store: Store, prefix: str) -> list[Place]:
    return [Place(prefix, stage, key) for stage in COUNTED for key in store.names(f"{prefix}/{stage}")]


def _read(store: Store, places: Sequence[Place], anew: Collection[Place] = ()) -> dict[str, list[Artifact]]:
    """Read all that was ever committed there, by stage; `cost` says what is damaged. See `all_committed`."""
    made_of = defaultdict[str, list[Artifact]](list)
    for one in all_committed(store, places, anew):
        if isinstance(one, Artifact):
            made_of[one.place.stage].append(one)
    return made_of


def known_version(shared: SharedState, row: FleetRow, declared: Declared | None) -> KnownVersion | None:
    """Return what stands of a variant, held against what would be made now (not, where it is not `declared`);
    None before anything was trained.
    """
    try:
        return _known_version(shared, row, declared)
    except (UserError, *DAMAGE) as error:  # a run may not need what is damaged, and says it if it does
        return KnownVersion(unread=said_of(error))


def _known_version(shared: SharedState, row: FleetRow, declared: Declared | None) -> KnownVersion | None:
    store, prefix = shared.store, row.state.key.prefix
    stands = version_artifacts(store, prefix)
    if not stands.artifacts:
        return None
    released, judged, export = stands.released, stands.heads[EVALUATION.name], stands.heads[MODEL_EXPORT.name]
    newest = stands.artifacts.get(EVALUATION.name) or stands.artifacts.get(FINE_TUNED_MODEL.name)
    verdict = _verdict(judged)
    now = None if declared is None else shared.of(declared)
    unseen = [] if declared is None else unasked_places(declared.spec, shared.settings.project)
    spent, hours, counted = _spent(shared, row, stands)
    spec = None if declared is None else declared.spec
    result = result_of(shared.settings, row.state.key, judged, stands.log, spec)
    standing = None if released is None else shared.unserved(row.state.key, spec, stands.log)
    return KnownVersion(
        version=None if released is None else released.version,
        waiting=waiting_version(stands.log),
        taken_back=taken_back(stands.log),
        made=None if newest is None else made(newest),
        logged=_released_at(stands.log),
        digest=None if export is None else export.digest,
        gate=None if verdict is None else verdict_word(verdict),
        verdict=None if verdict is None else verdict_sentence(verdict),
        gain=None if verdict is None else _gain(verdict),
        over_production=_over_production(store, prefix, judged, stands.log),
        causes=()
        if now is None or declared is None
        else difference(
            Workspace(shared.settings, declared.key, looking=True, opened=store), declared, stands, now
        ),
        unseen=unseen[0].path if unseen else "",
        spent=spent,
        retrain_hours=hours,
        counted=counted,
        result=result_sentence(result) if verdict else "",
        next_step=next_step(result) if verdict else "",
        unserved=() if standing is None else standing.findings,
        withheld=standing is not None and standing.withheld,
    )


def _released_at(log: Sequence[ReleaseEntry]) -> datetime | None:
    """Return when a run last released a version; what persons did since is no run's."""
    times = [datetime.fromisoformat(entry.at) for entry in log if entry.action == RELEASE]
    return max(times, default=None)


def _verdict(evaluation: Artifact | None) -> Verdict | None:
    if evaluation is None or not evaluation.figures.get("verdict"):
        return None
    return Verdict.from_json(evaluation.figures["verdict"])


def _gain(verdict: Verdict) -> Gain | None:
    """Return the gain over the base, at the first task that is judged."""
    rule = next((rule for rule in verdict.rules if rule.rule == "task"), None)
    if rule is None:
        return None
    return Gain(rule.task, rule.metric, rule.base, rule.tuned, not rule.higher_is_better)


def _over_production(
    store: Store, prefix: str, judged: Artifact | None, log: Sequence[ReleaseEntry]
) -> Gain | None:
    """Return how much better the newest evaluation is than that of the version in production, or, where that
    is its own, of the one that was served before; None where there is none, or it was asked another task.
    """
    served = dict.fromkeys(entry.production for entry in reversed(log) if entry.production is not None)
    released = {entry.version: entry for entry in log if entry.action == RELEASE}
    others = [
        released[version] for version in served if judged and released[version].evaluation != judged.digest
    ]
    now = _verdict(judged)
    if not others or now is None:
        return None
    other = others[0]
    then = _verdict(released_evaluation(store, prefix, other))
    before, after = (None if verdict is None else _gain(verdict) for verdict in (then, now))
    if before is None or after is None or before[:2] != after[:2]:
        return None
    return after._replace(before=before.after)


def waiting_version(log: Sequence[ReleaseEntry]) -> int | None:
    """Return the newest version, where it was never served and nobody took it back."""
    newest = max((entry.version for entry in log), default=None)
    served = {entry.production for entry in log}
    return None if newest in served or newest in rolled_back(log) else newest


def taken_back(log: Sequence[ReleaseEntry]) -> int | None:
    """Return the newest version, where it was rolled back and is not served again."""
    newest = max((entry.version for entry in log), default=None)
    return newest if newest in rolled_back(log) and newest != log[-1].production else None


def _spent(shared: SharedState, row: FleetRow, stands: VersionArtifacts) -> tuple[Amount, float, str]:
    """Return what `ft-dagster cost` says of the variant, the hours of its newest retrain, and a digest of
    what is counted and of the prices: all is counted anew where it changed. It may lack what was made again
    under a key that no head names (see `all_committed`).
    """
    store, prefix = shared.store, row.state.key.prefix
    places = _places(store, prefix)
    heads = [head for head in stands.heads.values() if head is not None]
    counted = sha256_json(
        [shared.prices, [head.generation for head in heads], *([place.stage, place.key] for place in places)]
    )[:16]
    if row.version is not None and row.version.counted == counted:
        return row.version.spent, row.version.retrain_hours, counted
    made_of = _read(store, places, [head.place for head in heads if head.generation > 1])
    total = cost_row(row.key, cost_items(made_of, shared.catalogue))
    return Amount(total.hours, total.usd), retrain_hours(made_of), counted


def _of_parent(row: FleetRow, store: Store, now: datetime) -> list[News]:
    """Return the news where the declared parent released another model than the variant started from: since
    it was first seen, until a run of it came to a verdict. A variant that never started from this parent is
    for a person to run.
    """
    if row.parent is None:
        return []
    told = [each for each in row.state.news if each.stamp.startswith(f"{row.parent}-v")]
    newer = newer_parent(store, row.state.key, read_head(store, row.state.key.prefix, BASE_MODEL.name))
    if newer is None:
        return not_dealt_with(told, row.state)
    if str(newer[0]) != row.parent:
        return []
    version = f"{newer[0]}-v{newer[1]}-"
    # A rollback brings a version back: its time tells it from before.
    found = News("parent", f"{version}{now:{EXACT_STAMP}}", now, now, f"parent {newer[0]} v{newer[1]}")
    return [next((news for news in told if news.stamp.startswith(version)), found)]
