"""Defines commands about the host and the fleet: gpus, fleet due, fleet rebuild."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from ft_dagster.cli.commands import app
from ft_dagster.cli.common import (
    RUNNING,
    Json,
    check_tenant,
    declarations_in,
    escape,
    load_settings,
    out,
    print_json,
    show_rows,
    tell,
)

if TYPE_CHECKING:
    from ft_dagster.settings import Settings

fleet = typer.Typer(help="Retrains of all variants: what is due, why, at what cost.", no_args_is_help=True)
app.add_typer(fleet, name="fleet", rich_help_panel=RUNNING)


@app.command(rich_help_panel=RUNNING)
def gpus(context: typer.Context, as_json: Json = False) -> None:
    """Show this host's devices (GPUs, or CPU slots if it has none): who holds them, who waits, and why. If
    runs go to a cluster, also those that wait there.
    """
    from ft_dagster.launch.leases import of_host
    from ft_dagster.report.tables.gpus import COLUMNS, ENDS_A_RUN, status_rows

    settings = load_settings(context.obj)
    status, engine = of_host(settings.host).table(), settings.engine
    elsewhere = {} if engine is None else _waiting_elsewhere(settings)
    if as_json:
        print_json({**asdict(status), "engine": engine, "waiting_there": elsewhere})
        return
    show_rows(COLUMNS, status_rows(status))
    if status.waiting or any(device.state != "free" for device in status.devices):
        tell(ENDS_A_RUN)
    if engine is not None:
        tell(f"Runs go to {engine}; these are the devices of this host alone")
    for variant, why in elsewhere.items():
        tell(f"{variant} waits: {why}")


def _waiting_elsewhere(settings: Settings) -> dict[str, str]:
    """Return why runs wait that have not begun, by variant."""
    from ft_dagster.automation.processes.activity import waiting_runs
    from ft_dagster.automation.processes.instance import open_instance

    with open_instance(settings) as instance:
        return waiting_runs(instance, settings)


@fleet.command("due")
def due_now(
    context: typer.Context,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's")] = None,
    as_json: Json = False,
) -> None:
    """Show which variants are due for a retrain: why, how urgent, at what expected cost, and why not yet
    started.

    This is what the sensor's last tick knew; the command starts nothing.
    """
    from ft_dagster.automation.fleet_table import open_fleet
    from ft_dagster.automation.processes.instance import open_instance
    from ft_dagster.fleet.decision import decided
    from ft_dagster.fleet.due.due_rows import COLUMNS, due_rows

    settings = load_settings(context.obj)
    with open_instance(settings) as instance:
        known = open_fleet(instance, settings)
        decisions = decided(known, known.rows(), settings, datetime.now(UTC))
        looked = known.looked()
    rows = [row for row in due_rows(decisions) if tenant in (None, row.tenant)]
    if tenant is not None and not rows:
        check_tenant(declarations_in(settings), tenant)
    if as_json:
        print_json(
            {"due": [asdict(row) for row in rows], "looked": None if looked is None else looked.isoformat()}
        )
        return
    if rows:
        show_rows(COLUMNS, [row.cells for row in rows])
    else:
        out.print(
            "nothing decided yet: `ft-dagster ui` runs the daemon that decides"
            if looked is None
            else "no variant is due"
        )


@fleet.command()
def rebuild(
    context: typer.Context,
    empty_store: Annotated[
        bool, typer.Option("--empty-store", help="The store is new: it may lack what was made")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make the fleet's table again from declarations, runs and store, of which it is only a copy.

    Use it if the table was lost, damaged, or written by another version. The sensor may run meanwhile.
    """
    from ft_dagster.automation.due import rebuild_fleet
    from ft_dagster.automation.processes.instance import open_instance

    settings = load_settings(context.obj)
    with open_instance(settings) as instance:
        rows = rebuild_fleet(instance, settings, empty_store=empty_store)
    broken = {str(row.state.key): row.state.broken for row in rows if row.state.broken is not None}
    if as_json:
        print_json({"variants": len(rows), "broken": broken})
        return
    out.print(f"{len(rows)} variants, of which {len(broken)} cannot be trained as they are declared")
    for message in broken.values():
        out.print(f"[red]broken[/] {escape(message)}", highlight=False, soft_wrap=True)
