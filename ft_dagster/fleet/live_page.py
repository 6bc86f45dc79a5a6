"""Lays out the fleet and a variant as pages of `ft-dagster ui`: in the words of `status`, `cost` and `gpus`,
with what runs now. Never a row of a tenant.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_args
from urllib.parse import urlencode

from ft_dagster.errors import UserError
from ft_dagster.fleet.budgets import COLUMNS as BUDGETS
from ft_dagster.fleet.budgets import BudgetRow
from ft_dagster.fleet.picture import FleetPicture
from ft_dagster.fleet.status import COLUMNS as STATUS
from ft_dagster.fleet.status import StatusRow, arranged, unserved_lines
from ft_dagster.launch.status import Table
from ft_dagster.lineage.entry import ReleaseEntry
from ft_dagster.lineage.served import to_go_back_to
from ft_dagster.report.figures import ABSENT, HISTORY, cell, count, counted, duration, history_rows
from ft_dagster.report.pages.live import (
    ROOT,
    SECONDS,
    Choice,
    Link,
    LiveCell,
    LiveFilters,
    LivePage,
    LivePart,
    LiveTable,
    menu,
)
from ft_dagster.report.states import KIND, counts, states_sentence
from ft_dagster.report.tables.gpus import COLUMNS as DEVICES
from ft_dagster.report.tables.gpus import ENDS_A_RUN, status_rows
from ft_dagster.row_choices import SortedBy
from ft_dagster.spec import VariantKey

ROWS = 100  # of variants, until all are asked for
SORTED = {"variant": "variant", "state": "state", "over base": "gain", "age": "age", "cost to date": "cost"}
SORTED |= {"next (UTC)": "next"}  # header -> what a click on it sorts by
RUNS = ("variant", "run", "state", "asset", "since", "progress, or what it waits for")
APPROVALS = ("variant", "version", "waits since (UTC)", "who may approve", "verdict", "command")
SEARCHED = 200  # characters


class RunNow(NamedTuple):
    """Is a run that has not ended. `since`: of its state, in seconds since 1970; `waits`: what for."""

    variant: str
    run_id: str
    state: str
    asset: str = ""
    since: float = 0.0
    progress: str = ""
    waits: str = ""


class Approval(NamedTuple):
    """Is a version that waits; no `approvers`: anyone may approve it."""

    variant: str
    version: int
    since: str
    approvers: Sequence[str]
    doubt: str = ""


class PastRun(NamedTuple):
    """Is a run of a variant, `began` in ISO 8601."""

    run_id: str
    state: str
    began: str


@dataclass(frozen=True)
class FleetNow:
    """Holds what the pages show. `more_runs`: how many wait beside those of `runs`; `devices`: of this host;
    `problems`: what could not be read, a line each; `tool`: how a command begins.
    """

    picture: FleetPicture
    owners: Mapping[str, Sequence[str]] = field(default_factory=dict)
    budgets: Sequence[BudgetRow] = ()
    approvals: Sequence[Approval] = ()
    runs: Sequence[RunNow] = ()
    more_runs: int = 0
    devices: Table | None = None
    problems: Sequence[str] = ()
    tool: str = "ft-dagster"


class FleetQuery(NamedTuple):
    """Is what an address asks for; what it does not know is left out."""

    q: str = ""
    tenant: str = ""
    state: str = ""
    sort: SortedBy = "state"
    every: bool = False

    @classmethod
    def of(cls, given: Mapping[str, str]) -> FleetQuery:
        by: SortedBy = next((by for by in get_args(SortedBy) if by == given.get("sort")), "state")
        text = given.get("q", "")[:SEARCHED]
        return cls(text, given.get("tenant", ""), given.get("state", ""), by, given.get("all") == "1")

    def to(self, **changes: Any) -> str:
        """Return the address of the same with changes."""
        new = self._replace(**changes)
        told = {"q": new.q, "tenant": new.tenant, "state": new.state}
        told |= {"sort": "" if new.sort == "state" else new.sort, "all": "1" if new.every else ""}
        asked = urlencode({name: value for name, value in told.items() if value})
        return f"{ROOT}?{asked}" if asked else ROOT


def fleet_page(now: FleetNow, query: FleetQuery) -> LivePage:
    """Return the page of all variants, those that need a person first."""
    rows = now.picture.rows
    tenants = sorted({row.tenant for row in rows})
    of_tenant = [row for row in rows if query.tenant in ("", row.tenant)]
    found = [row for row in of_tenant if _is_found(row, now.owners.get(row.variant, ()), query.q)]
    parts = [_approvals(now), *_running(now), _variants(now, found, query), _budgets(now)]
    return LivePage(
        "Fleet",
        f"{states_sentence([row.state for row in rows])}; {now.picture.from_when}.",
        menu(ROOT),
        [part for part in parts if part is not None],
        [*now.problems, *unserved_lines(rows, ROWS)],
        LiveFilters(
            query.q,
            [Choice("tenant", "all tenants", tenants, query.tenant)],
            [(name, value) for name, value in (("state", query.state), ("sort", query.sort)) if value],
        ),
        seconds=SECONDS,
    )


def variant_page(
    now: FleetNow,
    row: StatusRow,
    past: Sequence[ReleaseEntry],
    runs: Sequence[PastRun],
    assets: Sequence[str],
) -> LivePage:
    """Return the page of one variant. `past`: its release log; `assets`: those of Dagster that it has."""
    key = row.variant
    facts = dict(zip(STATUS, row.cells, strict=True))
    said = (("result", row.result), ("next step", row.next_step))
    told = [(name, text) for name, text in said if text]
    told += [("owners", ", ".join(now.owners.get(key, ())) or ABSENT), ("verdict", row.verdict or ABSENT)]
    told += [(name, facts[name]) for name in STATUS if name not in ("variant", "state", "cause")]
    told += [("out of date", each.said(key)) for each in row.causes]
    unserved = () if row.unserved is None else row.unserved.findings
    told += [("may no longer be served", f"{each.words}. {each.fix}") for each in unserved]
    links = [Link("report of the newest version", f"{ROOT}/{key}/report")] if row.digest or row.judged else []
    links += [Link(name, f"/assets/{name}?view=partitions&partition={key}") for name in assets]
    ran: list[list[str | LiveCell]] = [[_run_cell(run.run_id), run.state, cell(run.began)] for run in runs]
    of_it = [run for run in now.runs if run.variant == key]
    log = [[cell(value) for value in entry] for entry in history_rows(past)]
    return LivePage(
        key,
        row.cause,
        menu(""),
        [
            LivePart("State", tables=[LiveTable((), told)]),
            LivePart("Pages", links=links),
            *([_runs_part(of_it, 0, {key})] if of_it else []),
            LivePart(
                "Runs", tables=[LiveTable(("run", "state", "began (UTC)"), ran, "Dagster knows no run.")]
            ),
            LivePart("Releases", tables=[LiveTable(HISTORY, log, "No version was released.")]),
            LivePart("Commands", commands=_commands(now.tool, row, past)),
        ],
        now.problems,
        state=LiveCell(row.state, kind=KIND[row.state]),
        seconds=SECONDS,
    )


def _is_found(row: StatusRow, owners: Sequence[str], text: str) -> bool:
    """Say whether each word of a text is in what a row says."""
    within = " ".join([row.variant, row.cause, row.verdict or "", *owners]).casefold()
    return all(word in within for word in text.casefold().split())


def _approvals(now: FleetNow) -> LivePart | None:
    if not now.approvals:
        return None
    verdicts = {row.variant: row.verdict or ABSENT for row in now.picture.rows}
    rows: list[list[str | LiveCell]] = [
        [
            _variant_cell(one.variant),
            f"v{one.version}",
            one.since[:16].replace("T", " "),
            " or ".join(one.approvers) or "anyone",
            LiveCell(verdicts.get(one.variant, ABSENT), more=one.doubt),
            LiveCell(f"{now.tool} release {one.variant} --version {one.version}", kind="code"),
        ]
        for one in now.approvals
    ]
    return LivePart("Waits for approval", tables=[LiveTable(APPROVALS, rows)])


def _running(now: FleetNow) -> list[LivePart]:
    known = {row.variant for row in now.picture.rows}
    parts = [_runs_part(now.runs, now.more_runs, known)]
    if now.devices is not None:
        rows = [[*map(LiveCell, row)] for row in status_rows(now.devices) if row[0] != "free"]
        at = DEVICES.index("variant")
        for row in rows:
            row[at] = _variant_cell(row[at].shown) if row[at].shown in known else row[at]
        free = sum(device.state == "free" for device in now.devices.devices)
        said = f"{free} of {counted(len(now.devices.devices), 'device')} of this host free."
        parts.append(LivePart("Devices", [said], tables=[LiveTable(DEVICES, rows)]))
    return parts


def _runs_part(runs: Sequence[RunNow], more: int, known: Collection[str]) -> LivePart:
    rows = [
        [
            _variant_cell(run.variant) if run.variant in known else run.variant,
            _run_cell(run.run_id),
            run.state,
            run.asset,
            duration(max(0.0, time.time() - run.since)) if run.since else "",
            LiveCell(run.waits or run.progress, kind="" if run.waits else "code"),
        ]
        for run in runs
    ]
    said = [f"{count(more)} more wait in the queue."] if more else []
    said += [ENDS_A_RUN] if runs else []
    return LivePart("Running now", said, tables=[LiveTable(RUNS, rows, "No run is in progress or waits.")])


def _variants(now: FleetNow, found: Sequence[StatusRow], query: FleetQuery) -> LivePart:
    by_state = counts([row.state for row in found])
    chips = [Link(f"all {len(found)}", query.to(state="", every=False), not query.state)]
    chips += [
        Link(f"{state} {n}", query.to(state=state), state == query.state) for state, n in by_state.items()
    ]
    wanted = arranged([row for row in found if query.state in ("", row.state)], query.sort)
    shown = wanted if query.every else wanted[:ROWS]
    headers = [_header(name, query) for name in STATUS if name not in ("cause", "why not sooner")]
    headers.insert(2, "cause")
    rows = [_status_cells(row, now.owners.get(row.variant, ())) for row in shown]
    if len(shown) < len(wanted):
        chips.append(Link(f"show {count(len(wanted) - len(shown))} more", query.to(every=True)))
    none = (
        "No variant is like that."
        if now.picture.rows
        else "No variant is declared: `ft-dagster init` begins one."
    )
    return LivePart("Variants", links=chips, tables=[LiveTable(headers, rows, none)])


def _header(name: str, query: FleetQuery) -> str | Link:
    by = SORTED.get(name)
    return name if by is None else Link(name, query.to(sort=by), by == query.sort)


def _status_cells(row: StatusRow, owners: Sequence[str]) -> list[LiveCell]:
    """Return the cells of `ft-dagster status`, the cause after the state, owners below the variant."""
    said = dict(zip(STATUS, row.cells, strict=True))
    cells = {name: LiveCell(value) for name, value in said.items()}
    cells["variant"] = _variant_cell(row.variant)._replace(more=", ".join(owners))
    cells["state"] = LiveCell(row.state, kind=KIND[row.state])
    cells["next (UTC)"] = LiveCell(said["next (UTC)"], more=said["why not sooner"])
    order = ["variant", "state", "cause"]
    order += [name for name in STATUS if name not in (*order, "why not sooner")]
    return [cells[name] for name in order]


def _budgets(now: FleetNow) -> LivePart:
    rows: list[list[str | LiveCell]] = []
    for one in now.budgets:
        cells: list[str | LiveCell] = [*one.cells]
        if one.is_spent:
            cells[-2:] = [LiveCell(str(value), kind="warn") for value in cells[-2:]]
        rows.append(cells)
    said = [
        "Hours are GPU hours, or hours of training where there is no GPU. Runs that people start count "
        "against no budget. `ft-dagster cost` shows the same by variant, version and month."
    ]
    unpriced = now.budgets[-1].cost.unpriced if now.budgets else ""
    said += [f"{unpriced[0].upper()}{unpriced[1:]}."] if unpriced else []
    return LivePart("Cost and budget", said, tables=[LiveTable(BUDGETS, rows, "Nothing was made yet.")])


def _commands(tool: str, row: StatusRow, past: Sequence[ReleaseEntry]) -> list[tuple[str, str]]:
    key, version = row.variant, row.version
    commands = []
    if row.waiting is not None:
        said = f"Put version {row.waiting} into production, as an approver"
        commands.append((said, f"{tool} release {key} --version {row.waiting}"))
    with suppress(UserError):  # there is none to go back to
        back = to_go_back_to(past, VariantKey.parse(key).prefix, None)
        commands.append((f"Go back to version {back}", f"{tool} rollback {key} --reason 'WHY'"))
    if version is not None:
        said = f"Keep as a page what version {version} was made of"
        commands.append((said, f"{tool} audit model {key}@{version} --save"))
        said = "Keep as a page which data made what was in production on a day, such as 2026-11-03"
        commands.append((said, f"{tool} audit at {key} DATE --save"))
    if row.state != "retired":
        commands.append(
            ("Take it through all stages; what has not changed is not made again", f"{tool} run {key}")
        )
    return commands


def _variant_cell(key: str) -> LiveCell:
    return LiveCell(key, f"{ROOT}/{key}")


def _run_cell(run_id: str) -> LiveCell:
    return LiveCell(run_id[:8], f"/runs/{run_id}")
