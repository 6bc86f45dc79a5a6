"""Defines the commands of an erasure: what it takes, who asked for it, and by when."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ft_dagster.cli.audit.questions import ForTenant, ask, progress
from ft_dagster.cli.audit.shown import Part, ShownRows, WrongLine, print_parts
from ft_dagster.cli.commands import app
from ft_dagster.cli.common import KEEPING, Json, declared_keys, load_settings, print_json, tell
from ft_dagster.errors import UserError
from ft_dagster.report.figures import counted

if TYPE_CHECKING:
    from ft_dagster.audit.audit import Audit
    from ft_dagster.audit.erasure.dry_run import Asked, ErasureDryRun, Holder, Took
    from ft_dagster.audit.erasure.purge import Purge
    from ft_dagster.audit.sought_record import SoughtRecord
    from ft_dagster.lineage.erasures import ErasureEntry, ErasureState
    from ft_dagster.settings import Settings
    from ft_dagster.store import Artifact

PLAN = "plan"
RATE = 30e6  # bytes a second that a search reads on one core, about
MOST_FOUND = 1000  # rows that contain a text, of one request
NOT_REACHED = (
    "the sources: take the rows out of them",
    "backups, versions of objects in a bucket, copies by `publish`, `register`, `--to` and serving engines",
    "the event log and compute logs of Dagster, trackers and telemetry",
    "caches and work folders of other hosts, and their indexes: `ft-dagster audit index --again` there",
)


class PlansUnlessNamed(TyperGroup):
    """Takes `erase FILE` for `erase plan FILE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = [PLAN, *args]
        return super().parse_args(ctx, args)


erase = typer.Typer(
    cls=PlansUnlessNamed,
    help="Erase records: what it takes, who asked for it, and by when. `erase FILE` is `erase plan FILE`.",
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
By = Annotated[str | None, typer.Option(help="Who does it; the user of this process unless given")]
Request = Annotated[str, typer.Argument(help="A request, by the beginning of its id", metavar="REQUEST")]
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


@erase.command()
def request(
    context: typer.Context,
    reason: Reason,
    file: Records = None,
    contains: Contains = None,
    deadline: Deadline = None,
    at_once: Annotated[
        bool,
        typer.Option(
            "--at-once", help="No longer serve versions that learned them; else once another is served"
        ),
    ] = False,
    by: By = None,
    tenant: ForTenant = None,
    as_json: Json = False,
) -> None:
    """Put a request into the erasure log of each tenant that holds the records, and refuse them from then on.

    The log keeps an HMAC of each record under a refusal key of its own, which is in the keys' folder and not
    in the store; a data set or corpus with such a record is refused, once the request is approved. Where the
    policy names approvers, one of them approves it. From then on versions that learned from a record are not
    served: the one in production once another is, or on the day when it is due, or with `--at-once` at once.
    Nothing is removed and nothing trains again by this.
    """
    from ft_dagster.audit.erasure.requests import log_request
    from ft_dagster.lineage.release import ReleaseRequest

    settings = load_settings(context.obj)
    look = look_for(settings, (file, contains), reason, deadline, quiet=as_json)
    found = ask(context, tenant, look, quiet=as_json)
    entries = log_request(settings, found, ReleaseRequest(reason, by).user, at_once=at_once)
    named = entries[0].request
    if as_json:
        print_json({"request": named, "entries": [asdict(entry) for entry in entries]})
        return
    for entry in entries:
        waits = f"; waits for approval by {' or '.join(entry.approvers)}" if entry.approvers else ""
        tell(f"{named} of {entry.owner or 'what is shared'}, due {entry.due}{waits}")


@erase.command()
def approve(
    context: typer.Context, request: Request, reason: Reason, by: By = None, as_json: Json = False
) -> None:
    """Approve a request, as one of its approvers; it is refused while a legal hold stands."""
    from ft_dagster.lineage.erasures import approve

    _decided(context, request, reason, by, approve, as_json=as_json)


@erase.command()
def hold(
    context: typer.Context,
    request: Request,
    reason: Reason,
    lift: Annotated[bool, typer.Option("--lift", help="End the hold")] = False,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Stop a request by a legal hold, with its reason, or end the hold."""
    from ft_dagster.lineage.erasures import hold

    _decided(context, request, reason, by, partial(hold, lift=lift), as_json=as_json)


@erase.command()
def purge(
    context: typer.Context,
    request: Request,
    file: Records = None,
    contains: Contains = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed")] = False,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Remove all that holds the records of a request from the store and from this host, for ever.

    Data sets, mixtures, models and what was made of them go whole, and their manifests say when and why; rows
    go out of the evidence that an audit needs of other records. The records are given once more, since no log
    has them. It is refused while a version in production learned one, was trained beside one or was asked
    one: release another first. It may be ended and run again. Exits with 1 where something is left.
    """
    from ft_dagster.audit.erasure.purge import purge, unread_standing
    from ft_dagster.lineage.erasures import record_purge
    from ft_dagster.lineage.release import ReleaseRequest

    settings = load_settings(context.obj)
    named = _named(settings, request)
    why = f"request {named}"
    look = look_for(settings, (file, contains), why, None, quiet=as_json)

    def carry_out(audit: Audit) -> tuple[Purge, list[str]]:
        done = purge(audit, look(audit), named, dry_run=dry_run, say=_progress(as_json))
        return done, [] if dry_run else list(_left_of(done, look(audit), unread_standing(audit)))

    done, left = ask(context, None, carry_out, quiet=as_json)
    if not dry_run and not left:
        user = ReleaseRequest(why, by).user
        for owner in done.owners:
            record_purge(settings.open_store(), owner, named, by=user, removed=len(done.removed))
    if as_json:
        print_json({**asdict(done), "dry_run": dry_run, "left": left, "not_reached": NOT_REACHED})
    else:
        _say_purge(done, left, dry_run=dry_run)
    if left:
        raise typer.Exit(1)


def _progress(quiet: bool) -> Callable[[str], None]:
    return lambda line: None if quiet else print(line, file=sys.stderr, flush=True)


def _left_of(done: Purge, found: ErasureDryRun, unread: Iterable[str]) -> Iterator[str]:
    """Yield why a request is not purged. `found`: what is found after it; `unread`: what stands and may hold
    a record all the same.
    """
    yield from done.waits
    if done.unnamed:
        yield f"{counted(done.unnamed, 'record')} of the request not among those given: give all in a file"
    for each in found.holders:
        yield f"{each.variant or 'shared'}: {each.stage} {each.digest[:12]} holds it still"
    yield from (f"not known, for it cannot be read: {problem}" for problem in unread)


def _say_purge(done: Purge, left: Sequence[str], *, dry_run: bool) -> None:
    for path in done.removed if dry_run else ():
        tell(f"{path}: would be removed")
    for path in done.rewritten:
        tell(f"{path}: rows {'would go' if dry_run else 'gone'}")
    told = f"{counted(len(done.removed), 'artifact')}, rows of {counted(len(done.rewritten), 'file')}"
    if dry_run:
        tell(f"{told}: nothing was removed")
    elif not left:
        tell(f"{told} removed; nothing that was looked through holds a record of request {done.request}")
    for line in left:
        tell(f"left: {line}")
    for line in NOT_REACHED:
        tell(f"not reached: {line}")


@erase.command()
def status(context: typer.Context, tenant: ForTenant = None, as_json: Json = False) -> None:
    """Show how each request stands, and how many days are left; the one that is due first comes first."""
    from ft_dagster.lineage.erasures import owners_with_erasures, read_erasures, states

    store, today = load_settings(context.obj).open_store(), datetime.now(UTC).date()
    owners = [owner for owner in owners_with_erasures(store) if tenant in (None, owner)]
    found = sorted(
        (state for owner in owners for state in states(read_erasures(store, owner))),
        key=lambda state: (state.asked.due, state.asked.at),
    )
    if as_json:
        said = [{**asdict(each), "status": each.said, "days_left": each.days_left(today)} for each in found]
        print_json({"requests": said})
        return
    if not found:
        tell("no erasure was asked for")
        return
    rows = [
        (
            each.asked.request,
            each.asked.owner or "shared",
            each.asked.due,
            _left(each.days_left(today)),
            each.said,
            _quarantine(each),
            ", ".join(each.asked.retrains) or "none",
        )
        for each in found
    ]
    print_parts([ShownRows(("request", "of", "due", "left", "stands", "quarantine", "train again"), rows)])


def _quarantine(state: ErasureState) -> str:
    if not state.acts or not state.asked.learned:
        return "none"
    return state.asked.quarantine


def _left(days: int) -> str:
    return f"{counted(-days, 'day')} late" if days < 0 else counted(days, "day")


def _decided(
    context: typer.Context,
    request: str,
    reason: str,
    by: str | None,
    decide: Callable[..., ErasureEntry],
    *,
    as_json: bool,
) -> None:
    """Put a decision into each log that has the request."""
    from ft_dagster.lineage.erasures import owners_with_erasures, read_erasures, states
    from ft_dagster.lineage.release import ReleaseRequest

    _refuse_blank(reason)
    settings, user = load_settings(context.obj), ReleaseRequest(reason, by).user
    store, named = settings.open_store(), _named(settings, request)
    having = [
        owner
        for owner in owners_with_erasures(store)
        if any(state.asked.request == named for state in states(read_erasures(store, owner)))
    ]
    entries = [decide(store, owner, named, by=user, reason=reason) for owner in having]
    if as_json:
        print_json({"entries": [asdict(entry) for entry in entries]})
        return
    for entry in entries:
        tell(f"{entry.request} of {entry.owner or 'what is shared'}: {entry.action} by {entry.by}")


def _named(settings: Settings, request: str) -> str:
    """Return the id of the one request that begins so. Raises UserError."""
    from ft_dagster.lineage.erasures import owners_with_erasures, read_erasures, states

    store = settings.open_store()
    logs = (states(read_erasures(store, owner)) for owner in owners_with_erasures(store))
    every = {state.asked.request for log in logs for state in log}
    named = [each for each in every if request and each.startswith(request)]
    if len(named) != 1:
        problem = "several requests begin so" if named else "no such request"
        fix = "`ft-dagster erase status` lists them"
        raise UserError(problem, field="REQUEST", value=request, fix=fix)
    return named[0]


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
    _refuse_blank(reason)
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


def _refuse_blank(reason: str) -> None:
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
