"""Commands of an audit: from a record to the models that learned from it, and from a model to all that made
it.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO, TypeVar

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ft_dagster.cli.common import KEEPING, Json, app, escape, out, print_json
from ft_dagster.errors import UserError
from ft_dagster.provenance import record_keys
from ft_dagster.report.tables import counted
from ft_dagster.settings import load_settings
from ft_dagster.strict_json import dumps

if TYPE_CHECKING:
    from ft_dagster.audit.answers import CameOf, ModelAnswer, ModelThatHas, RecordAnswer
    from ft_dagster.audit.desk import Audit
    from ft_dagster.audit.verify import Verified

audit = typer.Typer(
    help="Which records made a model, which models learned from a record, and whether all of it still holds.",
    no_args_is_help=True,
)
key = typer.Typer(
    help="The keys that order record trees: who has them, rotate, back up.", no_args_is_help=True
)
app.add_typer(audit, name="audit", rich_help_panel=KEEPING)
audit.add_typer(key, name="key")
NOT_WHOLE = 1  # exit code of a check that found something
ForTenant = Annotated[
    str | None, typer.Option("--tenant", help="Answer as to an auditor of this tenant alone")
]
Record = Annotated[
    str, typer.Argument(help="A text, a row as JSON, a file of one, or an identity", metavar="RECORD")
]
Model = Annotated[
    str,
    typer.Argument(help="tenant.variant, tenant.variant@2, or (the beginning of) a digest", metavar="MODEL"),
]
T = TypeVar("T")


@audit.command()
def record(context: typer.Context, record: Record, tenant: ForTenant = None, as_json: Json = False) -> None:
    """Every data set, mixture, model, child, export and release that has a record, and how often it was
    trained on.
    """
    from ft_dagster.audit import asked, records

    def answer(audit: Audit) -> RecordAnswer:
        return records.record(audit, asked.asked_record(record, audit.readings()))

    found = _ask(context, tenant, answer)
    if as_json:
        print_json({**asdict(found), "seen": found.seen})
        return
    out.print(escape(records.sought(found)), highlight=False, soft_wrap=True)
    if found.seen:
        table = Table("in", "variant", "digest", "split", "file", "line", box=SIMPLE_HEAD)
        for one in found.found:
            place = [str(one.facts.get(name) or "") for name in ("file", "line")]
            state = one.state + (f": {one.facts['reason']}" if one.facts.get("reason") else "")
            table.add_row(one.stage, one.variant or "shared", one.digest[:12], *map(escape, (state, *place)))
        out.print(table)
    _print_models(found.models)
    for line in found.checked.unread:
        out.print(f"[red]could not be read[/] {escape(line)}", highlight=False, soft_wrap=True)


@audit.command()
def model(context: typer.Context, model: Model, tenant: ForTenant = None, as_json: Json = False) -> None:
    """All that made a model: sources, mixture, base, parents, recipe, code, evaluation, releases."""
    from ft_dagster.audit import models

    found = _ask(context, tenant, lambda audit: models.model(audit, model))
    if as_json:
        print_json(asdict(found))
    else:
        _print_model(found)


@audit.command()
def at(
    context: typer.Context,
    variant: Annotated[str, typer.Argument(help="tenant.variant", metavar="VARIANT")],
    date: Annotated[str, typer.Argument(help="2026-11-03 (its end, UTC) or 2026-11-03T14:00:00+01:00")],
    to: Annotated[Path | None, typer.Option(help="Write its training records there, one JSON a line")] = None,
    tenant: ForTenant = None,
    as_json: Json = False,
) -> None:
    """What was in production at a time, and exactly what it was trained on."""
    from ft_dagster.audit import models

    def answer(audit: Audit) -> Any:
        found = models.at(audit, variant, date)
        return found, 0 if to is None else _write_records(audit, found.model.weights, to)

    found, without = _ask(context, tenant, answer)
    if as_json:
        where = None if to is None else str(to)
        print_json({**asdict(found), "records_in": where, "without_content": without})
        return
    entry = found.entry
    said = f"{variant} at {found.at}: version {entry['version']}, released {entry['at']} by {entry['by']}"
    out.print(escape(said), highlight=False, soft_wrap=True)
    written = "" if to is None else f", written to {to}"
    if without:
        written += f"; {without:,} without their text, which retention removed"
    records = counted(found.records, "record")
    out.print(escape(f"trained on {records}{written}"), highlight=False, soft_wrap=True)
    _print_model(found.model)


@audit.command()
def source(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(help="A declared path, a file, or a sha256", metavar="PATH|DIGEST")
    ],
    tenant: ForTenant = None,
    as_json: Json = False,
) -> None:
    """All that came of a source."""
    from ft_dagster.audit import traces

    found: CameOf = _ask(context, tenant, lambda audit: traces.source(audit, source))
    if as_json:
        print_json(asdict(found))
        return
    for file in found.files:
        out.print(escape(f"{file.get('path', file.get('repo'))}  {_print_of(file)}"), highlight=False)
    table = Table("made from it", "variant", "digest", "made (UTC)", box=SIMPLE_HEAD)
    for part in found.artifacts:
        table.add_row(part.stage, part.variant or "shared", part.digest[:12], part.created)
    out.print(table)
    _print_models(found.models)


@audit.command()
def tenant(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    tenant: ForTenant = None,
    as_json: Json = False,
) -> None:
    """What a tenant owns, and what of the shared it was given."""
    from ft_dagster.audit import traces

    found = _ask(context, tenant, lambda audit: traces.tenant(audit, name))
    if as_json:
        print_json(asdict(found))
        return
    out.print(f"{found.tenant}: {counted(found.records, 'record')} in data sets", highlight=False)
    for variant, stages in found.owns.items():
        made = ", ".join(f"{stage} {count}" for stage, count in stages.items())
        out.print(escape(f"{variant}: {made}"), highlight=False, soft_wrap=True)
    for part in found.given:
        out.print(escape(f"was given: {part.stage} {part.digest[:12]}"), highlight=False)
    for one in found.releases:
        out.print(escape(_released(one)), highlight=False)


@audit.command()
def diff(context: typer.Context, a: Model, b: Model, tenant: ForTenant = None, as_json: Json = False) -> None:
    """What differs between two models: records, settings, base, code, figures."""
    from ft_dagster.audit import models

    found = _ask(context, tenant, lambda audit: models.diff(audit, a, b))
    if as_json:
        print_json(asdict(found))
        return
    said = f"records: {found.added:,} added, {found.removed:,} removed, {found.same:,} the same"
    out.print(said, highlight=False)
    for what, rows in found.examples.items():
        for facts in rows:
            out.print(escape(f"  {what} {facts.get('file')}:{facts.get('line')}"), highlight=False)
    table = Table("changed", a, b, box=SIMPLE_HEAD)
    for name, values in found.changed.items():
        table.add_row(escape(name), *(escape(json.dumps(value, ensure_ascii=False)) for value in values))
    out.print(table)


@audit.command()
def verify(
    context: typer.Context,
    digest: Annotated[str | None, typer.Argument(help="Of artifacts; with --all: everything")] = None,
    every: Annotated[bool, typer.Option("--all", help="Everything, and the release logs")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Not on from a check that was ended")] = False,
    tenant: ForTenant = None,
    as_json: Json = False,
) -> None:
    """Hash again, and check trees, ledgers, manifests, logs and the index; exit 1 if anything does not
    hold.
    """
    from ft_dagster.audit import verify as checks

    if every == (digest is not None):
        raise UserError("what is to be verified is not clear", fix="Give a digest, or --all")

    def answer(audit: Audit) -> Verified:
        only = None if digest is None else audit.by_digest(digest)
        return checks.verify(audit, only, _progress(as_json), fresh=fresh)

    found = _ask(context, tenant, answer)
    if as_json:
        print_json({**asdict(found), "holds": found.holds})
    else:
        for line in found.problems:
            out.print(f"[red]does not hold[/] {escape(line)}", highlight=False, soft_wrap=True)
        before = f" ({found.before:,} of them before)" if found.before else ""
        gone = f", {found.removed:,} of them removed by retention" if found.removed else ""
        what = "all holds" if found.holds else counted(len(found.problems), "problem")
        measured = f"{found.bytes / 1e6:,.1f} MB in {found.seconds:.1f} s"
        out.print(
            f"{counted(found.artifacts, 'artifact')}{before}{gone}, {measured}: {what}", highlight=False
        )
    if not found.holds:
        raise typer.Exit(NOT_WHOLE)


@audit.command()
def prove(
    context: typer.Context,
    record: Record,
    model: Model,
    to: Annotated[Path | None, typer.Option(help="The file to write; else it is printed")] = None,
    tenant: ForTenant = None,
    as_json: Json = False,
) -> None:
    """A small file that shows a stranger that a model was trained on a record, or was not."""
    from ft_dagster.audit import asked, proofs

    def answer(audit: Audit) -> dict[str, Any]:
        weights = audit.model(model)
        return proofs.prove(audit, asked.asked_record(record, audit.readings(weights)), weights)

    proof = _ask(context, tenant, answer)
    if to is None:
        print_json(proof)
        return
    with _writable(to) as written:
        written.write(dumps(proof, indent=1, ensure_ascii=False) + "\n")
    if as_json:
        print_json({"kind": proof["kind"], "file": str(to), "bytes": to.stat().st_size})
        return
    out.print(escape(f"{proof['kind']}: {to}, {to.stat().st_size:,} bytes"), highlight=False, soft_wrap=True)


@audit.command("check")
def check_proof(
    file: Annotated[Path, typer.Argument(help="What `audit prove` wrote")],
    record: Annotated[str | None, typer.Option(help="The record that it is to be of")] = None,
    key_file: Annotated[
        Path | None, typer.Option("--key", help="The tenant's key file, for a proof of absence")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a proof by itself: needs no project and no store."""
    from ft_dagster.audit import asked, proofs

    wanted = None if record is None else asked.asked_record(record, proofs.proof_readings(file))
    found = proofs.check(file, wanted, None if key_file is None else _key_of(file, key_file))
    if as_json:
        print_json({**asdict(found), "holds": True})
        return
    out.print(f"{found.kind} holds: {found.variant}, weights {found.model}", highlight=False, soft_wrap=True)
    for name, value in found.facts.items():
        if value is not None:
            out.print(escape(f"  {name}: {value}"), highlight=False, soft_wrap=True)
    for step in found.steps:
        out.print(escape(f"checked: {step}"), highlight=False, soft_wrap=True)
    for step in found.unchecked:
        out.print(escape(f"not checked: {step}"), highlight=False, soft_wrap=True)
    out.print(f"sha256 of the model's manifest: {found.manifest}", highlight=False, soft_wrap=True)


@audit.command()
def index(
    context: typer.Context,
    again: Annotated[bool, typer.Option("--again", help="Make it from nothing")] = False,
    as_json: Json = False,
) -> None:
    """Bring the index up to date. Every question does that by itself; `--again` makes it anew."""
    from ft_dagster.audit import records

    opened = _opened(context, None, again=again, quiet=as_json)
    with closing(opened.index):
        known, followed = records.checked(opened), opened.followed
    if as_json:
        new = {**asdict(followed), "problems": [each.problem for each in followed.problems]}
        print_json({"new": new, "known": asdict(known)})
        return
    added = f"{counted(followed.artifacts, 'artifact')} and {counted(followed.records, 'record')} were new"
    said = f"{counted(known.records, 'record')} of {known.artifacts:,} data sets, corpora and mixtures"
    models = counted(known.models, "model")
    out.print(f"{added}; known are {said}, {models}", highlight=False, soft_wrap=True)
    for each in followed.problems:
        out.print(f"[red]could not be read[/] {escape(each.problem)}", highlight=False, soft_wrap=True)


@key.command("list")
def list_keys(context: typer.Context, as_json: Json = False) -> None:
    """Whose keys are here: their ids and dates, not the keys."""
    folder = load_settings(context.obj).keys_folder
    found = {owner: record_keys.keys_of(folder, owner).keys for owner in record_keys.owners(folder)}
    if as_json:
        rows = [{"owner": o, "id": one.id, "made": one.made} for o, keys in found.items() for one in keys]
        print_json({"folder": str(folder), "keys": rows})
        return
    for owner, keys in found.items():
        ids = ", ".join(f"{one.id} ({one.made})" for one in keys)
        out.print(escape(f"{owner or 'shared'}: {ids}"), highlight=False, soft_wrap=True)
    out.print(
        escape(f"in {folder}; back them up: ft-dagster audit key backup FILE"),
        highlight=False,
        soft_wrap=True,
    )


@key.command()
def rotate(
    context: typer.Context,
    tenant: Annotated[str | None, typer.Argument(metavar="[TENANT]")] = None,
    shared: Annotated[bool, typer.Option("--shared", help="The key of what all tenants share")] = False,
    as_json: Json = False,
) -> None:
    """Put a new key before the old ones. The index is then made again; trees that stand keep their key."""
    from ft_dagster.spec.keys import HALF

    if shared == (tenant is not None) or not HALF.fullmatch(tenant or "shared"):
        raise UserError("whose key is not clear", value=tenant, fix="Name a tenant, or give --shared")
    made = record_keys.rotate(load_settings(context.obj).keys_folder, tenant or record_keys.SHARED_OWNER)
    if as_json:
        print_json({"owner": made.owner, "id": made.current.id, "kept": [one.id for one in made.keys[1:]]})
        return
    said = f"{tenant or 'shared'}: {made.current.id}; {len(made.keys) - 1} older are kept. Back them up again"
    out.print(escape(said), highlight=False)


@key.command()
def backup(context: typer.Context, file: Path, as_json: Json = False) -> None:
    """Write all keys into one file of this user alone. Keep it where the store is not."""
    count = record_keys.back_up(load_settings(context.obj).keys_folder, file)
    print_json({"file": str(file), "owners": count}) if as_json else out.print(
        f"keys of {counted(count, 'owner')}"
    )


@key.command()
def restore(context: typer.Context, file: Path, as_json: Json = False) -> None:
    """Add the keys of a backup behind those that are here."""
    count = record_keys.restore(load_settings(context.obj).keys_folder, file)
    print_json({"file": str(file), "added": count}) if as_json else out.print(
        f"added: {counted(count, 'key')}"
    )


def _opened(context: typer.Context, tenant: str | None, *, again: bool = False, quiet: bool = False) -> Audit:
    from ft_dagster.audit.desk import open_audit

    opened = open_audit(load_settings(context.obj), tenant=tenant, say=_progress(quiet), again=again)
    for line in opened.lost_keys():
        print(f"lost: {line}", file=sys.stderr)
    return opened


def _ask(context: typer.Context, tenant: str | None, question: Callable[[Audit], T]) -> T:
    """What a question answers; an index that turns out to be damaged is made again first."""
    try:
        opened = _opened(context, tenant, quiet=True)
        with closing(opened.index):
            return question(opened)
    except sqlite3.DatabaseError:
        opened = _opened(context, tenant, again=True, quiet=True)
        with closing(opened.index):
            return question(opened)


def _progress(quiet: bool) -> Callable[[str], None]:
    """One line on stderr that is written over, where somebody looks."""
    if quiet or not sys.stderr.isatty():
        return lambda line: None
    return lambda line: print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


def _write_records(audit: Audit, weights: str, to: Path) -> int:
    """How many of them have no content any more."""
    from ft_dagster.audit import models

    without = 0
    with _writable(to) as file:
        for one in models.training_records(audit, audit.model(weights)):
            without += one.content is None
            file.write(dumps(one._asdict(), ensure_ascii=False) + "\n")
    return without


def _writable(file: Path) -> TextIO:
    try:
        return file.open("w", encoding="utf-8")
    except OSError as error:
        said = error.strerror or str(error)
        raise UserError(f"it cannot be written: {said}", file=file, fix="Name another file") from None


def _key_of(proof: Path, file: Path) -> record_keys.RecordKey:
    """The key of a key file that a proof's tree names. Raises UserError."""
    from ft_dagster.audit.proofs import tree_key

    keys = record_keys.read_keys(file)
    named = tree_key(proof)
    found = keys.of_id(named)
    if found is None:
        raise UserError(
            f"it has no key {named}, which orders the proof's tree", file=file, fix="Name another"
        )
    return found


def _print_models(models: tuple[ModelThatHas, ...]) -> None:
    if not models:
        return
    table = Table("model", "weights", "how", "times", "exports", "released as", box=SIMPLE_HEAD)
    for one in models:
        through = f" ({one.through[:12]})" if one.through else ""
        times = "" if one.times is None else str(one.times)
        exports = ", ".join(digest[:12] for digest in one.exports)
        released = ", ".join(map(_released, one.releases)) or "not released"
        table.add_row(one.variant, one.weights[:12], one.how + through, times, exports, escape(released))
    out.print(table)


def _released(one: Any) -> str:
    return f"{one.variant} v{one.version}" + (" (in production)" if one.production else "")


def _print_of(file: Mapping[str, Any]) -> str:
    return str(file.get("sha256") or file.get("etag") or file.get("revision") or "")


def _print_model(found: ModelAnswer) -> None:
    table = Table(box=None, show_header=False)
    for name, value in (*_origin(found), *_making(found), *_standing(found)):
        table.add_row(name, escape(value))
    out.print(table)


def _origin(found: ModelAnswer) -> Iterator[tuple[str, str]]:
    """Of what it is and what it was trained on."""
    base = found.base
    yield "variant", found.variant
    yield "weights", found.weights
    yield "made (UTC)", found.created
    yield "base", f"{base.get('reference')} {base.get('revision') or ''} {base.get('digest', 'gone')[:12]}"
    if found.parent:
        gone = ", whose weights are gone" if found.parent["gone"] else ""
        if found.parent["removed"]:
            gone = f", whose weights were removed by retention on {found.parent['removed'][:10]}"
        yield "starts from", f"{found.parent['variant']} v{found.parent['version']}{gone}"
    for source in found.sources:
        counts = ", ".join(f"{name} {n:,}" for name, n in source.rows.items())
        yield "source", f"{source.path}: {counts}; {', '.join(_print_of(file)[:12] for file in source.files)}"
    if found.mixture:
        share = found.mixture["general_share"]
        yield "trained tokens", ", ".join(f"{name} {n:,}" for name, n in found.mixture["by_source"].items())
        yield "general share", f"asked {share['asked']:.1%}, realized {share['realized']:.2%}"


def _making(found: ModelAnswer) -> Iterator[tuple[str, str]]:
    """By what it was trained and judged."""
    method, verdict = found.recipe.get("method") or {}, found.evaluation.get("verdict") or {}
    libraries = found.environment.get("libraries", {})
    shown = [f"{name} {libraries[name]}" for name in ("torch", "transformers", "peft") if name in libraries]
    yield "method", f"{method.get('name')} on {found.recipe.get('on')}"
    yield "training", f"{found.training.get('steps')} steps, {found.flops or 0:.3g} FLOPs"
    yield "made with", ", ".join([f"Python {found.environment.get('python')}", *shown])
    yield "verdict", "passed" if verdict.get("passed") else "none that passed"


def _standing(found: ModelAnswer) -> Iterator[tuple[str, str]]:
    """What became of it, and all that it was made of."""
    for entry in found.releases:
        done = f"{entry['action']} of version {entry['version']}"
        yield "log", f"{done}, {entry['at']}, by {entry['by']}: {entry['reason']}"
    for child in found.children:
        yield "child", child
    for part in found.parts:
        said = "gone from the store" if part.gone else f"{part.created}, code {part.code[:12]}"
        said += f", removed by retention on {part.removed[:10]}" if part.removed else ""
        yield part.stage, f"{part.digest[:12]}  {said}"
