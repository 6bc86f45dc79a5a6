"""Reads what the pages of `ft-dagster ui` show: by the functions of `status`, `cost` and `gpus`, the release
log, and the instance's runs that have not ended.

What is slow to read is kept a while, longer where it takes longer, so that open pages cost little.
"""

import os
import shlex
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

import dagster as dg

from ft_dagster.automation.jobs import CHAIN
from ft_dagster.automation.picture import picture, table_of, table_of_store
from ft_dagster.automation.processes.activity import activity_of
from ft_dagster.automation.processes.own_runs import newest_runs, own_runs
from ft_dagster.automation.processes.unfinished import IN_PROGRESS, in_progress
from ft_dagster.automation.tags import VARIANT
from ft_dagster.errors import UserError
from ft_dagster.fleet.budgets import BudgetRow, budget_rows
from ft_dagster.fleet.decision import DAYS_BACK
from ft_dagster.fleet.due.costs import read_costs
from ft_dagster.fleet.live_page import Approval, FleetNow, PastRun, RunNow
from ft_dagster.fleet.picture import FleetPicture, picture_of
from ft_dagster.fleet.status import StatusRow
from ft_dagster.launch.leases import of_host
from ft_dagster.launch.status import Holding, Table, Waiting
from ft_dagster.lineage.entry import ReleaseEntry
from ft_dagster.lineage.release import history
from ft_dagster.planning.hardware.catalogue import load_catalogue
from ft_dagster.report.sentences.progress import bar
from ft_dagster.settings import Settings
from ft_dagster.spec import Declarations, VariantKey
from ft_dagster.store import outage, unreachable

T = TypeVar("T")
Row = TypeVar("Row", Holding, Waiting)
QUEUED = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED]
RUNS = 50  # of each kind that are shown
LEAST_SECONDS, SHARE = 3.0, 20  # that a reading stands: a twentieth of the time is spent on reading, at most


class Kept(Generic[T]):
    """Keeps what a function read for a while; one thread at a time reads."""

    def __init__(self, read: Callable[[], T]) -> None:
        self._read, self._lock = read, threading.Lock()
        self._kept: tuple[T, float] | None = None  # and until when it stands

    def __call__(self) -> T:
        with self._lock:
            if self._kept is None or time.monotonic() >= self._kept[1]:
                began = time.monotonic()
                value = self._read()
                ended = time.monotonic()
                self._kept = value, ended + max(LEAST_SECONDS, SHARE * (ended - began))
            return self._kept[0]


class _Standing(NamedTuple):
    """Holds what is slow to read."""

    picture: FleetPicture
    owners: Mapping[str, Sequence[str]]
    budgets: Sequence[BudgetRow]
    approvals: Sequence[Approval]
    problems: Sequence[str]


class FleetReader:
    """Reads a project's fleet and runs, again and again. Safe to be asked by several threads."""

    def __init__(self, instance: dg.DagsterInstance, settings: Settings) -> None:
        self.instance, self.settings = instance, settings
        self.assets = [asset.key.path[-1] for asset in CHAIN if asset.partitions_def is not None]
        self._away_since: datetime | None = None  # the store
        self._standing, self._running = Kept(self._read_standing), Kept(self._read_running)
        elsewhere = f" --project {shlex.quote(str(settings.project))}"
        self._tool = f"ft-dagster{'' if os.getcwd() == str(settings.project) else elsewhere}"

    def now(self) -> FleetNow:
        """Return what there is now. Raises UserError."""
        standing, (runs, more, devices) = self._standing(), self._running()
        return FleetNow(*standing[:4], runs, more, devices, standing.problems, self._tool)

    def row(self, key: VariantKey) -> StatusRow | None:
        return next((row for row in self.now().picture.rows if row.variant == str(key)), None)

    def releases(self, key: VariantKey) -> list[ReleaseEntry]:
        """Return the release log. Raises UserError."""
        return history(self.settings.open_store(), key.prefix)

    def past_runs(self, key: VariantKey, most: int = 5) -> list[PastRun]:
        """Return a variant's newest runs."""
        return [
            PastRun(
                record.dagster_run.run_id,
                record.dagster_run.status.value.lower(),
                f"{record.create_timestamp:%Y-%m-%d %H:%M}",
            )
            for record in islice(newest_runs(self.instance, self.settings, key), most)
        ]

    def _read_standing(self) -> _Standing:
        """Read it from the store; while that cannot be reached, what the fleet's table knew at the last
        tick.
        """
        try:
            found = self._read_store()
        except Exception as error:
            if not unreachable(error):
                raise
            self._away_since = self._away_since or datetime.now(UTC)
            return self._read_table(error)
        self._away_since = None
        return found

    def _read_table(self, error: Exception) -> _Standing:
        if (table := table_of(self.settings)) is None or table.looked() is None:
            raise error
        declarations = Declarations(self.settings.project)
        found = picture_of(table, self.settings, datetime.now(UTC))
        said = f"Since {self._away_since:%Y-%m-%d %H:%M:%S} UTC: {outage(error)}. Costs, approvals and what "
        said += "was released are shown again once it is reached"
        owners = {row.variant: _owners(declarations, row) for row in found.rows}
        return _Standing(found, owners, (), (), [said])

    def _read_store(self) -> _Standing:
        problems, declarations = list[str](), Declarations(self.settings.project)
        found = picture(self.settings, declarations, list(declarations), say=problems.append)
        problems += map(str, declarations.misnamed.values())
        costs = read_costs(self.settings.open_store(), load_catalogue(self.settings.project))
        problems += costs.damaged
        table, now = table_of_store(self.settings, say=lambda text: None), datetime.now(UTC)
        charges = [] if table is None else table.charges((now - DAYS_BACK).date())
        tenants = {row.tenant for row in found.rows}
        owners = {row.variant: _owners(declarations, row) for row in found.rows}
        budgets = budget_rows(costs.items, tenants, charges, self.settings.fleet, now)
        waiting = [row for row in found.rows if row.waiting is not None]
        return _Standing(found, owners, budgets, [*self._approvals(declarations, waiting)], problems)

    def _approvals(self, declarations: Declarations, waiting: Iterable[StatusRow]) -> Iterator[Approval]:
        policies, store = self.settings.policies(), self.settings.open_store()
        for row in waiting:
            key = VariantKey.parse(row.variant)
            try:
                approvers = policies.of(key.tenant).approvers_of(declarations.declared(key).spec)
                past = history(store, key.prefix)
            except UserError as error:  # of one variant; the page shows it where it waits
                yield Approval(row.variant, row.waiting or 0, "", (), str(error))
                continue
            made = next((entry for entry in reversed(past) if entry.version == row.waiting), None)
            since, doubt = ("", "") if made is None else (made.at, made.doubt or "")
            yield Approval(row.variant, row.waiting or 0, since, approvers, doubt)

    def _read_running(self) -> tuple[list[RunNow], int, Table | None]:
        active = self.instance.get_run_records(dg.RunsFilter(statuses=IN_PROGRESS), limit=RUNS)
        queue = dg.RunsFilter(statuses=QUEUED)
        waiting = self.instance.get_run_records(queue, limit=RUNS, ascending=True)
        more = max(0, self.instance.get_runs_count(queue) - len(waiting)) if len(waiting) == RUNS else 0
        is_own = own_runs(self.instance, self.settings)
        devices = self._told_apart(of_host(self.settings.host).table(), is_own)
        held_up = {one.run_id: one.why for one in devices.waiting}
        going = in_progress(self.instance) if waiting else []
        runs = [self._in_progress(record, held_up) for record in active if is_own(record.dagster_run)]
        for record in waiting:
            if not is_own(record.dagster_run):
                continue
            run, since = record.dagster_run, record.create_timestamp.timestamp()
            why = activity_of(self.instance, self.settings, run, going).said
            runs.append(RunNow(_name(run), run.run_id, "queued", "", since, waits=why))
        return runs, more, devices

    def _told_apart(self, devices: Table, is_own: Callable[[dg.DagsterRun], bool]) -> Table:
        """Return the table with the variants of other instances and projects, which share the host's devices
        and may have the same names, called what they are.
        """
        ids = [row.run_id for row in devices.devices if row.run_id] + [row.run_id for row in devices.waiting]
        known = self.instance.get_runs(dg.RunsFilter(run_ids=ids)) if ids else []
        own = {run.run_id for run in known if is_own(run)} | {""}
        held = tuple(row if row.run_id in own else _of_others(row) for row in devices.devices)
        wait = tuple(row if row.run_id in own else _of_others(row) for row in devices.waiting)
        return replace(devices, devices=held, waiting=wait)

    def _in_progress(self, record: dg.RunRecord, held_up: Mapping[str, str]) -> RunNow:
        run = record.dagster_run
        now = activity_of(self.instance, self.settings, run, ())
        began = now.since or record.start_time or record.create_timestamp.timestamp()
        why, progress = held_up.get(run.run_id) or now.said, bar(now.progress)
        return RunNow(_name(run), run.run_id, run.status.value.lower(), now.asset, began, progress, why)


def _name(run: dg.DagsterRun) -> str:
    return run.tags.get(VARIANT) or run.job_name


def _of_others(row: Row) -> Row:
    return replace(row, variant=f"{row.variant}, of another instance or project")


def _owners(declarations: Declarations, row: StatusRow) -> Sequence[str]:
    """Return who answers for a variant; nobody, where its declaration is gone or says nobody."""
    key = VariantKey.parse(row.variant)
    said = declarations.content(key).get("owners") if key in declarations.files else None
    return tuple(map(str, said)) if isinstance(said, list) else ()
