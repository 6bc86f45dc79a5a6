"""Defines the command `init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ft_dagster.cli.common import DECLARING, Json, app, out, print_json, tell
from ft_dagster.spec import VariantKey


@app.command(rich_help_panel=DECLARING)
def init(
    folder: Annotated[Path, typer.Argument(help="The project folder to make")],
    base_model: Annotated[str, typer.Option(help="Local folder, hub id or s3:// prefix")],
    data: Annotated[str, typer.Option(help="The tenant's rows: file, folder, glob, s3:// or hub id")],
    variant: Annotated[str, typer.Option(help="tenant.variant")] = "acme.support",
    as_json: Json = False,
) -> None:
    """Start a project: settings, policy, defaults for all tenants, a first declaration. Never overwrites.

    The paths of base and rows count from the folder in which this is called, and must be there; the
    declaration names them from the project. Those outside of it are added to what its tenants may read.
    """
    from ft_dagster.data.sources.locations import rows_from
    from ft_dagster.models.base import base_from
    from ft_dagster.spec.start import start_project

    here = Path.cwd()
    base, rows = base_from(base_model, here, "--base-model"), rows_from(data, here, "--data")
    started = start_project(folder, VariantKey.parse(variant), base, rows)
    if as_json:
        made = [str(path) for path in started.made]
        print_json({"project": str(folder), "made": made, "said": list(started.said)})
        return
    for path in started.made:
        out.print(f"made {path}")
    for line in started.said:
        tell(line)
    out.print(f"Next: [bold]ft-dagster --project {folder} check[/] and [bold]run {variant}[/]")
