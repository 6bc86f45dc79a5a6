"""Defines the command that removes for ever what holds the records of a request."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ft_dagster.cli.audit.questions import ask
from ft_dagster.cli.common import Json, load_settings, print_json, tell
from ft_dagster.cli.erasure.lookup import look_for
from ft_dagster.cli.erasure.requests import By, Contains, Records, Request, erase, named_request
from ft_dagster.report.figures import counted

if TYPE_CHECKING:
    from ft_dagster.audit.audit import Audit
    from ft_dagster.audit.erasure.dry_run import ErasureDryRun
    from ft_dagster.audit.erasure.purge import Purge

NOT_REACHED = (
    "the sources: take the rows out of them",
    "backups, versions of objects in a bucket, copies by `publish`, `register`, `--to` and serving engines",
    "the event log and compute logs of Dagster, trackers and telemetry",
    "caches, work folders and indexes of other hosts: run the same purge on each",
)


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
    one: release another first. After the day on which the request is due, or where it has its quarantine at
    once, it takes that version out of production: an earlier one that never had the record is served again,
    else none. It may be ended and run again. Exits with 1 where something is left.
    """
    from ft_dagster.audit.erasure.purge import purge, unread_standing
    from ft_dagster.lineage.erasures import record_purge
    from ft_dagster.lineage.release import ReleaseRequest

    settings = load_settings(context.obj)
    named = named_request(settings, request)
    why = f"request {named}"
    user = ReleaseRequest(why, by).user
    look = look_for(settings, (file, contains), why, None, quiet=as_json)

    def carry_out(audit: Audit) -> tuple[Purge, list[str]]:
        done = purge(audit, look(audit), named, by=user, dry_run=dry_run, say=_progress(as_json))
        return done, [] if dry_run else list(_left_of(done, look(audit), unread_standing(audit)))

    done, left = ask(context, None, carry_out, quiet=as_json)
    if not dry_run and not left:
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
    for line in done.out if dry_run else ():  # else said as it was done
        tell(line)
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
