"""Defines the commands of an erasure: what it takes, and by when."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ft_dagster.cli.audit.questions import ForTenant, ask, progress
from ft_dagster.cli.audit.shown import Part, ShownRows, WrongLine, print_parts
from ft_dagster.cli.commands import app
from ft_dagster.cli.common import KEEPING, Json, declared_keys, load_settings, print_json
from ft_dagster.errors import UserError
from ft_dagster.report.figures import counted

if TYPE_CHECKING:
    from ft_dagster.audit.audit import Audit
    from ft_dagster.audit.erasure.dry_run import Asked, ErasureDryRun, Holder, Took
    from ft_dagster.settings import Settings
    from ft_dagster.store import Artifact

PLAN = "plan"
RATE = 30e6  # bytes a second that a search reads on one core, about
MOST_FOUND = 1000  # rows that contain a text, of one request


class PlansUnlessNamed(TyperGroup):
    """Takes `erase FILE` for `erase plan FILE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = [PLAN, *args]
        return super().parse_args(ctx, args)


erase = typer.Typer(
    cls=PlansUnlessNamed,
    help="Erase records: what it takes, and by when. `erase FILE` is `erase plan FILE`.",
    no_args_is_help=True,
)
app.add_typer(erase, name="erase", rich_help_panel=KEEPING)

Records = Annotated[
    str | None,
    typer.Argument(
        help="A file of records: one a line (a row as JSON, a text, an identity), or the rows of a table; "
        "- for standard input",
        metavar="FILE",
    ),
]
Contains = Annotated[
    str | None,
    typer.Option(
        "--contains", help="A file with one text, or - : all records that contain it", metavar="FILE"
    ),
]
Reason = Annotated[str, typer.Option("--reason", help="Why, for the log; no personal data")]
Deadline = Annotated[
    str | None, typer.Option("--deadline", help="2026-12-31; one month from today unless said")
]


@erase.command(PLAN)
def plan(
    context: typer.Context,
    reason: Reason,
    file: Records = None,
    contains: Contains = None,
    deadline: Deadline = None,
    part: Annotated[bool, typer.Option("--part", help="Also inside words, not only as whole words")] = False,
    within: Annotated[
        str | None,
        typer.Option(
            help="Search only the text of this tenant or tenant.variant", autocompletion=declared_keys
        ),
    ] = None,
    tenant: ForTenant = None,
    as_json: Json = False,
) -> None:
    """Show what an erasure takes, and change nothing: every place that holds the records, which variants
    train again, at what cost, and by when.

    Texts come from a file or standard input, never from the command line, which other users and the shell's
    history see.
    """
    settings = load_settings(context.obj)
    found = dry_run_of(
        context, settings, (file, contains), reason, deadline, tenant, part=part, within=within, quiet=as_json
    )
    if as_json:
        print_json({**asdict(found), "hours": found.hours, "usd": found.usd})
    else:
        print_parts(dry_run_parts(found))


def dry_run_of(
    context: typer.Context,
    settings: Settings,
    given: tuple[str | None, str | None],
    reason: str,
    deadline: str | None,
    tenant: str | None,
    *,
    part: bool = False,
    within: str | None = None,
    quiet: bool = False,
) -> ErasureDryRun:
    """Return what an erasure of what is `given`, as FILE or --contains, takes. Raises UserError."""
    from ft_dagster.audit.erasure.deadline import due_day
    from ft_dagster.audit.erasure.dry_run import dry_run

    file, contains = given
    if (file is None) == (contains is None):
        fix = "Name a file of records, or --contains and a file with a text; - is standard input"
        raise UserError("what is to be erased is not clear", field="FILE", fix=fix)
    if contains is None and (part or within is not None):
        option = "--part" if part else "--within"
        raise UserError("no text is searched for", field=option, fix="Say --contains, or leave it out")
    _refuse_blank(reason)
    due, due_by = due_day(deadline, datetime.now(UTC).date())

    def answer(audit: Audit) -> ErasureDryRun:
        asked = (
            _answers(audit, file)
            if file is not None
            else [_containing(audit, str(contains), part=part, within=within, quiet=quiet)]
        )
        return dry_run(audit, asked, _cost(settings), reason=reason, due=due, due_by=due_by)

    return ask(context, tenant, answer, quiet=quiet)


def _refuse_blank(reason: str) -> None:
    if not reason.strip():
        raise UserError("no reason is given", field="--reason", value=reason, fix="Say why, in a few words")


def _answers(audit: Audit, file: str) -> list[Asked]:
    from ft_dagster.audit.erasure.dry_run import Asked
    from ft_dagster.audit.records import record
    from ft_dagster.audit.sought_record import parse_records

    return [
        Asked(one.said, record(audit, one), tuple(each.hex() for each in one.exactly.identities))
        for one in parse_records(file, audit.readings())
    ]


def _containing(audit: Audit, given: str, *, part: bool, within: str | None, quiet: bool) -> Asked:
    from ft_dagster.audit.erasure.dry_run import Asked
    from ft_dagster.audit.records import record
    from ft_dagster.audit.search.search import look_through
    from ft_dagster.audit.search.stored_text import text_files
    from ft_dagster.audit.sought_record import parse_text

    wanted = parse_text(given, audit.readings())
    size = text_files(audit, within=within).size
    if not quiet:
        said = f"{size / 1e6:,.1f} MB of stored text are searched first, about {size / RATE:,.0f} s"
        print(said, file=sys.stderr, flush=True)
    looked = look_through(audit, wanted, progress(quiet), part=part, within=within, most=MOST_FOUND)
    if looked.search is None:
        raise UserError("nothing in it can be looked for", field="--contains", fix="Give some words")
    exact = tuple(each.hex() for each in wanted.exactly.identities)
    return Asked(wanted.said, replace(record(audit, wanted), search=looked.search), exact)


def _cost(settings: Settings) -> Callable[[Sequence[Artifact]], Took | None]:
    """Return what says what the artifacts of one version took; None of none."""
    from ft_dagster.audit.erasure.dry_run import Took
    from ft_dagster.fleet.due.costs import cost_items, cost_row
    from ft_dagster.planning.hardware.catalogue import load_catalogue

    catalogue = load_catalogue(settings.project)

    def took(artifacts: Sequence[Artifact]) -> Took | None:
        if not artifacts:
            return None
        made_of: dict[str, list[Artifact]] = {}
        for each in artifacts:
            made_of.setdefault(each.place.stage, []).append(each)
        items = cost_items(made_of, catalogue)
        row = cost_row("", items)
        prices = [item.price for item in items if item.hours]
        known = [price for price in prices if price is not None]
        per_hour = row.usd / row.hours if row.hours and len(known) == len(prices) else None
        return Took(row.training_hours, row.evaluation_hours + row.export_hours, per_hour)

    return took


def dry_run_parts(found: ErasureDryRun) -> Iterator[Part]:
    """Yield what an erasure takes, as it is shown."""
    missing = [one for one in found.records if not one.places]
    there = len(found.records) - len(missing)
    yield f"{counted(there, 'record')} found in {counted(len(found.holders), 'artifact')}; nothing is changed"
    yield f"due {found.due}: {found.due_by}"
    for one in missing:
        unsure = "; not all could be read" if one.places is None else ""
        yield WrongLine("not found", f"{one.said}{unsure}")
    if found.holders:
        rows = [
            (each.variant or "shared", each.stage, each.digest[:12], f"{each.records:,}", _states(each))
            for each in found.holders
        ]
        yield ShownRows(("variant", "held in", "digest", "records", "as"), rows)
    if found.sources:
        read = [(each.variant or "shared", each.path, _lines(each.lines)) for each in found.sources]
        yield ShownRows(("sources of", "file", "lines"), read)
    if found.models:
        models = [
            (
                each.variant,
                each.weights[:12],
                ", ".join(each.how),
                ", ".join(digest[:12] for digest in each.exports),
                ", ".join(f"v{number}" for number in each.versions) + (" served" if each.production else ""),
            )
            for each in found.models
        ]
        yield ShownRows(("model", "weights", "how", "exports", "released as"), models)
    yield from _retrain_lines(found)
    for line in found.cannot:
        yield f"not known: {line}"


def _retrain_lines(found: ErasureDryRun) -> Iterator[Part]:
    from ft_dagster.fleet.due.costs import shown_hours, shown_usd
    from ft_dagster.report.figures import ABSENT

    for number, each in enumerate(found.retrains, start=1):
        hours = ABSENT if each.hours is None else f"{shown_hours(each.hours)} h"
        usd = "no price known" if each.usd is None else f"${shown_usd(each.usd)}"
        after = f", after {' and '.join(each.after)}" if each.after else ""
        again = f"{each.how}, {each.share:.0%} of its steps; {hours}, {usd}"
        yield f"{number}. {each.variant} trains again{after}: {again}"
        yield f"   {each.why}"
    if found.retrains:
        usd = "" if found.usd is None else f", ${shown_usd(found.usd)}"
        yield f"{counted(len(found.retrains), 'retrain')}, {shown_hours(found.hours)} h of one device{usd}"
    elif found.models:
        yield "no variant trains again: no model that is served or newest learned from it"


def _states(holder: Holder) -> str:
    removed = f" (removed {holder.removed[:10]})" if holder.removed else ""
    return ", ".join(holder.states) + removed


def _lines(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:8]))
    return f"{shown}, and {len(numbers) - 8} more" if len(numbers) > 8 else shown
