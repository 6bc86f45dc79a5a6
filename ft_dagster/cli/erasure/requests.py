"""Defines the commands of an erasure: what it takes, who asked for it, and by when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ft_dagster.cli.audit.questions import ForTenant, ask
from ft_dagster.cli.audit.shown import ShownRows, print_parts
from ft_dagster.cli.commands import app
from ft_dagster.cli.common import KEEPING, Json, declared_keys, load_settings, print_json, tell
from ft_dagster.cli.erasure.lookup import dry_run_of, look_for, refuse_blank
from ft_dagster.cli.erasure.shown import dry_run_parts
from ft_dagster.errors import UserError
from ft_dagster.report.figures import counted

if TYPE_CHECKING:
    from ft_dagster.lineage.erasures import ErasureEntry, ErasureState
    from ft_dagster.settings import Settings

PLAN = "plan"


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

    refuse_blank(reason)
    settings, user = load_settings(context.obj), ReleaseRequest(reason, by).user
    store, named = settings.open_store(), named_request(settings, request)
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


def named_request(settings: Settings, request: str) -> str:
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
