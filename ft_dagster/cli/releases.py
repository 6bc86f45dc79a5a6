"""Defines commands about what is served: release, rollback, history."""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ft_dagster.cli.commands import app
from ft_dagster.cli.common import (
    RELEASING,
    Json,
    Key,
    escape,
    load_settings,
    load_variant,
    out,
    print_json,
    show_rows,
    tell,
)
from ft_dagster.errors import UserError
from ft_dagster.spec import VariantKey
from ft_dagster.stage_entries import MODEL_EXPORT

if TYPE_CHECKING:
    from ft_dagster.export.served import Served, ServedBase
    from ft_dagster.lineage.entry import ReleaseEntry
    from ft_dagster.lineage.serving import Standing
    from ft_dagster.settings import Settings
    from ft_dagster.spec import Declared

By = Annotated[str | None, typer.Option(help="Who does it; the user of this process unless given")]


@app.command(rich_help_panel=RELEASING)
def release(
    context: typer.Context,
    variant: Key,
    version: Annotated[
        int | None, typer.Option(help="Which version; the newest (the candidate) unless given")
    ] = None,
    by: By = None,
    reason: Annotated[str, typer.Option(help="Kept in the log")] = "",
    force: Annotated[
        bool,
        typer.Option("--force", help="Even if it, or a parent of it, was rolled back; needs --reason"),
    ] = False,
    as_json: Json = False,
) -> None:
    """Put a released version into production: approve a candidate, or go forward again after a rollback.

    Only versions that passed their gate are in the log. The export is hashed again first, and a version that
    may not be served today is refused.
    """
    from ft_dagster.lineage.release import history as entries
    from ft_dagster.lineage.release import promote
    from ft_dagster.lineage.served import aliases
    from ft_dagster.stages.judging.may_serve import asked_today

    settings, declared = _declared(context, variant)
    store, prefix = settings.open_store(), _prefix(declared.key)
    if version is None:  # named now, so that no other is promoted than is verified
        version = aliases(entries(store, prefix))["candidate"]
    _verify(settings, declared.key, version)
    request = asked_today(settings, declared.key, reason, by)
    entry = promote(store, prefix, version, request, force=force)
    _conclude(settings, declared.key, entry, as_json)


@app.command(rich_help_panel=RELEASING)
def rollback(
    context: typer.Context,
    variant: Key,
    reason: Annotated[str, typer.Option(help="Kept in the log")],
    to: Annotated[int | None, typer.Option(help="Which version; the one served before unless given")] = None,
    to_nothing: Annotated[
        bool, typer.Option("--to-nothing", help="Serve no version until one is released")
    ] = False,
    by: By = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Even if today's policy does not allow it; only for an approver of the policy"
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Put an earlier version into production again, if it may be served or is no worse than what is served.

    With --to-nothing, no version is in production after it. The rollback is recorded, and nothing is deleted.
    The version that was rolled back is not promoted again unless that is forced with a reason.
    """
    from ft_dagster.lineage.release import history, rollback, take_out
    from ft_dagster.lineage.served import to_go_back_to
    from ft_dagster.stages.judging.may_serve import asked_today

    if not reason.strip():
        fix = "Say what was wrong with the version in production: the log keeps it"
        raise UserError("no reason is given", field="--reason", value=reason, fix=fix)
    if to_nothing and (to is not None or force):
        given = "--force" if to is None else "--to"
        problem, fix = (
            f"no version is gone back to, and {given} is given",
            f"Leave {given} out, or --to-nothing",
        )
        raise UserError(problem, field="--to-nothing", fix=fix)
    settings, key = _released(context, variant)
    store, prefix = settings.open_store(), _prefix(key)
    request = asked_today(settings, key, reason, by)
    if to_nothing:
        _conclude(settings, key, take_out(store, prefix, request), as_json)
        return
    to = to_go_back_to(history(store, prefix), prefix, to)
    _verify(settings, key, to)
    entry = rollback(store, prefix, request, to, force=force)
    _conclude(settings, key, entry, as_json)


@app.command(rich_help_panel=RELEASING)
def history(context: typer.Context, variant: Key, as_json: Json = False) -> None:
    """Show all releases, promotions and rollbacks of a variant, oldest first."""
    from ft_dagster.lineage.log import read_log, uncounted_words
    from ft_dagster.lineage.served import aliases
    from ft_dagster.report.figures import HISTORY, history_rows

    settings, key = _released(context, variant)
    store = settings.open_store()
    log = read_log(store, _prefix(key))
    past, named = log.entries, aliases(log.entries)
    if as_json:
        entries = [entry.to_json() for entry in past]
        print_json(
            {"variant": variant, "aliases": named, "entries": entries, "uncounted": list(log.uncounted)}
        )
        return
    show_rows(HISTORY, [["-" if cell is None else str(cell) for cell in row] for row in history_rows(past)])
    for name, version in named.items():
        out.print(f"{name}: {'none' if version is None else f'version {version}'}", highlight=False)
    for said in uncounted_words(store, _prefix(key), log):
        tell(said)


def _declared(context: typer.Context, variant: str) -> tuple[Settings, Declared]:
    settings = load_settings(context.obj)
    return settings, load_variant(settings, VariantKey.parse(variant))


def _released(context: typer.Context, variant: str) -> tuple[Settings, VariantKey]:
    """Return a variant with a release log, or a declared one: its file is no condition for taking back a
    version.
    """
    from ft_dagster.lineage.release import history

    settings, key = load_settings(context.obj), VariantKey.parse(variant)
    if not history(settings.open_store(), _prefix(key)):
        load_variant(settings, key)
    return settings, key


def _verify(settings: Settings, key: VariantKey, version: int | None) -> None:
    """Hash the export of a version again, so that what is promoted is there. Raises UserError."""
    from ft_dagster.lineage.release import export_of

    export_of(settings.open_store(), key.prefix, version, settings.cache_folder)


def _conclude(settings: Settings, key: VariantKey, entry: ReleaseEntry, as_json: bool) -> None:
    """Conclude a command whose work is done, whether Dagster can show it or not: who is told of an error
    would do it again.
    """
    from ft_dagster.assets.failures import unreported
    from ft_dagster.automation.processes.instance import show_release

    try:
        show_release(settings, key, entry)
    except Exception as error:
        if not (isinstance(error, UserError) or unreported(error)):
            raise
        said = f"it stands in the release log, and Dagster does not show it: {' '.join(str(error).split())}"
        Console(stderr=True).print(escape(said), highlight=False, soft_wrap=True)
    unserved = _unserved(settings, key)
    if as_json:
        findings = [] if unserved is None else unserved.to_json()["findings"]
        print_json({**entry.to_json(), "may_not_serve": findings})
        return
    if entry.production is None:
        out.print(
            f"{key}: version {entry.version} was taken out of production; none is served", highlight=False
        )
        return
    folder = Path(_prefix(key)) / MODEL_EXPORT.name / entry.export_key
    out.print(
        f"{key}: version {entry.production} is in production "
        f"({entry.export[:12]}, {settings.open_store().uri(str(folder))})",
        highlight=False,
        soft_wrap=True,
    )
    if unserved is not None:
        tell(unserved.said)


def _unserved(settings: Settings, key: VariantKey) -> Standing | None:
    """Return why what is in production now may no longer be served; None too where that cannot be read, for
    what was done stands.
    """
    from ft_dagster.stages.judging.may_serve import Today, in_production

    with suppress(UserError, OSError):
        return in_production(Today.of(settings, key))
    return None


def _prefix(key: VariantKey) -> str:
    return f"tenants/{key.tenant}/{key.variant}"


@app.command(rich_help_panel=RELEASING)
def catalogue(
    context: typer.Context,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--to", help="Write the files that servers take to this folder, a folder in it for each base"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what is in production, as servers take it: adapters by base and quantization, and whole models.

    Without --to nothing is written. With it each base gets vLLM's arguments, the calls for a server that
    already runs, an index of all adapters, and Python that loads them with transformers and PEFT.
    """
    from ft_dagster.export.catalogue import VLLM_FILE
    from ft_dagster.export.catalogue import catalogue as files_of
    from ft_dagster.export.served import served
    from ft_dagster.stages.judging.may_serve import unserved_of

    settings = load_settings(context.obj)
    found = served(settings, unserved_of(settings))
    files = {base.folder: files_of(base.reference, base.digest, base.adapters) for base in found.bases}
    for name, contents in files.items() if folder is not None else ():
        target = Path(folder or "") / name
        target.mkdir(parents=True, exist_ok=True)
        for file, content in contents.items():
            (target / file).write_text(content, "utf-8")
    if as_json:
        print_json(_catalogue_json(found, files, folder))
        return
    for base in found.bases:
        _say_base(base, files[base.folder][VLLM_FILE])
    for model in found.models:
        said = f"{model.variant} v{model.version}, a whole model: vllm serve {shlex.quote(model.path)}"
        _say(said, model.verdict)
    for one in found.unserved:
        tell(one.said)
    if not found.bases and not found.models and not found.unserved:
        out.print("no variant is in production")
    elif folder is not None:
        tell(f"written: {folder}")


def _say_base(base: ServedBase, arguments: str) -> None:
    """Print one base: its adapters, and the command that serves those that vLLM loads."""
    kind = f" in {base.quantization}" if base.quantization else ""
    out.print(f"{base.reference}{kind} ({base.digest[:12]})", style="bold", markup=False, highlight=False)
    for adapter in base.adapters:
        why = f"; not by vLLM: it {', it '.join(adapter.refused)}" if adapter.refused else ""
        said = f"  {adapter.variant} v{adapter.version}, rank {adapter.rank}, {adapter.digest[:12]}{why}"
        _say(said, adapter.verdict, indent="  ")
    if arguments:
        command = f"  vllm serve {shlex.quote(base.reference)} {arguments.rstrip()}"
        tell(command)


def _say(line: str, verdict: str, indent: str = "") -> None:
    """Print what is served, and below it what it was released by."""
    for said in (line, f"{indent}  {verdict}" if verdict else ""):
        if said:
            tell(said)


def _catalogue_json(
    found: Served, files: dict[str, dict[str, str]], folder: Path | None
) -> dict[str, object]:
    bases = [
        {
            "base_model": base.reference,
            "base_digest": base.digest,
            "quantization": base.quantization,
            "folder": None if folder is None else str(folder / base.folder),
            "adapters": [adapter.variant for adapter in base.adapters],
            "not_by_vllm": {one.variant: list(one.refused) for one in base.adapters if one.refused},
            "files": files[base.folder],
        }
        for base in found.bases
    ]
    return {
        "bases": bases,
        "models": [model._asdict() for model in found.models],
        "may_not_serve": [one.to_json() for one in found.unserved],
    }
