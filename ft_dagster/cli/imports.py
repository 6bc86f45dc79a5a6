"""Defines the commands `import`: files of another service or program become rows and a declaration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ft_dagster.cli.commands import app
from ft_dagster.cli.common import DECLARING, Json, out, print_json, print_whole, show_rows, tell
from ft_dagster.errors import in_one_line

if TYPE_CHECKING:
    from ft_dagster.versions.imports.project import Imported, ImportRequest, Origin

imports = typer.Typer(
    help="Take over rows, hyperparameters and configurations from another service or program.",
    no_args_is_help=True,
)
app.add_typer(imports, name="import", rich_help_panel=DECLARING)
Base = Annotated[
    str | None,
    typer.Option(help="Local folder, hub id or s3:// prefix, instead of the base that the files name"),
]
Variant = Annotated[str, typer.Option(help="tenant.variant")]
Allowed = Annotated[int, typer.Option(min=0, help="How many fields and rows may be dropped; more is refused")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would become of each field; write nothing")]


@imports.command()
def openai(
    context: typer.Context,
    files: Annotated[
        list[Path], typer.Argument(help="JSON lines of chat rows or preference pairs, and a job's JSON")
    ],
    base_model: Base = None,
    variant: Variant = "acme.support",
    allow_dropped: Allowed = 0,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Import chat rows and a job of OpenAI's fine-tuning. Its models are closed: name a base by --base-model.

    Files are recognized by their content. Rows with tools, calls, weights and names are kept as they are; the
    older fields functions and function_call are written as tools and tool_calls. Preference pairs go into a
    file of their own and count as dropped. A job's hyperparameters are read in both forms that the service
    has used.

    Each field is carried, changed or dropped, and the reason is printed. If more is dropped than
    --allow-dropped allows, nothing is written. Existing files are never overwritten, and a second call
    changes nothing.
    """
    _import(context, "openai", files, base_model, variant, allow_dropped, dry_run, as_json)


@imports.command()
def axolotl(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The YAML of the configuration")],
    base_model: Base = None,
    variant: Variant = "acme.support",
    allow_dropped: Allowed = 0,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Import a configuration of Axolotl. Its paths count from the current folder, as in Axolotl; rows stay
    where they are.

    Each field is carried, changed or dropped, and the reason is printed. If more is dropped than
    --allow-dropped allows, nothing is written. Existing files are never overwritten, and a second call
    changes nothing.
    """
    _import(context, "axolotl", [file], base_model, variant, allow_dropped, dry_run, as_json)


@imports.command()
def llamafactory(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The YAML of the training")],
    base_model: Base = None,
    variant: Variant = "acme.support",
    allow_dropped: Allowed = 0,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Import a configuration of LLaMA-Factory. Its paths count from the current folder, as in LLaMA-Factory;
    rows stay where they are.

    dataset_info.json is read from the configuration's dataset_dir, or from `data` if it names none.

    Each field is carried, changed or dropped, and the reason is printed. If more is dropped than
    --allow-dropped allows, nothing is written. Existing files are never overwritten, and a second call
    changes nothing.
    """
    _import(context, "llamafactory", [file], base_model, variant, allow_dropped, dry_run, as_json)


def _import(
    context: typer.Context,
    origin: Origin,
    files: list[Path],
    base: str | None,
    variant: str,
    allowed: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    from ft_dagster.report.sentences.next_step import next_of_project
    from ft_dagster.spec import VariantKey
    from ft_dagster.versions.imports.project import ImportRequest, import_files

    project = context.obj or Path()
    request = ImportRequest(origin, tuple(files), project, VariantKey.parse(variant), base, allowed, dry_run)
    imported = import_files(request)
    following = next_of_project(str(project), variant)
    if as_json:
        print_json(_document(request, imported) | {"next_step": None if dry_run else following})
        return
    _tell(imported, dry_run=dry_run)
    if not dry_run:
        tell(f"Next: {following}")


def _document(request: ImportRequest, imported: Imported) -> dict[str, Any]:
    return {
        "project": str(request.project),
        "variant": str(request.key),
        "dry_run": request.dry_run,
        "declaration": {"file": str(imported.declaration), "text": imported.text},
        "made": [str(path) for path in imported.made],
        "said": list(imported.said),
        "counts": imported.counts,
        "fields": [
            {
                "file": str(outcome.item.file),
                "field": outcome.item.field,
                "outcome": outcome.kind,
                "here": outcome.to or None,
                "why": outcome.why or None,
                "count": outcome.times,
            }
            for outcome in imported.outcomes
        ],
    }


def _tell(imported: Imported, *, dry_run: bool) -> None:
    rows = [
        (
            in_one_line(outcome.item.field),
            f"{outcome.times:,}" if outcome.times > 1 else "",
            outcome.kind,
            outcome.to,
            outcome.why,
        )
        for outcome in imported.outcomes
    ]
    show_rows(("field", "rows", "outcome", "here", "why"), rows)
    tell(", ".join(f"{number:,} {kind}" for kind, number in imported.counts.items()))
    for line in imported.said:
        tell(line)
    if dry_run:
        print_whole("\n".join(map(in_one_line, imported.text.split("\n"))))
    for path in imported.made:
        out.print(f"would make {path}" if dry_run else f"made {path}", highlight=False)
    if not imported.made:
        tell("nothing to do: all of it is there already")
