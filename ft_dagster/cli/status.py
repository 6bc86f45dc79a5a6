"""Defines the command `status`: each variant's state, why, what it gained and cost, and when it is trained
next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich.table import Table

from ft_dagster.automation.picture import picture
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
    show,
    tell,
)
from ft_dagster.errors import UserError
from ft_dagster.row_choices import SortedBy
from ft_dagster.spec import VariantKey

if TYPE_CHECKING:
    from ft_dagster.fleet.picture import FleetPicture
    from ft_dagster.fleet.status import StatusRow
    from ft_dagster.settings import Settings
    from ft_dagster.spec import Declarations
    from ft_dagster.store import Artifact, Store

WIDEST = (None, 13, 12, 10, 16)  # columns of a terminal, of each pair; the first has what is left of 80
SHOWN = 100  # rows in a terminal
GAP = "  "
STYLE = {"bad": "red", "warn": "yellow", "good": "green", "": "dim"}
Tenant = Annotated[str | None, typer.Option(help="Only this tenant's")]
Stale = Annotated[bool, typer.Option("--stale", help="Only variants that are out of date")]
Failing = Annotated[bool, typer.Option("--failing", help="Only variants that fail or are parked")]
Sort = Annotated[
    SortedBy,
    typer.Option(
        help="state: what needs a person first; else by this column", metavar=one_of(get_args(SortedBy))
    ),
]
Limit = Annotated[
    int | None, typer.Option(min=0, help=f"Most rows; 0: all; in a terminal {SHOWN} unless given")
]
Exact = Annotated[bool, typer.Option("--exact", help="Read the store, however long it takes")]


@app.command(rich_help_panel=RUNNING)
def status(
    context: typer.Context,
    variants: Keys = None,
    tenant: Tenant = None,
    stale: Stale = False,
    failing: Failing = False,
    sort: Sort = "state",
    limit: Limit = None,
    exact: Exact = False,
    as_json: Json = False,
) -> None:
    """Show each variant's state and its cause, gains, age, cost and next retrain, and what is broken.

    Up to 100 variants are read from the store now. If there are more, the figures come from the fleet's
    table, and the time of their reading is printed. What is said of runs always comes from that table.
    """
    from ft_dagster.fleet.status import FAILING, arranged, unserved_lines
    from ft_dagster.report.states import states_sentence

    settings = load_settings(context.obj)
    declarations = declarations_in(settings)
    asked = [key for key in keys_of(declarations, variants, every=True) if tenant in (None, key.tenant)]
    found = picture(settings, declarations, asked, exact=exact)
    named = set(map(str, asked))
    rows = [row for row in found.rows if row.variant in named or _is_retired(row, variants, tenant)]
    if tenant is not None and not rows:
        check_tenant(declarations, tenant)
    wanted = [r for r in rows if (not stale or r.causes) and (not failing or r.state in FAILING)]
    ordered = arranged(wanted, sort)
    most = limit if limit is not None else SHOWN if out.is_terminal and not as_json else 0
    shown = ordered[:most] if most else ordered
    of_store, damaged = _of_store(settings, declarations, shown) if found.exact else ({}, [])
    wrong = [*_declared_wrong(declarations, found, rows, asked), *damaged]
    wrong += [] if variants else map(_error, declarations.misnamed.values())
    going = _how_far(settings, shown)
    if as_json:
        told = [{**of_store.get(row.variant, {}), **row.to_json(), **_progress(row, going)} for row in shown]
        told = [row for row in told if not found.exact or row["variant"] in of_store]
        looked = None if found.looked is None else found.looked.isoformat(timespec="seconds")
        print_json({"variants": told, "broken": wrong, "exact": found.exact, "runs_as_of": looked})
        return
    _print([row.of_causes if stale else row for row in shown])
    if len(shown) < len(ordered):
        out.print(f"{len(ordered) - len(shown)} more: --limit 0 shows all", highlight=False)
    for row in shown if not variants else ():
        if row.state == "running":
            tell(f"{row.variant}: {'; '.join(filter(None, (going.get(row.variant), row.next_step)))}")
    for row in shown if variants else ():
        known = of_store.get(row.variant, {})
        from_store = [str(known[name]) for name in ("verdict", "next_look") if known.get(name)]
        _print_more(row, [*filter(None, (going.get(row.variant),)), *from_store])
    said = states_sentence([row.state for row in rows])
    more = "" if found.exact else "; --exact reads the store"
    out.print(f"{said}; {found.from_when}{more}", highlight=False, soft_wrap=True)
    for line in unserved_lines(rows, most or None):
        tell(line)
    for error in () if stale or failing else wrong:
        out.print(f"[red]broken[/] {escape(str(error['message']))}", highlight=False, soft_wrap=True)


def _how_far(settings: Settings, shown: Sequence[StatusRow]) -> dict[str, str]:
    """Return what running variants do, and how far they are, or what they wait for, by variant. This host's
    devices say it of what is on them; runs' logs of all else, as of what waits in a queue or on a cluster.
    """
    running = [row.variant for row in shown if row.state == "running"]
    said = _on_devices(settings, running) if running else {}
    elsewhere = [name for name in running if not said.get(name)]
    if not elsewhere:
        return said
    from ft_dagster.automation.processes.activity import activities  # Dagster takes seconds to import
    from ft_dagster.automation.processes.instance import open_instance

    with open_instance(settings) as instance:
        now = activities(instance, settings, elsewhere)
    told = {name: ": ".join(filter(None, (each.asset, each.words))) for name, each in now.items()}
    return {**said, **told}


def _on_devices(settings: Settings, running: Sequence[str]) -> dict[str, str]:
    """Return what the programs of these variants do on this host's devices, or why they wait for one."""
    from ft_dagster.automation.running import program_now
    from ft_dagster.launch.leases import of_host
    from ft_dagster.report.sentences.progress import in_words

    try:
        table = of_host(settings.host).table()
    except UserError as error:
        return dict.fromkeys(running, f"what it does is not known ({error})")
    said = {each.variant: f"waits: {each.why}" for each in table.waiting if each.variant in running}
    for name in {each.variant for each in table.devices} & set(running):
        stage, progress = program_now(settings, VariantKey.parse(name))
        said[name] = ": ".join(filter(None, (stage, in_words(progress))))
    return said


def _progress(row: StatusRow, going: dict[str, str]) -> dict[str, str | None]:
    return {"progress": going.get(row.variant)} if row.state == "running" else {}


def _is_retired(row: StatusRow, variants: list[str] | None, tenant: str | None) -> bool:
    return row.state == "retired" and not variants and tenant in (None, row.tenant)


def _of_store(
    settings: Settings, declarations: Declarations, shown: Sequence[StatusRow]
) -> tuple[dict[str, dict[str, object]], list[dict[str, object]]]:
    """Return what the newest artifacts of each say besides, by variant; and what is damaged."""
    from ft_dagster.records.lost_keys import lost_keys
    from ft_dagster.versions.summary import variant_summary

    holders: list[Artifact] = []
    store, found, damaged = settings.open_store(), dict[str, dict[str, object]](), list[dict[str, object]]()
    for row in shown:
        try:
            summary = variant_summary(store, VariantKey.parse(row.variant))
            ahead = _next_look(settings, declarations, VariantKey.parse(row.variant), store)
        except UserError as error:
            damaged.append(_error(error))
        else:
            found[row.variant] = {**summary.row.to_json(), **ahead, "stages": summary.stages}
            holders += summary.holders
    try:
        damaged += map(_error, lost_keys(settings.keys_folder, holders))
    except UserError as error:
        damaged.append(_error(error))
    return found, damaged


def _next_look(
    settings: Settings, declarations: Declarations, key: VariantKey, store: Store
) -> dict[str, object]:
    """Return the next evaluation, and its first sentence; nothing of a variant that is not well declared."""
    from ft_dagster.planning.looks_left import short_lines
    from ft_dagster.workspace.next_look import look_ahead
    from ft_dagster.workspace.workspace import Workspace

    if key not in declarations.files or declarations.errors(key):
        return {}
    spec = declarations.declared(key).spec
    look = look_ahead(Workspace(settings, key, looking=True, opened=store), spec)
    return {"look": look.to_json(), "next_look": "; ".join(short_lines(look, spec))}


def _declared_wrong(
    declarations: Declarations, found: FleetPicture, rows: Sequence[StatusRow], asked: Sequence[VariantKey]
) -> list[dict[str, object]]:
    """Return why declarations are broken; what the table knows of it is the sentence alone."""
    if not found.exact:
        return [{"variant": row.variant, "message": row.cause} for row in rows if row.state == "broken"]
    return [_error(error) for key in asked if (error := declarations.wrong(key)) is not None]


def _error(error: UserError) -> dict[str, object]:
    return {**error.as_dict(), "message": str(error)}


def _print(rows: Sequence[StatusRow]) -> None:
    """Print two by two in a terminal, or as wide as COLUMNS says; a line a row where it is piped."""
    from ft_dagster.fleet.status import COLUMNS, PAIRS
    from ft_dagster.report.states import KIND

    if out.is_as_wide:
        table = Table(show_lines=True)
        for header, most in zip(PAIRS, WIDEST, strict=True):
            table.add_column(header, max_width=most)
        for row in rows:
            cells = [*map(escape, row.pairs)]
            cells[1] = f"[{STYLE[KIND[row.state]]}]{cells[1]}[/]"
            table.add_row(*cells)
        show(table)
        return
    lines = [COLUMNS, *([_on_one_line(cell) for cell in row.cells] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        typer.echo(GAP.join(padded).rstrip())


def _print_more(row: StatusRow, of_store: Sequence[str]) -> None:
    """Print more of one that was named: what came of it, its verdict and next look, why it is out of date,
    what to do.
    """
    said = [*([row.result] if row.result else []), *of_store]
    causes = [f"{row.variant} is out of date: {cause.said(row.variant)}" for cause in row.causes]
    for line in [*(f"{row.variant}: {one}" for one in said), *causes]:
        tell(line)
    tell(f"Next: {row.next_step}")


def _on_one_line(text: str) -> str:
    """Put text on one line, without what would move a cursor."""
    return "".join(c if c.isprintable() else " " for c in text)
