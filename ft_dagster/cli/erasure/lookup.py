"""Looks up what an erasure takes, of the records or the text that a user gave."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer

from ft_dagster.cli.audit.questions import ask, progress
from ft_dagster.errors import UserError

if TYPE_CHECKING:
    from ft_dagster.audit.audit import Audit
    from ft_dagster.audit.erasure.dry_run import Asked, ErasureDryRun, Took
    from ft_dagster.audit.sought_record import SoughtRecord
    from ft_dagster.settings import Settings
    from ft_dagster.store import Artifact

RATE = 30e6  # bytes a second that a search reads on one core, about
MOST_FOUND = 1000  # rows that contain a text, of one request


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
    look = look_for(settings, given, reason, deadline, part=part, within=within, quiet=quiet, costs=True)
    return ask(context, tenant, look, quiet=quiet)


def look_for(
    settings: Settings,
    given: tuple[str | None, str | None],
    reason: str,
    deadline: str | None,
    *,
    part: bool = False,
    within: str | None = None,
    quiet: bool = False,
    costs: bool = False,
) -> Callable[[Audit], ErasureDryRun]:
    """Return what looks for what is `given`, each time that it is called; the input is read once. `costs`:
    whether it says what retrains cost. Raises UserError, see `dry_run_of`.
    """
    from ft_dagster.audit.erasure.deadline import due_day
    from ft_dagster.audit.erasure.dry_run import dry_run
    from ft_dagster.audit.sought_record import parse_records, parse_text

    file, contains = given
    if (file is None) == (contains is None):
        fix = "Name a file of records, or --contains and a file with a text; - is standard input"
        raise UserError("what is to be erased is not clear", field="FILE", fix=fix)
    if contains is None and (part or within is not None):
        option = "--part" if part else "--within"
        raise UserError("no text is searched for", field=option, fix="Say --contains, or leave it out")
    refuse_blank(reason)
    due, due_by = due_day(deadline, datetime.now(UTC).date())

    wanted: list[SoughtRecord] = []

    def look(audit: Audit) -> ErasureDryRun:
        if not wanted and file is not None:
            wanted.extend(parse_records(file, audit.readings()))
        elif not wanted:
            wanted.append(parse_text(str(contains), audit.readings()))
        asked = (
            _answers(audit, wanted)
            if file is not None
            else [_containing(audit, wanted[0], part=part, within=within, quiet=quiet)]
        )
        cost = _cost(settings) if costs else lambda artifacts: None
        return dry_run(audit, asked, cost, reason=reason, due=due, due_by=due_by)

    return look


def refuse_blank(reason: str) -> None:
    if not reason.strip():
        raise UserError("no reason is given", field="--reason", value=reason, fix="Say why, in a few words")


def _answers(audit: Audit, wanted: Iterable[SoughtRecord]) -> list[Asked]:
    from ft_dagster.audit.erasure.dry_run import Asked
    from ft_dagster.audit.records import record

    return [
        Asked(one.said, record(audit, one), tuple(each.hex() for each in one.exactly.identities))
        for one in wanted
    ]


def _containing(audit: Audit, wanted: SoughtRecord, *, part: bool, within: str | None, quiet: bool) -> Asked:
    from ft_dagster.audit.erasure.dry_run import Asked
    from ft_dagster.audit.records import record
    from ft_dagster.audit.search.search import look_through
    from ft_dagster.audit.search.stored_text import text_files

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
