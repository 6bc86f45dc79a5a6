"""Defines commands about the store: store du, store gc, store copy."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ft_dagster.cli.commands import app
from ft_dagster.cli.common import KEEPING, Json, escape, load_settings, one_of, out, print_json, show, tell
from ft_dagster.errors import UserError
from ft_dagster.row_choices import UsageBy

if TYPE_CHECKING:
    from ft_dagster.lineage.garbage_collection import Outcome
    from ft_dagster.lineage.idle_runs import IdleRun
    from ft_dagster.lineage.retention import Rules
    from ft_dagster.settings import Retention, Settings
    from ft_dagster.store.contents import Contents

store = typer.Typer(
    help="The store: what it occupies, what nothing needs any more, copies of it.", no_args_is_help=True
)
app.add_typer(store, name="store", rich_help_panel=KEEPING)
Options = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="For the file system: endpoint_url, profile, ..."),
]
USAGE = ("artifacts", "size", "older versions", "kept bases", "unfinished")
# Why a copy left something as it is in TO.
STAYED = {
    "left": "left, the one in {} is newer",
    "removed": "left, the retention of {} removed it; a run there makes it again",
}
WORDS = {
    "first_looks": ("first look at bases", "first looks at bases"),
    "quantized_bases": ("quantized base", "quantized bases"),
}
HOURS_A_DAY = 24
GB = 1e9  # bytes


@store.command()
def du(
    context: typer.Context,
    by: Annotated[
        UsageBy, typer.Option(help="What each row stands for", metavar=one_of(UsageBy))
    ] = UsageBy.TENANT,
    as_json: Json = False,
) -> None:
    """Show what each tenant, variant or stage occupies, and what that costs a month
    (storage_usd_per_gb_month).

    Columns of their own say how much of it was made by older versions of stages, is a copy of a base
    (`base_model.keep`), or was never committed. Below stands what this host keeps outside the store: bases,
    first looks at them, and quantized ones.
    """
    from ft_dagster.report.figures import size
    from ft_dagster.store.contents import contents_of, usage

    settings = load_settings(context.obj)
    contents, price = contents_of(settings.open_store()), settings.storage_price
    rows = usage(contents, by)
    damaged = [str(each.damaged) for each in contents.keyed.values() if each.damaged]
    kept = _kept(settings)
    if as_json:
        listed = [{**asdict(row), "usd_per_month": _usd(row.bytes, price)} for row in rows]
        told = {"by": by.value, "usd_per_gb_month": price, "rows": listed, "damaged": damaged}
        print_json({**told, **_counts(kept)})
        return
    costs = [] if price is None else ["a month"]
    table = Table(by.value, *USAGE, *costs, box=SIMPLE_HEAD)
    for row in rows:
        parts = (row.bytes, row.older_versions, row.kept_bases, row.unfinished)
        cells = [] if price is None else [_dollars(row.bytes, price)]
        table.add_row(escape(row.name), str(row.artifacts), *map(size, parts), *cells)
    show(table)
    total = sum(row.bytes for row in rows)
    said = "" if price is None else f", {_dollars(total, price)} a month at ${price:g} a GB"
    out.print(f"{size(total)} in all{said}", highlight=False)
    for those in filter(None, _by_name(kept).values()):
        beside = f"{size(sum(one.bytes for one in those))} beside it: {_named(those)}"
        tell(beside)
    for line in damaged:
        out.print(f"[red]damaged[/] {escape(line)}", highlight=False, soft_wrap=True)


class KeptOnHost(NamedTuple):
    """Is something this host keeps of a base. `name`: its kind, in --json; `used`: when a training took it
    last, seconds since 1970; `forget` removes it, and says whether it went.
    """

    name: str
    path: Path
    bytes: int
    used: float
    forget: Callable[[], bool]


def _kept(settings: Settings, before: float = math.inf) -> list[KeptOnHost]:
    """Return all of it, or that alone which was not taken since."""
    from ft_dagster.training import kept_base
    from ft_dagster.training.watch import first_look

    cache = settings.cache_folder
    looks = first_look.kept_looks(cache / first_look.FIRST_LOOKS)
    bases = kept_base.kept_bases(cache / kept_base.KEPT_BASES)
    found = [KeptOnHost("first_looks", *look, partial(first_look.forget, look)) for look in looks]
    found += [KeptOnHost("quantized_bases", *base, partial(kept_base.forget, base)) for base in bases]
    return [one for one in found if one.used < before]


def _by_name(kept: Sequence[KeptOnHost]) -> dict[str, list[KeptOnHost]]:
    return {name: [one for one in kept if one.name == name] for name in WORDS}


def _counts(kept: Sequence[KeptOnHost]) -> dict[str, dict[str, int]]:
    """Return the counts as --json has them; of a quantized base, the folder counts."""
    of = _by_name(kept).items()
    return {name: {"files": len(those), "bytes": sum(one.bytes for one in those)} for name, those in of}


def _named(kept: Sequence[KeptOnHost]) -> str:
    """Name what is kept of one kind."""
    from ft_dagster.report.figures import counted

    return f"{counted(len(kept), *WORDS[kept[0].name])}, in {kept[0].path.parent}"


def _usd(size: int, price: float | None) -> float | None:
    return None if price is None else size / GB * price


def _dollars(size: int, price: float) -> str:
    return f"${size / GB * price:,.2f}"


@store.command()
def gc(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed")] = False,
    older_than: Annotated[
        float | None,
        typer.Option(min=0, help="Hours, instead of retention.days; what was used since then is left alone"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Remove what nothing needs any more, as far as retention lets it go.

    An artifact is needed by a head, a release or an alias, as an input of these (a parent, for example), or
    by a running attempt. On this host the command also removes what is left of programs and attempts that
    nobody goes on with, and first looks at bases and quantized bases that no training took for as long.
    Manifests stay for ever, with the day of the removal. Exits with 1 if something could not be removed.
    """
    from rich.progress import track

    from ft_dagster.lineage.garbage_collection import Outcome, collect
    from ft_dagster.lineage.idle_runs import remove_run
    from ft_dagster.lineage.reachable import unreached
    from ft_dagster.store.blobs import SHARED
    from ft_dagster.store.contents import contents_of
    from ft_dagster.store.make import is_being_made

    settings = load_settings(context.obj)
    rules = _rules(settings, older_than, dry_run=dry_run)
    opened = settings.open_store()
    contents = contents_of(opened)
    being_made = partial(is_being_made, settings.work_folder)
    found = unreached(opened, contents, being_made, rules)
    runs = _idle_runs(settings, contents, rules)
    kept = [] if rules.for_path(SHARED).hold else _kept(settings, rules.before(SHARED))
    gone = [False] * len(runs)
    outcomes = [Outcome(one, removed=False) for one in found]
    if not dry_run:
        removing = collect(opened, found, being_made, rules)
        console = Console(stderr=True)
        outcomes = list(
            track(removing, "Removing", len(found), console=console, transient=True, disable=as_json)
        )
        gone = [remove_run(run) for run in runs]
        kept = [one for one in kept if one.forget()]
    _report(outcomes, list(zip(runs, gone, strict=True)), kept, dry_run=dry_run, as_json=as_json)
    if any(outcome.error for outcome in outcomes):
        raise typer.Exit(1)


def _rules(settings: Settings, older_than: float | None, *, dry_run: bool) -> Rules:
    """Return retention as it is declared, or of so many hours. Raises UserError for too few."""
    from ft_dagster.lineage.retention import Rules

    if older_than is None:
        return Rules(settings.retention.of, time.time())
    if older_than < HOURS_A_DAY and not dry_run:
        raise UserError(
            "too short: somebody may be about to use what is so young",
            field="--older-than",
            value=older_than,
            fix=f"Give {HOURS_A_DAY} hours or more, or --dry-run",
        )

    def of(tenant: str | None) -> Retention:
        return settings.retention.of(tenant).model_copy(update={"days": older_than / HOURS_A_DAY})

    return Rules(of, time.time())


def _idle_runs(settings: Settings, contents: Contents, rules: Rules) -> list[IdleRun]:
    from ft_dagster.launch.leases import of_host
    from ft_dagster.lineage.idle_runs import idle_runs

    keys = {place.key[:16] for place, keyed in contents.keyed.items() if keyed.artifact is not None}
    if not settings.work_folder.is_dir():
        return []
    table = of_host(settings.host).table()
    busy = {row.variant for row in table.devices} | {row.variant for row in table.waiting}
    return idle_runs(settings.work_folder, busy, keys.__contains__, rules)


def _report(
    outcomes: Sequence[Outcome],
    runs: Sequence[tuple[IdleRun, bool]],
    kept: Sequence[KeptOnHost],
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Report what went or would go. `kept`: of bases."""
    total = sum(outcome.of.bytes for outcome in outcomes if outcome.removed or dry_run)
    total += sum(run.bytes for run, removed in runs if removed or dry_run)
    total += sum(one.bytes for one in kept)
    if as_json:
        listed = [_as_json(outcome) for outcome in outcomes]
        idle = [
            {
                "folder": str(run.folder),
                "bytes": run.bytes,
                "written": _date(run.written),
                "removed": removed,
            }
            for run, removed in runs
        ]
        told = {"dry_run": dry_run, "unreached": listed, "runs": idle}
        print_json({**told, **_counts(kept), "bytes": total})
        return
    from ft_dagster.report.figures import SIZES, in_one_unit, size

    rows: list[tuple[int, str, str]] = []
    for outcome in outcomes:
        one = outcome.of
        what = f"{one.place.path}/{one.attempt}" + ("" if one.committed else ", never committed")
        what += _left(removed=outcome.removed or dry_run, error=outcome.error)
        rows.append((one.bytes, _date(one.written), what))
    for run, removed in runs:
        what = f"{run.folder}, which nobody goes on in" + _left(removed=removed or dry_run, error=None)
        rows.append((run.bytes, _date(run.written), what))
    for those in filter(None, _by_name(kept).values()):
        what = f"{_named(those)}, which no training took since"
        rows.append((sum(one.bytes for one in those), _date(max(one.used for one in those)), what))
    table = Table("size", "written (UTC)", "what", box=SIMPLE_HEAD)
    for size_of, (_, written, what) in zip(in_one_unit([row[0] for row in rows], SIZES), rows, strict=True):
        table.add_row(size_of, written, escape(what))
    show(table)
    said = "that nothing needs; nothing was removed" if dry_run else "removed; the manifests stay"
    out.print(f"{size(total)} {said}", highlight=False)


def _as_json(outcome: Outcome) -> dict[str, object]:
    one = outcome.of
    return {
        "place": one.place.path,
        "attempt": one.attempt,
        "committed": one.committed,
        "bytes": one.bytes,
        "written": _date(one.written),
        "removed": outcome.removed,
        "error": outcome.error,
    }


def _left(*, removed: bool, error: str | None) -> str:
    """Say what became of it, where it stays."""
    if removed:
        return ""
    return (
        f", not removed: {error}"
        if error
        else ", left: somebody took it into use meanwhile, or what was made from it stays"
    )


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


@store.command()
def copy(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="FROM", help="A folder, or s3://bucket/prefix")],
    target: Annotated[str, typer.Argument(metavar="TO", help="Another one; what is there stays")],
    from_option: Options = None,
    to_option: Options = None,
    as_json: Json = False,
) -> None:
    """Copy a store, and verify each file of the copy by its digest.

    If it was killed, or is run again, it goes on where it was, and brings what was made meanwhile. What
    retention removed in TO is not brought back; what the project's retention keeps there is not replaced.
    Both addresses take the project's store_options, and over them the options that are given here.
    """
    from rich.progress import Progress

    from ft_dagster.lineage.copying import copy_store
    from ft_dagster.lineage.retention import Rules

    settings = load_settings(context.obj)
    given = {
        name: os.path.realpath(place)
        for name, place in (("FROM", source), ("TO", target))
        if "://" not in place
    }
    here, there = given.get("FROM", source.rstrip("/")), given.get("TO", target.rstrip("/"))
    if f"{there}/".startswith(f"{here}/") or f"{here}/".startswith(f"{there}/"):
        raise UserError("one store lies in the other", field="TO", value=target, fix="Name another place")
    opened = settings.open_store_at(here, _options(from_option, "--from-option"))
    into = settings.open_store_at(there, _options(to_option, "--to-option"))
    counts, moved = Counter[str](), 0
    stayed: dict[str, list[str]] = {how: [] for how in STAYED}
    with Progress(console=Console(stderr=True), transient=True, disable=as_json) as progress:
        task = progress.add_task("Copying", total=None)
        rules, drafts = Rules(settings.retention.of, time.time()), settings.work_folder / "drafts"
        for one in copy_store(opened, into, drafts, rules, lambda total: progress.update(task, total=total)):
            counts[one.how] += 1
            moved += one.bytes
            if one.how in stayed:
                stayed[one.how].append(one.path)
            progress.update(task, advance=1, description=f"{sum(counts.values())} copied or there")
    if as_json:
        print_json({"copied": counts["copied"], "there": counts["there"], **stayed, "bytes": moved})
        return
    from ft_dagster.report.figures import size

    for how, paths in stayed.items():
        for path in paths:
            why = STAYED[how].format(escape(into.url))
            out.print(f"{escape(path)}: {why}", highlight=False, soft_wrap=True)
    said = f"{counts['copied']} copied and read back, {counts['there']} were there; {size(moved)} moved"
    out.print(said, highlight=False)


def _options(given: list[str] | None, flag: str) -> dict[str, str]:
    """Parse NAME=VALUE of a file system. Raises UserError."""
    options = dict[str, str]()
    for each in given or ():
        name, equals, value = each.partition("=")
        if not name or not equals:
            raise UserError("not an option", field=flag, value=each, fix="Give NAME=VALUE: profile=archive")
        options[name] = value
    return options
