"""Reads the runs of variants as the fleet knows them: what each came to, and what it was charged."""

import json
import math
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from itertools import chain, count, islice
from typing import NamedTuple

import dagster as dg

from ft_dagster.assets.partitions import Graph
from ft_dagster.automation.jobs import JOB
from ft_dagster.automation.processes.instance import FINISHED, failure_of
from ft_dagster.automation.processes.unfinished import is_retried
from ft_dagster.automation.tags import CHARGES, DUE
from ft_dagster.dagster_private import PARENT_RUN, PARTITION, RETRIED_BY
from ft_dagster.errors import UserError
from ft_dagster.fleet.due.budget_ledger import BudgetLedger, Charge, beyond, settled
from ft_dagster.fleet.due.due import Retrain
from ft_dagster.fleet.due.retrain_cost import Amount
from ft_dagster.fleet.history import MOST_RUNS, PastRun, RunOutcome
from ft_dagster.fleet.refresh.from_store import CLOCKS_APART, DAMAGE, hours_between, out_of_reach
from ft_dagster.report.sentences.next_step import WAS_CANCELLED
from ft_dagster.spec import VariantKey
from ft_dagster.stage_entries import DECLARATION, RELEASE
from ft_dagster.store import Store

WHOLE_CHAIN = (DECLARATION.name, RELEASE.name)  # what a run from end to end makes
SUCCESS = dg.DagsterRunStatus.SUCCESS
MOST_PAGES = 100  # that are gone through for attempts: many runs may be of single assets, or run again


class KnownRuns(NamedTuple):
    """Holds runs of one variant, the newest first; `whole`: there are no others."""

    newest: Sequence[dg.RunRecord]
    whole: bool


NONE_KNOWN = KnownRuns((), whole=False)


def runs_of_many(instance: dg.DagsterInstance, keys: Sequence[str], graph: Graph) -> dict[str, KnownRuns]:
    """Return the newest runs of several variants by one query, of a page each together."""
    filters = dg.RunsFilter(job_name=graph.name(JOB), tags={PARTITION: list(keys)})
    most = MOST_RUNS * len(keys)
    records = instance.get_run_records(filters, limit=most) if keys else []
    found: dict[str, list[dg.RunRecord]] = {key: [] for key in keys}
    for record in records:
        found[record.dagster_run.tags[PARTITION]].append(record)
    return {key: KnownRuns(newest, len(records) < most) for key, newest in found.items()}


def past_runs(
    instance: dg.DagsterInstance,
    key: VariantKey,
    graph: Graph,
    attempts: int,
    known: KnownRuns = NONE_KNOWN,
) -> Iterator[PastRun]:
    """Yield the newest runs of a variant's whole chain, the newest first, at least `attempts` of them where
    there are as many since one succeeded, and the last that succeeded. What Dagster runs again counts as one;
    what a person ran of single assets counts while it runs alone. `known`: those that were read already.
    """
    filters = dg.RunsFilter(job_name=graph.name(JOB), tags={PARTITION: str(key)})
    whole = {graph.key(name) for name in WHOLE_CHAIN}
    records: list[dg.RunRecord] = []
    page: Sequence[dg.RunRecord] = ()
    for page in islice(_pages(instance, filters, known), MOST_PAGES):
        records += [record for record in page if _counts(record, whole)]
        if any(map(_succeeded, records)) or sum(map(_is_last_try, records)) >= attempts:
            break
    if len(page) == MOST_RUNS and not any(map(_succeeded, records)):
        only = dg.RunsFilter(job_name=filters.job_name, tags=filters.tags, statuses=[SUCCESS])
        found = chain.from_iterable(_pages(instance, only))
        records += islice((each for each in found if _counts(each, whole)), 1)
    for record in filter(_is_last_try, records):
        yield _past(instance, record)


def _pages(
    instance: dg.DagsterInstance, filters: dg.RunsFilter, known: KnownRuns = NONE_KNOWN
) -> Iterator[Sequence[dg.RunRecord]]:
    """Yield pages of MOST_RUNS each, the newest first; the last of fewer, or none. A page that is `known` is
    not read.
    """
    cursor = None
    for at in count(0, MOST_RUNS):
        page = known.newest[at : at + MOST_RUNS]
        if len(page) < MOST_RUNS and not known.whole:
            page = instance.get_run_records(filters, limit=MOST_RUNS, cursor=cursor)
        yield page
        if len(page) < MOST_RUNS:
            return
        cursor = page[-1].dagster_run.run_id


def _succeeded(record: dg.RunRecord) -> bool:
    return record.dagster_run.status == SUCCESS


def _is_last_try(record: dg.RunRecord) -> bool:
    """Say whether Dagster did not run it again."""
    return RETRIED_BY not in record.dagster_run.tags


def _counts(record: dg.RunRecord, whole: set[dg.AssetKey]) -> bool:
    run = record.dagster_run
    return run.status not in FINISHED or run.asset_selection is None or run.asset_selection >= whole


def _past(instance: dg.DagsterInstance, record: dg.RunRecord) -> PastRun:
    run, asked = record.dagster_run, record.dagster_run.tags.get(DUE)
    started = begun(record)
    if run.status not in FINISHED or is_retried(instance, run):
        return PastRun(started, "unfinished", asked=asked)
    ended = datetime.fromtimestamp(record.end_time, UTC) if record.end_time else _utc(record.update_timestamp)
    if run.status == dg.DagsterRunStatus.CANCELED:
        return PastRun(started, "failed", ended, asked, WAS_CANCELLED)
    if run.status == SUCCESS:
        return PastRun(started, "success", ended, asked)
    outcome: RunOutcome = "verdict" if _was_judged(instance, run.run_id) else "failed"
    return PastRun(started, outcome, ended, asked, failure_of(instance, run.run_id))


def begun(record: dg.RunRecord) -> datetime:
    """Return when a run began to read, in UTC; when it was made where it has not yet."""
    if record.start_time is not None:
        return datetime.fromtimestamp(record.start_time, UTC)
    return _utc(record.create_timestamp)


def _utc(written: datetime) -> datetime:
    return written.replace(tzinfo=UTC)


def _was_judged(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Say whether a run ended at a check that did not pass: another of the same would end there too."""
    for record in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION):
        event = record.dagster_event
        found = event.asset_check_evaluation_data if event else None
        if found and found.blocking and not found.passed:
            return True
    return False


def charges_tag(retrain: Retrain) -> str:
    """Return what a retrain is charged, as a tag of its run: the table can be made again from it."""
    amount, hours = retrain.cost.amount, retrain.cost.hours
    days = [[charge.day.isoformat(), *charge.amount] for charge in retrain.charges]
    return json.dumps({"amount": list(amount), "hours": hours, "days": days})


class Reserved(NamedTuple):
    """Says what a run was charged before it began, by its tag. `hours`: estimated, by the clock."""

    tenant: str
    amount: Amount
    hours: float
    days: tuple[Charge, ...]


def reserved(run: dg.DagsterRun) -> Reserved | None:
    """Read what a run was charged; None without the tag, and where the tag says what none of ours can."""
    try:
        tenant = VariantKey.parse(run.tags[PARTITION]).tenant
        said = json.loads(run.tags[CHARGES])
        days = tuple(Charge(date.fromisoformat(day), tenant, _amount(each)) for day, *each in said["days"])
        return Reserved(tenant, _amount(said["amount"]), _positive(said["hours"]), days)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError, UserError):
        return None


def _amount(said: Sequence[object]) -> Amount:
    """Raises TypeError and ValueError, also for too many values."""
    hours, usd = said
    return Amount(_positive(hours), _positive(usd))


def _positive(said: object) -> float:
    """Return a finite number, or 0. Raises ValueError for anything else."""
    if isinstance(said, bool) or not isinstance(said, int | float) or not 0 <= float(said) < math.inf:
        raise ValueError(f"no amount: {said!r:.50}")
    return float(said)


def charged(store: Store, record: dg.RunRecord, book: BudgetLedger) -> list[Charge]:
    """Return what a run takes of the budgets: as reserved while it is in progress, then what it took.

    One that Dagster runs again was reserved once: its further try is an overrun. A run that no budget was
    asked for takes none, whatever its tag says. Raises ValueError and the like where its amounts come to none
    that can be summed with all others', and what came of a store that is out of reach.
    """
    run, said = record.dagster_run, reserved(record.dagster_run)
    if said is None:
        return []
    tenant, foretold, days = said.tenant, said.amount, list(said.days)
    if PARENT_RUN in run.tags:
        days = book.overrun(tenant, foretold, begun(record))
    if run.status not in FINISHED:
        return _amounts(days)
    hours = _hours(record, store)
    real = foretold.times(hours / said.hours) if said.hours > 0 else Amount(hours)
    more = book.overrun(tenant, beyond(foretold, real), begun(record))
    return _amounts([*settled(days, foretold, real), *more])


def _amounts(charges: list[Charge]) -> list[Charge]:
    """Check the charges, which are summed with those of all tenants, and return them. Raises ValueError for
    what is no amount.
    """
    if not all(0 <= part < math.inf for charge in charges for part in charge.amount):
        raise ValueError("a charge that is negative, infinite or no number")
    return charges


def _hours(record: dg.RunRecord, store: Store) -> float:
    """Return the hours by the clock: of what a run made, without its wait for devices; all of it where it
    failed, or where what it made cannot be read. Raises what came of a store that is out of reach.
    """
    run = record.dagster_run
    if record.start_time is None or record.end_time is None:
        return 0.0
    whole = max(0.0, record.end_time - record.start_time) / 3600
    if run.status != SUCCESS:
        return whole
    ended = datetime.fromtimestamp(record.end_time + CLOCKS_APART, UTC)
    key = VariantKey.parse(run.tags[PARTITION])
    try:
        return min(whole, hours_between(store, key, begun(record), ended))
    except (UserError, *DAMAGE) as error:
        if out_of_reach(error):
            raise
        return whole
