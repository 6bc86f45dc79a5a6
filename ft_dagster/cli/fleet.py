"""Commands about the host: gpus."""

from __future__ import annotations

from dataclasses import asdict

import typer
from rich.table import Table

from ft_dagster.cli.common import RUNNING, Json, app, escape, print_json, show
from ft_dagster.settings import load_settings


@app.command(rich_help_panel=RUNNING)
def gpus(context: typer.Context, as_json: Json = False) -> None:
    """The devices of this host (GPUs, or CPU slots where there is none): who holds, who waits, and why."""
    from ft_dagster.launch.leases import of_host
    from ft_dagster.report.gpus import COLUMNS, status_rows

    status = of_host(load_settings(context.obj).host).table()
    if as_json:
        print_json(asdict(status))
        return
    table = Table(*COLUMNS)
    for row in status_rows(status):
        table.add_row(*map(escape, row))
    show(table)
