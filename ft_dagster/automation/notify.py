"""Tells what happened to the targets that declarations name: releases, failed gates and runs, broken files.

A tick derives events from runs, release logs and the fleet's table since its cursor, puts them into the
outbox, and delivers. Killed anywhere it is made again: events are known by their ids.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import dagster as dg

from ft_dagster.assets.partitions import GRAPH, Graph
from ft_dagster.automation.cursor import InstanceCursor
from ft_dagster.automation.due import OVERLAP, TIE
from ft_dagster.automation.fleet_table import fleet_home, fleet_url, open_fleet, refuse_lost
from ft_dagster.automation.jobs import JOB
from ft_dagster.automation.processes.unfinished import awaits_retry, is_retried
from ft_dagster.automation.shown_releases import entries_shown, newest_event
from ft_dagster.dagster_private import PARTITION
from ft_dagster.errors import UserError
from ft_dagster.fleet.decision import FILE, decided
from ft_dagster.fleet.events.delivery import Delivered, deliver
from ft_dagster.fleet.events.erasures import reminders
from ft_dagster.fleet.events.events import EventKind, FleetEvent, moment_of, released_events, run_link
from ft_dagster.fleet.events.outbox import Outbox
from ft_dagster.fleet.refresh.from_store import DAMAGE
from ft_dagster.fleet.table.table import FleetTable
from ft_dagster.fleet.table.table_rows import VARIANTS, FleetRow
from ft_dagster.launch.locks import locked
from ft_dagster.lineage.entry import ReleaseEntry
from ft_dagster.lineage.erasures import owners_with_erasures, read_erasures, states
from ft_dagster.lineage.release import history
from ft_dagster.resources import TENANTS
from ft_dagster.resources.tenants import Tenants
from ft_dagster.settings import Settings
from ft_dagster.spec import Declarations, VariantKey
from ft_dagster.stage_entries import (
    DECLARATION,
    EVALUATION,
    FINE_TUNED_MODEL,
    RELEASE,
    RELEASE_EVALUATION,
    TRAINING_PLAN,
)
from ft_dagster.stages.release_evaluation import CHECK
from ft_dagster.store import UNREACHED, read_head, unreachable

DATABASE, LOCK, PATIENCE = "notifications.db", "notifications.lock", 60.0
LOOK_BACK = timedelta(days=1)  # of a first tick, and before a cursor for entries of release logs
MOST_RUNS, MOST_RELEASES = 500, 500  # that one tick reads
GATES = {(EVALUATION.name, "gate"), (RELEASE_EVALUATION.name, CHECK)}
FIGURES_ALONE = {
    *GATES,
    (TRAINING_PLAN.name, "fits"),
    (FINE_TUNED_MODEL.name, "learned"),
}  # what these checks say


class Told(NamedTuple):
    """Says what was told. `events`: how many are new."""

    events: int
    seen: InstanceCursor
    delivered: Delivered


def open_outbox(instance: dg.DagsterInstance, settings: Settings, graph: Graph = GRAPH) -> Outbox:
    """Open the outbox, made where it is not there, beside the fleet's table. Raises UserError."""
    url, home = fleet_url(instance, settings, graph), fleet_home(instance, settings, graph)
    if url.startswith("sqlite"):
        url = f"{url.removesuffix(FILE)}{DATABASE}"
    try:
        with locked(home / LOCK, PATIENCE):
            return Outbox(url)
    except TimeoutError:
        problem = f"another process has been making the record of what was told for {PATIENCE:.0f} s"
        raise UserError(problem, file=home / LOCK, fix="End it, or try again") from None


def tell(
    instance: dg.DagsterInstance,
    settings: Settings,
    declarations: Declarations,
    cursor: str | None,
    now: datetime,
    *,
    graph: Graph = GRAPH,
) -> Told:
    """Find what happened since, and tell it. Raises UserError."""
    outbox, seen = open_outbox(instance, settings, graph), InstanceCursor.of(cursor, now - LOOK_BACK)
    table = open_fleet(instance, settings, graph)
    refuse_lost(instance, settings, table, graph)
    records = _changed_runs(instance, seen, now, graph)
    since = datetime.fromtimestamp(seen.runs, UTC) - LOOK_BACK
    released, releases, whole = _released(instance, seen, since, graph)
    new = outbox.unknown([
        *(event for record in records for event in _of_run(instance, settings, record, graph)),
        *_of_logs(instance, settings, released, since, graph),
        *_of_table(table, settings, declarations, now),
        *_of_erasures(settings, declarations, now),
    ])  # fmt: skip
    targets = settings.notifications.targets
    broken = any(event.kind == "declaration_broken" for event in new)
    tenants = _tenants(targets, declarations) if broken else {}
    outbox.put(new, {event.id: _targets(settings, declarations, event, tenants) for event in new}, now)
    outbox.forget_old(now, targets)
    runs = settled = (now - OVERLAP).timestamp()
    if len(records) == MOST_RUNS:  # else all were read
        runs = min(settled, records[-1].update_timestamp.replace(tzinfo=UTC).timestamp())
    runs = min(runs, _first_undecided(instance, records, runs))
    if not whole:  # entries of the releases that are left are looked for from then on
        runs = min(runs, seen.runs)
    delivered = deliver(outbox, targets, settings.project, lambda: datetime.now(UTC))
    return Told(len(new), InstanceCursor(runs, releases), delivered)


def told_events(graph: Graph) -> dg.SensorDefinition:
    """Make the sensor `told_events`."""

    @dg.sensor(
        name=graph.name("told_events"),
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells releases, failed gates and runs, and erasures that are due, to the targets that "
        "declarations name in `notify`",
        required_resource_keys={graph.name(TENANTS)},
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        return _tell(context, getattr(context.resources, graph.name(TENANTS)), graph)

    return sensor


def _tell(context: dg.SensorEvaluationContext, tenants: Tenants, graph: Graph) -> dg.SkipReason:
    settings, now = tenants.settings(), datetime.now(UTC)
    if not settings.notifications.targets:
        context.update_cursor("")  # the first one that is declared is told the last day
        return dg.SkipReason("no targets are declared (notifications.targets)")
    try:
        declarations = tenants.declarations()
        told = tell(context.instance, settings, declarations, context.cursor, now, graph=graph)
    except UserError as error:
        context.log.error(str(error))
        return dg.SkipReason(str(error))
    context.update_cursor(str(told.seen))
    for name, why in told.delivered.failed.items():
        context.log.error(f"target {name} took no event: {why}. It is tried again")
    slow = f"; not done in time: {', '.join(told.delivered.slow)}" if told.delivered.slow else ""
    return dg.SkipReason(f"events: {told.events} new, {told.delivered.told} told{slow}")


def _changed_runs(
    instance: dg.DagsterInstance, seen: InstanceCursor, now: datetime, graph: Graph
) -> list[dg.RunRecord]:
    """Runs that failed since, the first first; those of the last moments each time again."""
    newest = min(seen.runs, (now - OVERLAP).timestamp())
    filters = dg.RunsFilter(
        job_name=graph.name(JOB),
        statuses=[dg.DagsterRunStatus.FAILURE],
        updated_after=datetime.fromtimestamp(newest, UTC) - TIE,
    )
    found = instance.get_run_records(filters, MOST_RUNS, order_by="update_timestamp", ascending=True)
    return list(found)


def _first_undecided(instance: dg.DagsterInstance, records: Sequence[dg.RunRecord], newest: float) -> float:
    """Return when the first of these runs changed of which it is to be seen whether Dagster runs it again;
    `newest` where there is none.
    """
    waits = (record for record in records if awaits_retry(instance, record.dagster_run))
    times = (record.update_timestamp.replace(tzinfo=UTC).timestamp() for record in waits)
    return min(times, default=newest)


def _of_run(
    instance: dg.DagsterInstance, settings: Settings, record: dg.RunRecord, graph: Graph
) -> Iterator[FleetEvent]:
    """Yield what is told of a run that failed; nothing while Dagster runs it again."""
    run = record.dagster_run
    if not _is_key(run.tags.get(PARTITION)) or is_retried(instance, run):
        return
    kind, sentence = why_failed(instance, run.run_id, graph)
    ended = record.end_time or record.update_timestamp.replace(tzinfo=UTC).timestamp()
    yield FleetEvent(
        kind=kind,
        variant=run.tags[PARTITION],
        at=moment_of(datetime.fromtimestamp(ended, UTC)),
        happened=run.run_id,
        sentence=sentence,
        link=run_link(settings.notifications.ui, run.run_id),
    )


def _is_key(partition: str | None) -> bool:
    """Say whether a partition is a variant's: Dagster takes any text."""
    try:
        return partition is not None and bool(VariantKey.parse(partition))
    except UserError:
        return False


def why_failed(instance: dg.DagsterInstance, run_id: str, graph: Graph) -> tuple[EventKind, str]:
    """Say where a run failed. Errors may name what a row holds: their words stay in the run."""
    for record in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION):
        event = record.dagster_event
        found = event.asset_check_evaluation_data if event else None
        if found is None or not found.blocking or found.passed:
            continue
        asset = found.asset_key.path[len(graph.prefix) :]
        check = ("/".join(asset), found.check_name)
        said = f": {found.description}" if check in FIGURES_ALONE else ""
        if check not in GATES:
            return "run_failed", f"{check[0]}: check {check[1]} did not hold{said}"
        failed = found.metadata.get("fail")
        kind: EventKind = "gate_failed" if failed is None or failed.value else "undecided"
        return kind, found.description or "its gate did not hold"
    for record in instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
        if record.dagster_event is not None:
            return "run_failed", f"{record.dagster_event.step_key} failed; its run says why"
    return "run_failed", "its run failed, and no step of it did"


def _released(
    instance: dg.DagsterInstance, seen: InstanceCursor, since: datetime, graph: Graph
) -> tuple[dict[str, int], int, bool]:
    """Return the variants of which something was released, promoted or rolled back since, each with the id of
    the first event that says so; the new cursor; and whether no release is left to be read.
    """
    filters = dg.AssetRecordsFilter(
        graph.key(RELEASE.name),
        after_storage_id=seen.releases or None,
        after_timestamp=None if seen.releases else since.timestamp(),
    )
    events = instance.fetch_materializations(filters, MOST_RELEASES, ascending=True).records
    newest = max((event.storage_id for event in events), default=seen.releases)
    firsts = dict[str, int]()
    for event in events:
        if event.partition_key is not None and _is_key(event.partition_key):
            firsts.setdefault(event.partition_key, event.storage_id)
    return firsts, newest, len(events) < MOST_RELEASES


def _of_logs(
    instance: dg.DagsterInstance,
    settings: Settings,
    released: Mapping[str, int],
    since: datetime,
    graph: Graph,
) -> Iterator[FleetEvent]:
    """Yield events of the entries that no event before those of `released` shows, however old they are, and
    of those that were written since.
    """
    for key, first in sorted(released.items()):
        past = _log(settings, key)
        before = newest_event(instance, key, graph, before=first)
        told = len(past) if before is None else entries_shown(before, past)
        new = [
            entry for at, entry in enumerate(past) if at >= told or datetime.fromisoformat(entry.at) >= since
        ]
        yield from released_events(new, settings.notifications.ui)


def _log(settings: Settings, key: str) -> list[ReleaseEntry]:
    """Return a log that holds; of one that does not `status` and `audit verify` tell. Raises what says that
    the store cannot be reached now: the tick is made again.
    """
    try:
        return history(settings.open_store(), VariantKey.parse(key).prefix)
    except (UserError, *DAMAGE) as error:
        if unreachable(error):
            raise
        return []


def _of_table(
    table: FleetTable, settings: Settings, declarations: Declarations, now: datetime
) -> Iterator[FleetEvent]:
    """Yield events of variants that wait for a person: parked, or not to be trained as they are declared. A
    storage that is out of reach for a while is nobody's declaration.
    """
    broken = VARIANTS.c.broken.is_not(None) & ~VARIANTS.c.broken.startswith(UNREACHED)
    for row in table.rows(broken & ~VARIANTS.c.retired):
        yield FleetEvent(
            "declaration_broken", row.key, moment_of(row.edited), f"{row.edited}", _broken(row, declarations)
        )
    failing = table.rows((VARIANTS.c.failures > 0) | (VARIANTS.c.fruitless > 0))
    known = {str(row.state.key): row.state for row in failing}
    for waits in decided(table, failing, settings, now).not_done:
        if waits.kind == "parked":
            state = known[str(waits.key)]
            ended = state.failed_at or state.fruitless_at or state.known_since
            count = state.failures + state.fruitless
            runs = f"{count} runs in a row" if count > 1 else "its run"
            said = f"{runs} came to no release: it waits until it is mended, or what it reads changes"
            yield FleetEvent("parked", str(waits.key), moment_of(ended), f"{ended}", said)


def _of_erasures(settings: Settings, declarations: Declarations, now: datetime) -> Iterator[FleetEvent]:
    """Yield reminders of erasures; of what all tenants share there are none, since no variant stands for it.
    Of a log that does not hold `audit verify` tells.
    """
    store = settings.open_store()
    for tenant in filter(None, owners_with_erasures(store)):
        try:
            found = states(read_erasures(store, tenant))
        except UserError as error:
            if unreachable(error):
                raise
            continue
        first = sorted(str(key) for key in declarations if key.tenant == tenant)[:1]
        for state in found:
            yield from reminders(state, first, now.date())


def _broken(row: FleetRow, declarations: Declarations) -> str:
    """Say where its mistake is; the value that stands there is left out."""
    try:
        wrong = declarations.wrong(row.state.key)
    except UserError as gone:
        wrong = gone
    if wrong is None:
        return "what is stored of it cannot be read; `ft-dagster fleet due` says why"
    if _is_unreadable(declarations, row.state.key):  # it is told to more than those whom it names
        line = "" if wrong.line is None else f", line {wrong.line}"
        return f"{wrong.file}{line}: it cannot be read; `ft-dagster check` says why"
    place = ": ".join(filter(None, (wrong.file, wrong.field)))
    return f"{place}: {wrong.problem}" if place else wrong.problem


def _targets(
    settings: Settings, declarations: Declarations, event: FleetEvent, tenants: Mapping[str, set[str]]
) -> list[str]:
    """Return the targets that the declaration names; unknown ones are said by `check`. Where it cannot be
    read, those that it named when it was last run, and the platform's: all that no other tenant has to
    itself. `tenants`: who names each target.
    """
    key, content = VariantKey.parse(event.variant), dict[str, object]()
    with suppress(UserError):  # its file may be gone by now
        content = dict(declarations.content(key))
    names = _named(content)
    if not content:
        with suppress(UserError, *DAMAGE):
            names |= set(_frozen(settings, key))
        if _is_unreadable(declarations, key):
            names |= {name for name, by in tenants.items() if len(by) != 1 or key.tenant in by}
    return [name for name in settings.notifications.targets if name in names]


def _is_unreadable(declarations: Declarations, key: VariantKey) -> bool:
    """Say whether its own file is what cannot be read; the defaults of all are a mistake of the platform."""
    try:
        wrong, file = declarations.wrong(key), declarations.file(key)
    except UserError:
        return False
    return wrong is not None and wrong.file == str(file) and not declarations.content(key)


def _tenants(targets: Iterable[str], declarations: Declarations) -> dict[str, set[str]]:
    """Return the tenants of which any declaration names each target."""
    tenants: dict[str, set[str]] = {name: set() for name in targets}
    for key in declarations:
        for name in _named(declarations.content(key)) & tenants.keys():
            tenants[name].add(key.tenant)
    return tenants


def _named(content: Mapping[str, Any]) -> set[str]:
    """Return the targets that a declaration names, valid or not."""
    named = content.get("notify")
    names = [named] if isinstance(named, str) else named if isinstance(named, list | tuple) else []
    return {name for name in names if isinstance(name, str)}


def _frozen(settings: Settings, key: VariantKey) -> list[str]:
    """Return what the newest run's declaration named, where today's says nothing that can be read."""
    store = settings.open_store()
    head = read_head(store, key.prefix, DECLARATION.name)
    if head is None:
        return []
    content = json.loads(head.read(store, "payload/declaration.json"))
    return list(content["spec"].get("notify", []))
