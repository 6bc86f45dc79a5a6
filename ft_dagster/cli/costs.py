"""What the fleet costs: the command cost."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ft_dagster.cli.common import RUNNING, Json, app, escape, out, print_json, show
from ft_dagster.errors import UserError
from ft_dagster.fleet.costs import CostBy
from ft_dagster.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ft_dagster.fleet.costs import CostItem, CostPeriod, CostRow
    from ft_dagster.store import Store

COLUMNS = ("trainings", "passed", "planned h", "hours", "planned $", "$")
ALL = "all"


@app.command(rich_help_panel=RUNNING)
def cost(
    context: typer.Context,
    by: Annotated[CostBy, typer.Option(help="What a row is")] = CostBy.TENANT,
    tenant: Annotated[str | None, typer.Option(help="Of one tenant alone")] = None,
    since: Annotated[str | None, typer.Option(help="From this day on, as 2026-03-01")] = None,
    until: Annotated[str | None, typer.Option(help="Up to this day and with it")] = None,
    as_json: Json = False,
) -> None:
    """What trainings, evaluations and exports took, in hours and dollars, beside what plans foretold.

    By the store's manifests, each counted when it was made; days and months are those of fleet.timezone.
    """
    from ft_dagster.fleet.costs import cost_row, cost_rows, read_costs
    from ft_dagster.planning.hardware.catalogue import load_catalogue

    settings = load_settings(context.obj)
    zone = ZoneInfo(settings.fleet.timezone)
    period, store = _period(since, until, zone), settings.open_store()
    read = read_costs(store, load_catalogue(settings.project))
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
    out.print(f"{read.manifests:,} manifests read", highlight=False)
    for line in wrong:
        out.print(f"[red]damaged[/] {escape(line)}", highlight=False, soft_wrap=True)


def _names(
    by: CostBy, items: Sequence[CostItem], store: Store, zone: ZoneInfo
) -> tuple[Callable[[CostItem], str], list[str]]:
    """What each item's row is called; and what could not be read for it, a line each."""
    from ft_dagster.fleet.costs import version_name, versions_in

    if by is CostBy.VERSION:
        versions, wrong = versions_in(store, items)
        return lambda item: version_name(item, versions), wrong
    if by is CostBy.MONTH:
        return lambda item: f"{item.at.astimezone(zone):%Y-%m}", []
    if by is CostBy.VARIANT:
        return lambda item: item.variant or item.tenant, []
    return lambda item: item.tenant, []


def _show(by: CostBy, rows: Sequence[CostRow], total: CostRow) -> None:
    from ft_dagster.fleet.costs import shown_hours

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
            f"{row.planned_usd:,.2f}",
            f"{row.usd:,.2f}",
        )
    show(table)
    out.print("hours: of one GPU; without any, of a training by the clock", highlight=False)
    if total.unpriced_hours:
        hours = shown_hours(total.unpriced_hours)
        out.print(f"no price is known of the devices of {hours} h; gpus.yaml takes one", highlight=False)


def _period(since: str | None, until: str | None, zone: ZoneInfo) -> CostPeriod:
    """Raises UserError."""
    from ft_dagster.fleet.costs import CostPeriod

    first, last = _day("--since", since), _day("--until", until)
    if first is not None and last is not None and last < first:
        raise UserError("comes before --since", field="--until", value=until, fix="Give a later day")
    after = None if last is None else _midnight(last + timedelta(days=1), zone)
    return CostPeriod(None if first is None else _midnight(first, zone), after)


def _day(flag: str, text: str | None) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise UserError("not a day", field=flag, value=text, fix="Write it as 2026-03-01") from None


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
