"""Defines commands on what the fleet costs and does, and what an upgrade would: cost, metrics, upgrade."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ft_dagster.automation.picture import table_of_store
from ft_dagster.cli.commands import app
from ft_dagster.cli.common import (
    RUNNING,
    Json,
    Keys,
    check_tenant,
    declarations_in,
    escape,
    keys_of,
    load_settings,
    one_of,
    out,
    print_json,
    print_whole,
    show,
    tell,
)
from ft_dagster.errors import UserError, UserErrors, all_of
from ft_dagster.row_choices import CostBy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ft_dagster.fleet.due.costs import CostItem, CostPeriod, CostRow
    from ft_dagster.fleet.upgrade import UpgradePlan
    from ft_dagster.settings import Settings
    from ft_dagster.store import Store

COLUMNS = ("trainings", "passed", "planned h", "hours", "planned $", "$")
ALL, LOOPBACK = "all", "127.0.0.1"
DAYS = date(1970, 1, 1), date(9998, 12, 31)  # between which everything was made


@app.command(rich_help_panel=RUNNING)
def cost(
    context: typer.Context,
    by: Annotated[
        CostBy, typer.Option(help="What each row stands for", metavar=one_of(CostBy))
    ] = CostBy.TENANT,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's")] = None,
    since: Annotated[str | None, typer.Option(help="From this day on, as 2026-03-01")] = None,
    until: Annotated[str | None, typer.Option(help="Up to this day, including it")] = None,
    as_json: Json = False,
) -> None:
    """Show what trainings, evaluations and exports took, in hours and dollars, beside what plans estimated.

    The figures come from the store's manifests, each counted on the day it was made. Days and months are
    those of fleet.timezone. With `--tenant` it also says what the tenant's retrains were charged to its
    budget.
    """
    from ft_dagster.fleet.due.costs import cost_row, cost_rows, read_costs
    from ft_dagster.planning.hardware.catalogue import load_catalogue

    settings = load_settings(context.obj)
    zone = ZoneInfo(settings.fleet.timezone)
    period, store = _period(since, until, zone), settings.open_store()
    read = read_costs(store, load_catalogue(settings.project))
    if not read.manifests:
        table_of_store(settings)
    if tenant is not None and not any(item.tenant == tenant for item in read.items):
        check_tenant(declarations_in(settings), tenant)
    items = [item for item in read.items if period.has(item.at) and tenant in (None, item.tenant)]
    name_of, wrong = _names(by, items, store, zone)
    rows = cost_rows(items, name_of, dearest_first=by is not CostBy.MONTH)
    total, wrong = cost_row(ALL, items), [*read.damaged, *wrong]
    if as_json:
        print_json({
            "by": by.value, "timezone": settings.fleet.timezone, "manifests": read.manifests,
            "rows": [asdict(row) for row in rows], "total": asdict(total), "damaged": wrong,
        })  # fmt: skip
        return
    _show(by, rows, total)
    if tenant is not None:
        tell(_budget(settings, tenant))
    out.print(f"{read.manifests:,} manifests read", highlight=False)
    for line in wrong:
        out.print(f"[red]damaged[/] {escape(line)}", highlight=False, soft_wrap=True)


def _budget(settings: Settings, tenant: str) -> str:
    from ft_dagster.fleet.budgets import budget_sentence
    from ft_dagster.fleet.decision import DAYS_BACK

    table, now = table_of_store(settings), datetime.now(UTC)
    charges = [] if table is None else table.charges((now - DAYS_BACK).date())
    return budget_sentence(tenant, charges, settings.fleet, now)


def _names(
    by: CostBy, items: Sequence[CostItem], store: Store, zone: ZoneInfo
) -> tuple[Callable[[CostItem], str], list[str]]:
    """Return what each item's row is called; and what could not be read for it, a line each."""
    from ft_dagster.fleet.due.costs import version_name, versions_in

    if by is CostBy.VERSION:
        versions, wrong = versions_in(store, items)
        return lambda item: version_name(item, versions), wrong
    if by is CostBy.MONTH:
        return lambda item: f"{item.at.astimezone(zone):%Y-%m}", []
    if by is CostBy.VARIANT:
        return lambda item: item.variant or item.tenant, []
    return lambda item: item.tenant, []


def _show(by: CostBy, rows: Sequence[CostRow], total: CostRow) -> None:
    from ft_dagster.fleet.due.costs import shown_hours

    table = Table(by.value, box=SIMPLE_HEAD)
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for row in (*rows, total):
        table.add_row(
            escape(row.name),
            str(row.trainings),
            str(row.passed),
            shown_hours(row.planned_hours),
            shown_hours(row.hours),
            *row.usd_shown,
        )
    show(table)
    out.print("hours: of one GPU; without any, of a training by the clock", highlight=False)
    if total.unpriced:
        out.print(escape(total.unpriced), highlight=False)


def _period(since: str | None, until: str | None, zone: ZoneInfo) -> CostPeriod:
    """Raises UserError."""
    from ft_dagster.fleet.due.costs import CostPeriod

    first, last = _day("--since", since), _day("--until", until)
    if first is not None and last is not None and last < first:
        raise UserError("comes before --since", field="--until", value=until, fix="Give a later day")
    after = None if last is None else _midnight(last + timedelta(days=1), zone)
    return CostPeriod(None if first is None else _midnight(first, zone), after)


def _day(flag: str, text: str | None) -> date | None:
    """Parse a day within DAYS, since a midnight near the ends of the calendar is none in UTC."""
    try:
        return None if text is None else min(max(DAYS[0], date.fromisoformat(text)), DAYS[1])
    except ValueError:
        raise UserError("not a day", field=flag, value=text, fix="Write it as 2026-03-01") from None


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)


@app.command(rich_help_panel=RUNNING)
def metrics(
    context: typer.Context,
    host: Annotated[
        str, typer.Option(help="Address to listen on; everybody there reads the figures")
    ] = LOOPBACK,
    port: Annotated[int, typer.Option(min=1, max=65_535)] = 9465,
    every: Annotated[float, typer.Option(min=5, max=86_400, help="Seconds between two readings")] = 60.0,
    once: Annotated[bool, typer.Option("--once", help="Print the figures once, and end")] = False,
) -> None:
    """Serve figures for Prometheus: costs by tenant, queue, devices, failures, variants by state.

    The figures are read again at an interval (--every); a request gets those of the last reading. Ctrl-C ends
    it.
    """
    from ft_dagster.automation.metrics import read_figures, serve
    from ft_dagster.automation.processes.instance import open_instance
    from ft_dagster.fleet.metrics import as_text

    settings = load_settings(context.obj)
    with open_instance(settings) as instance:
        if once:
            print_whole(as_text(read_figures(instance, settings)).removesuffix("\n"))
            return
        say = partial(Console(stderr=True).print, markup=False, highlight=False, soft_wrap=True)
        say(f"http://{host}:{port}/metrics")
        serve(partial(read_figures, instance, settings), host, port, every, say)


@app.command(rich_help_panel=RUNNING)
def upgrade(
    context: typer.Context,
    variants: Keys = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show what would be made again")] = False,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep-rendering",
            help="Declare data.render: plain for these variants, whose prompts were trained as plain text",
        ),
    ] = False,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's")] = None,
    share: Annotated[
        float | None,
        typer.Option(help="Print an order for this share of the fleet, to try it first: above 0, at most 1"),
    ] = None,
    days: Annotated[float, typer.Option(min=0.01, max=3650, help="Days until that order's deadline")] = 7.0,
    as_json: Json = False,
) -> None:
    """Show which results of older versions this version would make again, for whom, and at what cost.

    Neither an upgrade nor this command makes anything again: only a run does, or an order to the fleet. Only
    --keep-rendering writes anything: into declarations, so that their prompts stay the plain text that they
    were.
    """
    from ft_dagster.fleet.upgrade import as_yaml, order_for, plan_upgrade

    if keep:
        _keep_rendering(load_settings(context.obj), variants, as_json=as_json)
        return
    if not plan:
        fix = "Give --plan to see what would change; a run, or an order in ft_dagster.yaml, carries it out"
        raise UserError("nothing is upgraded by a command", field="--plan", fix=fix)
    if variants:
        fix = "Leave them out, or name a tenant by --tenant"
        raise UserError("a plan is of all variants", field="--plan", value=variants[0], fix=fix)
    if share is not None and not 0 < share <= 1:
        raise UserError("not a share", field="--share", value=share, fix="Give one above 0, to 1")
    settings = load_settings(context.obj)
    planned = plan_upgrade(settings, tenant)
    if not planned.rows:
        table_of_store(settings)
    order = None if share is None else order_for(planned, share, days, datetime.now(UTC))
    if as_json:
        content = None if order is None else order.model_dump(mode="json")
        print_json({**planned.to_json(), "order": content})
        return
    _show_upgrade(planned)
    if share is not None:
        said = "nothing is left for an order" if order is None else as_yaml(order)
        tell(said)


def _keep_rendering(settings: Settings, variants: list[str] | None, *, as_json: bool) -> None:
    """Keep the rendering of each variant, and say whether its file was written, or why not. What is wrong
    with one stops no other.
    """
    from ft_dagster.fleet.upgrade import keep_rendering

    files, wrong = dict[str, str | None](), list[UserError]()
    for key in keys_of(declarations_in(settings), variants, every=False):
        try:
            file = keep_rendering(settings, key)
            files[str(key)] = None if file is None else str(file)
        except UserError as error:
            wrong += all_of(error)
    if as_json:
        print_json({"written": files})
    else:
        for name, written in files.items():
            none = "left as it is: a run renders no prompts of its newest mixture otherwise"
            said = f"{name}: {none if written is None else f'data.render: plain is written into {written}'}"
            tell(said)
    if wrong:
        raise UserErrors.of(wrong)


def _show_upgrade(planned: UpgradePlan) -> None:
    from ft_dagster.fleet.due.costs import shown_hours, shown_usd
    from ft_dagster.report.figures import ABSENT

    table = Table("tenant", "what", box=SIMPLE_HEAD)
    for column in ("variants", "hours", "$"):
        table.add_column(column, justify="right")
    for row in planned.by_tenant():
        usd = shown_usd(row.usd) if row.usd or not row.hours else ABSENT
        cells = (str(row.variants), shown_hours(row.hours), usd)
        table.add_row(escape(row.tenant), row.effect, *cells)
    show(table)
    for line in (*planned.said, *planned.libraries):
        tell(line)
    for line in planned.damaged:
        out.print(f"[red]damaged[/] {escape(line)}", highlight=False, soft_wrap=True)
