"""Commands about the store: store du, store gc."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ft_dagster.cli.common import KEEPING, Json, app, escape, out, print_json, show
from ft_dagster.errors import UserError
from ft_dagster.settings import load_settings
from ft_dagster.store.contents import By, Contents, contents_of, usage

store = typer.Typer(
    help="What lies in the store: what it occupies, what nothing needs.", no_args_is_help=True
)
app.add_typer(store, name="store", rich_help_panel=KEEPING)
USAGE = ("artifacts", "size", "older versions", "kept bases", "unfinished")
HOUR = 3600  # seconds


@store.command()
def du(
    context: typer.Context,
    by: Annotated[By, typer.Option(help="What a row is")] = By.TENANT,
    as_json: Json = False,
) -> None:
    """What each tenant, variant or stage occupies.

    Of it: what an older version of a stage made, copies of bases (`base_model.keep`), and attempts that were
    never committed.
    """
    from ft_dagster.report.tables import size

    contents = contents_of(load_settings(context.obj).open_store())
    rows = usage(contents, by)
    damaged = [str(each.damaged) for each in contents.keyed.values() if each.damaged]
    if as_json:
        print_json({"by": by.value, "rows": [asdict(row) for row in rows], "damaged": damaged})
        return
    table = Table(by.value, *USAGE, box=SIMPLE_HEAD)
    for row in rows:
        parts = (row.bytes, row.older_versions, row.kept_bases, row.unfinished)
        table.add_row(escape(row.name), str(row.artifacts), *map(size, parts))
    show(table)
    out.print(f"{size(sum(row.bytes for row in rows))} in all", highlight=False)
    for line in damaged:
        out.print(f"[red]damaged[/] {escape(line)}", highlight=False, soft_wrap=True)


@store.command()
def gc(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed")] = False,
    older_than: Annotated[
        float, typer.Option(min=0, help="Hours; what was written since is left alone")
    ] = 24,
    as_json: Json = False,
) -> None:
    """What nothing needs: no head, release or alias, no input of these (a parent, say), no running attempt.

    Manifests stay for ever. Only --dry-run works yet: nothing is removed.
    """
    from ft_dagster.lineage.reachable import unreached
    from ft_dagster.report.tables import size
    from ft_dagster.store.make import is_being_made

    if not dry_run:
        raise UserError(
            "nothing is removed yet", field="--dry-run", fix="Give --dry-run: it says what nothing needs"
        )
    settings = load_settings(context.obj)
    opened = settings.open_store()
    before = time.time() - older_than * HOUR
    contents: Contents = contents_of(opened)
    found = unreached(opened, contents, partial(is_being_made, settings.work_folder), before)
    total = sum(one.bytes for one in found)
    if as_json:
        listed = [
            {
                "place": one.place.path,
                "attempt": one.attempt,
                "committed": one.committed,
                "bytes": one.bytes,
                "written": _date(one.written),
            }
            for one in found
        ]
        print_json({"unreached": listed, "bytes": total})
        return
    table = Table("size", "written (UTC)", "what", box=SIMPLE_HEAD)
    for one in found:
        what = "" if one.committed else ", never committed"
        table.add_row(size(one.bytes), _date(one.written), escape(f"{one.place.path}/{one.attempt}{what}"))
    show(table)
    out.print(f"{size(total)} that nothing needs; nothing was removed", highlight=False)


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
