"""Decides which variants are trained again: one tick reads what changed since the one before, decides, and
asks.

A tick may be killed anywhere and made again: what it writes follows from declarations, runs and store alone,
what it asks for is known by the variant and the reason's stamp, and is asked for once.
"""

import json
import math
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import dagster as dg

from ft_dagster.assets.partitions import GRAPH, Graph
from ft_dagster.assets.release import LOG_ENTRIES
from ft_dagster.automation.board import show_board
from ft_dagster.automation.cursor import InstanceCursor
from ft_dagster.automation.fleet_table import empty_fleet, open_fleet, refuse_lost
from ft_dagster.automation.jobs import JOB
from ft_dagster.automation.past_runs import KnownRuns, charged, charges_tag, past_runs, runs_of_many
from ft_dagster.automation.shown_releases import show_unshown
from ft_dagster.automation.tags import CHARGES, DUE, VARIANT, variant_tags
from ft_dagster.dagster_private import PARTITION
from ft_dagster.errors import UserError
from ft_dagster.fleet.decision import DAYS_BACK, decided, keep_owner, keep_pace, owner_of
from ft_dagster.fleet.due.budget_ledger import BudgetLedger, Charge
from ft_dagster.fleet.due.due import Decisions, Retrain
from ft_dagster.fleet.due.reasons import next_look
from ft_dagster.fleet.due.retrain_cost import PaidFor
from ft_dagster.fleet.history import RunHistory, history
from ft_dagster.fleet.log_once import log_once
from ft_dagster.fleet.refresh.from_store import DAMAGE, known_version, learnt, out_of_reach, said_of
from ft_dagster.fleet.refresh.listing import WatchedPlace
from ft_dagster.fleet.refresh.lost_store import KNOWN, accept_empty
from ft_dagster.fleet.refresh.shared_state import SharedState
from ft_dagster.fleet.refresh.sync_declarations import Noticed, notice
from ft_dagster.fleet.refresh.watching import places_of
from ft_dagster.fleet.table.table import FleetTable
from ft_dagster.fleet.table.table_rows import FleetRow, Watched
from ft_dagster.provenance.digest import sha256_json
from ft_dagster.resources import TENANTS
from ft_dagster.resources.tenants import Tenants
from ft_dagster.settings import Settings
from ft_dagster.spec import Declarations
from ft_dagster.stage_entries import RELEASE
from ft_dagster.store import Store

OVERLAP = timedelta(seconds=10)  # runs whose change another process wrote a moment after it said it happened
TIE = timedelta(milliseconds=1)  # to which the times of changes may be rounded
MOST_RUNS, MOST_RELEASES = 2_000, 2_000  # that one tick reads
AT_ONCE = 50  # variants whose runs are read by one query
LEARN_SECONDS = 4.0  # of a tick, for reading runs and store of variants; the rest is the next tick's
ORDERS, ROTATION, READ, SHARED_STATE = "orders", "rotation", "read", "shared_state"
WHOLE = "whole"  # of READ: all up to the sensor's cursor was read; else the cursor up to which it was
AROUND, LONGEST_STEP = 3600.0, 60.0  # seconds in which all are learnt of anew, and of which one tick makes up


class ReadRuns(NamedTuple):
    """Says which runs were read. `touched`: variants of which something changed; `whole`: no run is left to
    be read.
    """

    seen: InstanceCursor
    touched: set[str]
    whole: bool


@dataclass(frozen=True)
class Tick:
    """Holds the outcome of a tick. `noticed`: of the declarations; `decisions`: on all that is due, on
    nothing unless all runs were read (`whole`).
    """

    requests: tuple[dg.RunRequest, ...]
    seen: InstanceCursor
    noticed: Noticed
    decisions: Decisions
    whole: bool = True

    @property
    def said(self) -> str:
        """Say how many of what is due are not started, and why."""
        if not self.whole:
            return "nothing is asked for until all runs were read"
        kinds = [each.kind for each in self.decisions.not_done]
        counts = [f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)]
        return ", ".join(counts) or "no variant is due"


def tick(
    instance: dg.DagsterInstance,
    settings: Settings,
    declarations: Declarations,
    cursor: str | None,
    now: datetime,
    *,
    graph: Graph = GRAPH,
) -> Tick:
    """Bring the table to what is, decide, and say what is to be asked for. Raises UserError."""
    table = open_fleet(instance, settings, graph)
    keep_owner(table, settings, graph.prefix)
    refuse_lost(instance, settings, table, graph)
    noticed = _notice(instance, table, declarations, now, graph=graph)
    known = table.meta(READ)  # the cursor is Dagster's: it outlives a table that was lost
    seen = InstanceCursor.of(cursor if known == WHOLE else known, now - DAYS_BACK)
    read = _read(instance, settings, table, seen, now, graph=graph)
    table.set_meta(READ, WHOLE if read.whole else str(read.seen))
    _forget(table, read.touched | _in_rotation(table, now))
    shared = _shared_state(settings, table)
    _learn(instance, shared, table, declarations, now, graph=graph)
    _look_again_for_orders(settings, table, now)
    decisions = decided(table, table.to_look_at(now) if read.whole else [], settings, now)
    keep_pace(table, decisions.pace)
    table.note_look(now)
    asked = [retrain for retrain in decisions.retrains if not _is_asked(instance, retrain, graph)]
    return Tick(tuple(map(_request, asked)), read.seen, noticed, decisions, read.whole)


def due_retrains(graph: Graph) -> dg.SensorDefinition:
    """Make the sensor `due_retrains`, which asks for runs of `job`."""

    @dg.sensor(
        name=graph.name("due_retrains"),
        job_name=graph.name(JOB),
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Asks for runs of variants that are due and can be paid; makes partitions of new ones; "
        "reports the board `fleet` where something changed",
        required_resource_keys={graph.name(TENANTS)},
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        return _ticked(context, getattr(context.resources, graph.name(TENANTS)), graph)

    return sensor


def _ticked(
    context: dg.SensorEvaluationContext, tenants: Tenants, graph: Graph
) -> dg.SensorResult | dg.SkipReason:
    now = datetime.now(UTC)
    try:
        settings, declarations = tenants.settings(), tenants.declarations()
        ticked = tick(context.instance, settings, declarations, context.cursor, now, graph=graph)
    except UserError as error:
        context.log.error(str(error))
        return dg.SkipReason(str(error))
    try:
        table = open_fleet(context.instance, settings, graph)
        show_board(context.instance, table, settings, now, graph)
    except UserError as error:  # nobody is kept from a retrain by it
        context.log.error(str(error))
    for message in ticked.noticed.broken.values():
        context.log.error(message)
    for retired in ticked.noticed.retired:
        context.log.info(f"{retired} is declared no longer: it is retired, and nothing of it deleted")
    if not ticked.requests:
        return dg.SensorResult(skip_reason=dg.SkipReason(ticked.said), cursor=str(ticked.seen))
    return dg.SensorResult(run_requests=list(ticked.requests), cursor=str(ticked.seen))


def rebuild_fleet(
    instance: dg.DagsterInstance, settings: Settings, *, empty_store: bool = False
) -> list[FleetRow]:
    """Make the table again from declarations, runs and store, however long it takes. Raises UserError, also
    for a store that holds nothing although something was made, unless it may (`empty_store`).
    """
    now = datetime.now(UTC)
    known = _known_store(instance, settings)
    table = empty_fleet(instance, settings)
    keep_owner(table, settings, ())
    if known is not None:
        table.set_meta(KNOWN, known)
    if empty_store:
        accept_empty(settings.open_store(), table)
    refuse_lost(instance, settings, table, GRAPH)
    declarations = Declarations(settings.project)
    while _notice(instance, table, declarations, now, graph=GRAPH).rows:
        pass
    before, read = (
        None,
        _read(instance, settings, table, InstanceCursor.of(None, now - DAYS_BACK), now, graph=GRAPH),
    )
    while not read.whole and read.seen != before:
        before, read = read.seen, _read(instance, settings, table, read.seen, now, graph=GRAPH)
    table.set_meta(READ, WHOLE)
    shared, left = _shared_state(settings, table), -1
    while table.count_unlearnt() not in (0, left):  # what stays is of a store that cannot be read
        left = table.count_unlearnt()
        _learn(instance, shared, table, declarations, now, graph=GRAPH)
    table.note_look(now)
    return table.rows()


def _known_store(instance: dg.DagsterInstance, settings: Settings) -> str | None:
    """Return what the table knows of the store, if anything. Raises UserError for the table of a project
    whose runs are in a host's instance.
    """
    try:
        table = open_fleet(instance, settings)
    except UserError:  # damaged, or of a newer version: it says nothing of itself
        return None
    owner = owner_of(table)
    keep_owner(table, settings, () if owner is None else owner.prefix)
    if owner is not None and owner.prefix:
        raise UserError(
            f"the table of a project under the prefix {'/'.join(owner.prefix)}: its runs are the host's",
            file=table.url,
            fix="Delete the file: the host's sensors make it again",
        )
    return table.meta(KNOWN)


def _notice(
    instance: dg.DagsterInstance,
    table: FleetTable,
    declarations: Declarations,
    now: datetime,
    *,
    graph: Graph,
) -> Noticed:
    """Bring partitions, then the table, to what is declared."""
    noticed = notice(table, declarations, now)
    if noticed.valid:
        known = set(instance.get_dynamic_partitions(graph.partitions))
        missing = [key for key in noticed.valid if key not in known]
        if missing:
            instance.add_dynamic_partitions(graph.partitions, missing)
    table.put(noticed.rows)
    return noticed


def _read(
    instance: dg.DagsterInstance,
    settings: Settings,
    table: FleetTable,
    seen: InstanceCursor,
    now: datetime,
    *,
    graph: Graph,
) -> ReadRuns:
    """Read the variants of which runs or parents' releases changed since, and write what runs are charged."""
    settled = (now - OVERLAP).timestamp()
    newest = min(seen.runs, settled)  # a clock that was ahead hides no change
    since = datetime.fromtimestamp(newest, UTC) - TIE
    filters = dg.RunsFilter(job_name=graph.name(JOB), updated_after=since)
    records = instance.get_run_records(filters, MOST_RUNS, order_by="update_timestamp", ascending=True)
    runs = [record for record in records if PARTITION in record.dagster_run.tags]
    _charge(settings, table, [record for record in runs if CHARGES in record.dagster_run.tags], now)
    released = dg.AssetRecordsFilter(graph.key(RELEASE.name), after_storage_id=seen.releases)
    events = instance.fetch_materializations(released, MOST_RELEASES, ascending=True).records
    parents = {event.partition_key for event in events if event.partition_key is not None}
    touched = {record.dagster_run.tags[PARTITION] for record in runs}
    touched |= {row.key for row in _descendants(table, parents)} | _not_learnt(table, events)
    changed = (record.update_timestamp.replace(tzinfo=UTC).timestamp() for record in records)
    cursor = InstanceCursor(
        min(max(changed, default=newest), settled),
        max((event.storage_id for event in events), default=seen.releases),
    )
    return ReadRuns(cursor, touched, len(records) < MOST_RUNS)


def _not_learnt(table: FleetTable, events: Sequence[dg.EventLogRecord]) -> set[str]:
    """Return the variants whose log has more entries by these events, the oldest first, than the table knows
    of.
    """
    entries = dict[str, int]()
    for event in events:
        made = event.asset_materialization
        said = None if made is None else made.metadata.get(LOG_ENTRIES)
        known = said is not None and isinstance(said.value, int)
        entries[event.partition_key or ""] = (
            int(str(said.value)) if said is not None and known else sys.maxsize
        )
    rows = table.named(entries)
    return {row.key for row in rows if row.version is None or row.version.shown < entries[row.key]}


def _descendants(table: FleetTable, parents: set[str]) -> list[FleetRow]:
    """Return the variants that start from these, and from those again."""
    found, due = dict[str, FleetRow](), parents
    while due:
        rows = {row.key: row for row in table.children(due) if row.key not in found}
        found, due = found | rows, set(rows)
    return list(found.values())


def _charge(settings: Settings, table: FleetTable, records: Iterable[dg.RunRecord], now: datetime) -> None:
    """Write what runs are charged, in place of what they were."""
    store, book = settings.open_store(), BudgetLedger(settings.fleet, table.charges((now - DAYS_BACK).date()))
    for record in records:
        run = record.dagster_run.run_id
        before = table.charges_of(run)
        for charge in before:
            book.take_back(charge)
        charges = _charged(store, record, book, before)
        table.charge(run, charges)
        for charge in charges:
            book.add(charge)


def _charged(store: Store, record: dg.RunRecord, book: BudgetLedger, before: list[Charge]) -> list[Charge]:
    """Return what a run is charged; where that cannot be said, what it was `before`. Raises what came of a
    store that is out of reach.
    """
    try:
        return charged(store, record, book)
    except Exception as error:  # of this run alone
        if out_of_reach(error):
            raise
        log_once(f"charging the run {record.dagster_run.run_id}", error)
        return before


def _in_rotation(table: FleetTable, now: datetime) -> set[str]:
    """Return the variants to be refreshed whatever the cursors say: those that run, and of all others as many
    as brings everybody's turn within AROUND.
    """
    last, at = json.loads(table.meta(ROTATION) or json.dumps(["", now.timestamp()]))
    passed = min(LONGEST_STEP, max(0.0, now.timestamp() - at))
    running, count = table.running_and_count()
    turn = table.keys_after(last, math.ceil(count * passed / AROUND))
    table.set_meta(ROTATION, json.dumps([turn[-1] if turn else last, now.timestamp()]))
    return {*running, *turn}


def _forget(table: FleetTable, keys: Iterable[str]) -> None:
    """Mark variants to be learnt of anew: also a tick that is killed now has said so."""
    table.put([replace(row, learnt=False) for row in table.named(keys) if row.learnt])


def _shared_state(settings: Settings, table: FleetTable) -> SharedState:
    """Return what all are compared with now; where it is another than it was, all are refreshed."""
    shared = SharedState(settings)
    if table.meta(SHARED_STATE) != shared.mark:
        table.forget()
        table.set_meta(SHARED_STATE, shared.mark)
    return shared


def _learn(
    instance: dg.DagsterInstance,
    shared: SharedState,
    table: FleetTable,
    declarations: Declarations,
    now: datetime,
    *,
    graph: Graph,
) -> None:
    """Read runs and store of the variants that are to be learnt of, for LEARN_SECONDS at most."""
    rows = table.unlearnt(MOST_RUNS)
    others = table.paid() if rows else []
    end, done = time.monotonic() + LEARN_SECONDS, list[FleetRow]()
    watched, read = dict[str, Watched](), dict[str, KnownRuns]()
    for at, row in enumerate(rows):
        known, places = row, list[WatchedPlace]()
        if at % AT_ONCE == 0:
            read = runs_of_many(instance, [each.key for each in rows[at : at + AT_ONCE]], graph)
        try:
            attempts = row.state.retrain.max_attempts
            newest = past_runs(instance, row.state.key, graph, attempts, read[row.key])
            runs = history(newest, row.edited)
            known = _with_runs(row, runs)
            known, places = learn(
                instance, shared, declarations, known, runs, others=others, now=now, graph=graph
            )
        except (UserError, *DAMAGE) as error:  # of the store: it is asked again on the next tick
            known = replace(known.known(broken=said_of(error)), next_look=None)
        anew = _of_runs(known) != _of_runs(row)
        watched[row.key] = Watched([*map(str, places)], known.state.retrain.poll, anew)
        done.append(known)
        if time.monotonic() > end:
            break
    if done:
        refuse_lost(instance, shared.settings, table, graph)  # it may have gone meanwhile
    table.put(done, watched)


def _with_runs(row: FleetRow, runs: RunHistory) -> FleetRow:
    """Return the row with what runs say, which holds whatever its declaration and its store are. Where none
    of them came to a verdict, what was known of one stays.
    """
    if runs.served is None:
        runs = runs._replace(served=row.state.served, renewed=row.state.renewed)
    return row.known(**runs._asdict())


def _of_runs(row: FleetRow) -> tuple[object, ...]:
    state = row.state
    return state.served, state.running, state.failed_at, state.fruitless_at


def learn(
    instance: dg.DagsterInstance,
    shared: SharedState,
    declarations: Declarations,
    row: FleetRow,
    runs: RunHistory,
    *,
    others: Sequence[PaidFor],
    now: datetime,
    graph: Graph = GRAPH,
) -> tuple[FleetRow, list[WatchedPlace]]:
    """Return the row, which has what `runs` say, with what the store says, and the places to be looked at for
    it; what its log says and Dagster does not show is reported. Raises UserError for a store that cannot be
    read.
    """
    settings, key = shared.settings, row.state.key
    before = 0 if row.version is None else row.version.shown
    shown = show_unshown(instance, shared.store, key, now, graph=graph, known=before)
    if row.state.retired:
        return replace(row, learnt=True), []
    wrong = declarations.wrong(key)
    if wrong is not None:
        return replace(row.known(broken=str(wrong)), learnt=True, next_look=None), []
    declared = declarations.declared(key)
    places = places_of(declared.spec, settings.project, shared.roots(key.tenant))
    version = known_version(shared, row, declared)
    if version is not None:
        version = replace(version, shown=shown)
    known = replace(row.known(broken=None), version=version)
    return learnt(shared, known, runs, others, now), places


def _look_again_for_orders(settings: Settings, table: FleetTable, now: datetime) -> None:
    """Look at each variant again where the platform's orders are others than they were."""
    orders = settings.fleet.orders
    digest = sha256_json([order.model_dump(mode="json") for order in orders])
    if table.meta(ORDERS) != digest:
        table.put([replace(row, next_look=next_look(row.state, orders, now)) for row in table.rows()])
        table.set_meta(ORDERS, digest)


def _is_asked(instance: dg.DagsterInstance, retrain: Retrain, graph: Graph) -> bool:
    """Say whether a run was asked for it, by whomever: the table may be behind."""
    tags = {VARIANT: str(retrain.key), DUE: retrain.stamp}
    return instance.get_runs_count(dg.RunsFilter(job_name=graph.name(JOB), tags=tags)) > 0


def _request(retrain: Retrain) -> dg.RunRequest:
    reasons = ", ".join(cause.words for cause in retrain.reasons)
    return dg.RunRequest(
        run_key=f"{retrain.key}@{retrain.stamp}",
        partition_key=str(retrain.key),
        tags=variant_tags(retrain.key, reasons) | {DUE: retrain.stamp, CHARGES: charges_tag(retrain)},
    )
