"""Defines the commands of an audit: from a record to the models that learned from it, and from a model to all
that made it.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TextIO, TypeVar

import typer

from ft_dagster.cli.audit.shown import (
    Part,
    ShownRows,
    as_page,
    held_parts,
    inside_parts,
    model_parts,
    models_parts,
    near_parts,
    places_parts,
    print_of,
    print_parts,
    released,
    unread_parts,
)
from ft_dagster.cli.commands import app
from ft_dagster.cli.common import (
    KEEPING,
    Json,
    Key,
    declared_keys,
    declaring_tenants,
    load_settings,
    out,
    print_json,
    tell,
)
from ft_dagster.errors import UserError
from ft_dagster.report.figures import counted
from ft_dagster.stage_entries import FINE_TUNED_MODEL
from ft_dagster.strict_json import dumps

if TYPE_CHECKING:
    from ft_dagster.audit.answers import (
        AtAnswer,
        CameOf,
        Checked,
        HeldAgainst,
        ModelAnswer,
        NearAnswer,
        RecordAnswer,
    )
    from ft_dagster.audit.audit import Audit
    from ft_dagster.audit.index.follow import Followed

audit = typer.Typer(
    help="Find which records made a model and which models learned from a record; check that all of it "
    "still holds.",
    no_args_is_help=True,
)
app.add_typer(audit, name="audit", rich_help_panel=KEEPING)
NOT_WHOLE = 1  # exit code of a check that found something
ForTenant = Annotated[
    str | None,
    typer.Option(
        "--tenant", help="Answer as for an auditor of this tenant alone", autocompletion=declaring_tenants
    ),
]
Record = Annotated[
    str,
    typer.Argument(
        help="A text, a row as JSON or as a line of its table, a file with one of these, - for standard "
        "input, or an identity",
        metavar="RECORD",
    ),
]
Model = Annotated[
    str,
    typer.Argument(
        help="tenant.variant, tenant.variant@2, or (the beginning of) a digest",
        metavar="MODEL",
        autocompletion=declared_keys,
    ),
]
To = Annotated[
    Path | None, typer.Option("--to", help="Write its training records to this file, one JSON a line")
]
Save = Annotated[
    bool, typer.Option("--save", help="Keep the answer as a page, which the audit page of `ui` lists")
]
T = TypeVar("T")


@audit.command()
def record(
    context: typer.Context,
    record: Record,
    near: Annotated[
        float | None,
        typer.Option(
            min=0.05,
            max=1.0,
            help="Also records nearly like it, from this Jaccard similarity of word 5-grams on",
        ),
    ] = None,
    search: Annotated[
        bool, typer.Option("--search/--no-search", help="Read all stored text for rows that contain it")
    ] = True,
    part: Annotated[bool, typer.Option("--part", help="Also inside words, not only as whole words")] = False,
    within: Annotated[
        str | None,
        typer.Option(
            help="Search only the text of this tenant or tenant.variant", autocompletion=declared_keys
        ),
    ] = None,
    tenant: ForTenant = None,
    save: Save = False,
    as_json: Json = False,
) -> None:
    """Show everything that has a record: data sets, mixtures, models, children, exports and releases.

    It says how often each model was trained on the record, and which rows, documents, questions and answers
    contain it. If nothing has it, the answer names everything it was compared with.
    """
    from ft_dagster.audit import records, sought_record
    from ft_dagster.audit.proofs import absence
    from ft_dagster.audit.search.search import look_through

    def answer(audit: Audit) -> tuple[RecordAnswer, HeldAgainst | None, NearAnswer | None]:
        wanted = sought_record.parse_record(record, audit.readings())
        say = progress(as_json)
        looked = look_through(audit, wanted, say, search=search, part=part, within=within, near=near)
        found = records.record(audit, wanted)
        held = None if found.found else absence.held_against(audit, wanted, say)
        found = found if held is None else absence.and_held(found, held)
        return replace(found, search=looked.search), held, looked.near

    found, held, alike = ask(context, tenant, answer)
    more = {"held_against": held and asdict(held), "near": alike and asdict(alike)}
    conclude(
        context,
        Answered("record", " ".join(found.identities), _record_parts(found, held, alike)),
        {**asdict(found), "seen": found.seen, **more} if as_json else None,
        save=save,
    )


def _record_parts(found: RecordAnswer, held: HeldAgainst | None, alike: NearAnswer | None) -> Iterator[Part]:
    from ft_dagster.audit.record_sentences import sought

    yield from (sought(found), *map(str, found.transformed))
    if found.found:
        yield from places_parts(found.found)
    yield from models_parts(found.models)
    if found.search is not None:
        yield from inside_parts(found.search)
    if held is not None:
        yield from held_parts(held)
    if alike is not None:
        yield from near_parts(alike)
    yield from unread_parts((*found.checked.unread, *(alike.unread if alike else ())))


@audit.command()
def model(
    context: typer.Context,
    model: Model,
    to: To = None,
    tenant: ForTenant = None,
    save: Save = False,
    as_json: Json = False,
) -> None:
    """Show what made a model: sources, mixture, base, parents, recipe, code, evaluation, releases."""
    from ft_dagster.audit import models

    def answer(audit: Audit) -> tuple[ModelAnswer, RecordCounts]:
        found = models.model(audit, model)
        return found, RecordCounts() if to is None else write_records(audit, found.variant, found.weights, to)

    found, written = ask(context, tenant, answer)
    said = [] if to is None else [written_sentence(written, to)]
    answered = Answered("model", model, [*said, *model_parts(found)])
    conclude(context, answered, _written(found, written, to) if as_json else None, save=save)


def _written(found: ModelAnswer | AtAnswer, written: RecordCounts, to: Path | None) -> dict[str, object]:
    where = None if to is None else str(to)
    return {**asdict(found), "records_in": where, "without_content": written.without}


@audit.command()
def at(
    context: typer.Context,
    variant: Key,
    date: Annotated[str, typer.Argument(help="2026-11-03 (its end in UTC) or 2026-11-03T14:00:00+01:00")],
    to: To = None,
    tenant: ForTenant = None,
    save: Save = False,
    as_json: Json = False,
) -> None:
    """Show what was in production at a time, and exactly what it was trained on."""
    from ft_dagster.audit import models

    def answer(audit: Audit) -> Any:
        found = models.at(audit, variant, date)
        parts = (found.model.in_part, found.model.perhaps_in_part)
        known = RecordCounts(found.records, 0, *parts)
        return found, known if to is None else write_records(audit, variant, found.model.weights, to)

    found, written = ask(context, tenant, answer)
    entry = found.entry
    said = f"{variant} at {found.at}: version {entry['version']}, released {entry['at']} by {entry['by']}"
    said += f" ({found.note})" if found.note else ""
    parts = [said, written_sentence(written, to), *model_parts(found.model)]
    answered = Answered("at", f"{variant} {found.at}", parts)
    conclude(context, answered, _written(found, written, to) if as_json else None, save=save)


@audit.command()
def source(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(help="A declared path, a file, or a sha256", metavar="PATH|DIGEST")
    ],
    tenant: ForTenant = None,
    save: Save = False,
    as_json: Json = False,
) -> None:
    """Show everything that was made from a source."""
    from ft_dagster.audit import traces

    found: CameOf = ask(context, tenant, lambda audit: traces.source(audit, source))
    rows = [
        (each.stage, each.variant or "shared", each.digest[:12], each.created) for each in found.artifacts
    ]
    parts = [
        *(f"{file.get('path', file.get('repo'))}  {print_of(file)}" for file in found.files),
        ShownRows(("made from it", "variant", "digest", "made (UTC)"), rows),
        *models_parts(found.models),
        *unread_parts(found.unread),
    ]
    conclude(context, Answered("source", source, parts), asdict(found) if as_json else None, save=save)


@audit.command()
def tenant(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=declaring_tenants)],
    tenant: ForTenant = None,
    save: Save = False,
    as_json: Json = False,
) -> None:
    """Show what a tenant owns, and what it was given of what all tenants share."""
    from ft_dagster.audit import traces

    found = ask(context, tenant, lambda audit: traces.tenant(audit, name))
    parts = [f"{found.tenant}: {counted(found.records, 'record')} in data sets"]
    for variant, stages in found.owns.items():
        made = ", ".join(f"{stage} {count}" for stage, count in stages.items())
        parts.append(f"{variant}: {made}")
    parts += [f"was given: {part.stage} {part.digest[:12]}" for part in found.given]
    parts += map(released, found.releases)
    conclude(context, Answered("tenant", name, parts), asdict(found) if as_json else None, save=save)


@audit.command()
def diff(
    context: typer.Context,
    a: Model,
    b: Model,
    tenant: ForTenant = None,
    save: Save = False,
    as_json: Json = False,
) -> None:
    """Show what differs between two models: records, settings, base, code, figures."""
    from ft_dagster.audit import models

    found = ask(context, tenant, lambda audit: models.diff(audit, a, b))
    examples = [
        f"  {what} {facts.get('file')}:{facts.get('line')}"
        for what, rows in found.examples.items()
        for facts in rows
    ]
    changed = found.changed.items()
    sides = [(name, *(json.dumps(each, ensure_ascii=False) for each in values)) for name, values in changed]
    parts = [
        f"records: {found.added:,} added, {found.removed:,} removed, {found.same:,} the same",
        *examples,
        ShownRows(("changed", a, b), sides),
        *unread_parts(found.unread),
    ]
    conclude(context, Answered("diff", f"{a} {b}", parts), asdict(found) if as_json else None, save=save)


@audit.command()
def index(
    context: typer.Context,
    again: Annotated[bool, typer.Option("--again", help="Make it from nothing")] = False,
    as_json: Json = False,
) -> None:
    """Bring the index up to date. Every question does so by itself; `--again` makes it from nothing."""
    from ft_dagster.audit import records

    def answer(audit: Audit) -> tuple[Checked, Followed]:
        return records.checked(audit), audit.followed

    known, followed = ask(context, None, answer, again=again, quiet=as_json)
    if as_json:
        new = {**asdict(followed), "problems": [each.problem for each in followed.problems]}
        print_json({"new": new, "known": asdict(known)})
        return
    added = f"{counted(followed.artifacts, 'artifact')} and {counted(followed.records, 'record')} were new"
    said = f"{counted(known.records, 'record')} of {known.artifacts:,} data sets, corpora and mixtures"
    models = counted(known.models, "model")
    out.print(f"{added}; known are {said}, {models}", highlight=False, soft_wrap=True)
    print_parts(unread_parts(each.problem for each in followed.problems))


class Answered(NamedTuple):
    """Holds an answer. `question`: the command that was asked, `of`: what about, with records by identity."""

    question: str
    of: str
    parts: Iterable[Part]


def conclude(
    context: typer.Context, answered: Answered, printed: dict[str, Any] | None, *, save: bool
) -> None:
    """Print an answer, as JSON where `printed` is that, and keep it as a page with `save`."""
    from ft_dagster.audit.kept_answers import keep_answer

    parts, page = list(answered.parts), None
    if save:
        settings, at = load_settings(context.obj), f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        facts = [("about", answered.of), ("asked", at), ("project", settings.project.name)]
        written = as_page(f"ft-dagster audit {answered.question}", parts, facts)
        page = keep_answer(settings, answered.question, answered.of, written)
    if printed is not None:
        print_json(printed if page is None else {**printed, "page": str(page)})
        return
    print_parts(parts)
    if page is not None:
        tell(f"kept as a page: {page}; the audit page of `ft-dagster ui` lists it")


def _opened(context: typer.Context, tenant: str | None, *, again: bool = False, quiet: bool = False) -> Audit:
    from ft_dagster.audit.audit import open_audit

    opened = open_audit(load_settings(context.obj), tenant=tenant, say=progress(quiet), again=again)
    for line in opened.lost_keys():
        print(f"lost: {line}", file=sys.stderr)
    return opened


def ask(
    context: typer.Context,
    tenant: str | None,
    question: Callable[[Audit], T],
    *,
    again: bool = False,
    quiet: bool = True,
) -> T:
    """Return what a question answers; an index that turns out to be damaged is made again first."""
    from ft_dagster.audit.audit import reported

    def answer(again: bool) -> T:
        opened = _opened(context, tenant, again=again, quiet=quiet)
        with closing(opened.index), reported(opened.settings):
            return question(opened)

    with suppress(sqlite3.DatabaseError):
        return answer(again)
    try:
        return answer(again=True)
    except sqlite3.DatabaseError as error:
        fix = "Look at the disk that `work` of ft_dagster.yaml names"
        raise UserError(f"the index is damaged as soon as it is made: {error}", fix=fix) from None


def progress(quiet: bool) -> Callable[[str], None]:
    """Return how progress is shown: one line on stderr that is written over, where somebody looks."""
    if quiet or not sys.stderr.isatty():
        return lambda line: None
    return lambda line: print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


class RecordCounts(NamedTuple):
    """Counts the records that a model was trained on: how many, without their content any more, in part, and
    perhaps in part.
    """

    records: int = 0
    without: int = 0
    in_part: int = 0
    perhaps: int = 0


def write_records(audit: Audit, variant: str, weights: str, to: Path) -> RecordCounts:
    """Write the records that weights were trained on. `weights`: of this variant; others may have equal ones,
    of other files.
    """
    from ft_dagster.audit import trained
    from ft_dagster.audit.parts import is_perhaps

    own = [each for each in audit.by_digest(weights, (FINE_TUNED_MODEL.name,)) if each.variant == variant]
    written = Counter[str]()
    with writable(to) as file:
        for one in trained.training_records(audit, own[-1]):
            written["records"] += 1
            written["without"] += one.content is None
            written["perhaps" if is_perhaps(one.cut) else "in_part"] += bool(one.cut)
            file.write(dumps(one._asdict(), ensure_ascii=False) + "\n")
    return RecordCounts(**written)


def written_sentence(written: RecordCounts, to: Path | None) -> str:
    """Say how many records a model was trained on."""
    where = "" if to is None else f", written to {to}"
    parts = f", {written.in_part:,} of them in part" if written.in_part else ""
    parts += f", {written.perhaps:,} perhaps in part" if written.perhaps else ""
    gone = f"; {written.without:,} without their text, which retention removed" if written.without else ""
    return f"trained on {counted(written.records, 'record')}{parts}{where}{gone}"


def writable(file: Path) -> TextIO:
    """Return a file opened for writing. Raises UserError where it cannot be."""
    try:
        return file.open("w", encoding="utf-8")
    except OSError as error:
        said = error.strerror or str(error)
        raise UserError(f"it cannot be written: {said}", file=file, fix="Name another file") from None
