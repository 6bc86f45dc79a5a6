"""Imports files of another service or program into a project: rows, a declaration, and what became of each
field.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import yaml

from ft_dagster.data.rows.infer import InferredRows, infer_sources
from ft_dagster.data.sources.locations import DeclaredAt, is_hub, is_s3
from ft_dagster.errors import UserError, all_of
from ft_dagster.models.base import base_from
from ft_dagster.spec.data import SourceSpec
from ft_dagster.spec.keys import VariantKey
from ft_dagster.spec.start import Start, new_declaration, start_project, written_place
from ft_dagster.spec.validation import validate
from ft_dagster.spec.variant import VariantSpec
from ft_dagster.versions.declaration_text import Source
from ft_dagster.versions.first_declaration import Carried, base_lines, carried_declaration
from ft_dagster.versions.imports.axolotl import read_axolotl
from ft_dagster.versions.imports.ledger import Ledger, Outcome
from ft_dagster.versions.imports.llamafactory import read_llamafactory
from ft_dagster.versions.imports.openai import read_openai
from ft_dagster.versions.imports.rules import refuse_credential
from ft_dagster.versions.imports.staged import Placed, Staged, place_rows, write_copies

Origin = Literal["openai", "axolotl", "llamafactory"]
Reader = Callable[[Sequence[Path], Path], tuple[Ledger, list[Staged]]]
STAGING = "ft-dagster-import-"  # of a temporary folder, which no error names
READERS: Mapping[Origin, Reader] = {
    "openai": read_openai,
    "axolotl": read_axolotl,
    "llamafactory": read_llamafactory,
}


class ImportRequest(NamedTuple):
    """Says what is imported, and how. `base`: in place of the one that the files name."""

    origin: Origin
    files: tuple[Path, ...]
    project: Path
    key: VariantKey
    base: str | None = None
    allowed: int = 0
    dry_run: bool = False


@dataclass(frozen=True)
class Imported:
    """Holds the result. `made`: files that were written, of a dry run those that would be."""

    declaration: Path
    text: str
    made: tuple[Path, ...]
    said: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    counts: Mapping[str, int]


def import_files(request: ImportRequest) -> Imported:
    """Import files into a project, which is made where there is none. Raises UserError, before anything is
    written.
    """
    with tempfile.TemporaryDirectory(prefix=STAGING) as folder:
        ledger, staged = READERS[request.origin](request.files, Path(folder))
        base = _base(request, ledger)
        placed = place_rows(request.project, request.key, staged)
        start = _declared(request, ledger, base, staged, placed)
        if not request.dry_run:
            ledger.refuse_dropped(request.allowed)
        declaration = new_declaration(request.project, request.key, start)
        copies = list(placed.missing())
        made = [target for _, target in copies]
        said = start.said
        if request.dry_run:
            made += [] if declaration.exists() else [declaration]
            said = (*said, *_would_be_refused(request, ledger))
        else:
            write_copies(copies)
            sources = [*map(str, placed.sources), *(source.fields["path"] for source in ledger.sources)]
            started = start_project(request.project, request.key, base, sources, start)
            made, said = [*made, *started.made], started.said
    text = start.declaration or ""
    return Imported(declaration, text, tuple(made), said, tuple(ledger.outcomes), ledger.counts())


def _would_be_refused(request: ImportRequest, ledger: Ledger) -> tuple[str, ...]:
    number = ledger.counts()["dropped"]
    if number <= request.allowed:
        return ()
    return (f"! {number:,} dropped: refused without --allow-dropped {number}",)


def _base(request: ImportRequest, ledger: Ledger) -> str:
    if request.base is not None:
        return base_from(request.base, Path.cwd(), "--base-model")
    if ledger.base is None:
        fix = "Give --base-model: a local folder, a hub id or an s3:// prefix"
        raise UserError("no base that can be trained is named", field="--base-model", fix=fix)
    refuse_credential(ledger.base, str(ledger.base.value))
    try:
        return base_from(str(ledger.base.value), Path.cwd(), ledger.base.field)
    except UserError as error:
        raise ledger.base.error(error.problem, "Give another by --base-model") from None


def _declared(
    request: ImportRequest, ledger: Ledger, base: str, staged: list[Staged], placed: Placed
) -> Start:
    """Return the declaration, which the schema holds. Raises UserError that names the imported field."""
    project, key = request.project, request.key
    rows = _inferred(ledger, staged)
    trained = [each for each in staged if each.rows]
    sources = [
        Source({"path": written_place(project, str(place))}, f"{each.rows:,} rows of {each.file.name}")
        for each, place in zip(trained, placed.sources, strict=True)
    ]
    named = (source._replace(fields=_from_project(project, source.fields)) for source in ledger.sources)
    names = ", ".join(file.name for file in request.files)
    heading = (f"Imported from {names} by `ft-dagster import {request.origin}`", *ledger.heading)
    carried = Carried((*sources, *named), tuple(ledger.settings), heading)
    start = carried_declaration(project, str(key), base, rows, carried)
    text = start.declaration or ""
    _check(request, ledger, text)
    return Start(text, (*base_lines(base), *start.said), again=True)


def _from_project(project: Path, fields: dict[str, object]) -> dict[str, object]:
    return {**fields, "path": written_place(project, str(fields["path"]))}


def _inferred(ledger: Ledger, staged: list[Staged]) -> InferredRows | None:
    """Infer from the first rows; None where some lie elsewhere, since that may ask a network."""
    sources = [SourceSpec(path=str(each.path)) for each in staged if each.rows]
    sources += [SourceSpec.model_validate(source.fields) for source in ledger.sources]
    here = Path.cwd()
    if any(is_s3(source.path) or is_hub(source, here) for source in sources):
        return None
    try:
        return infer_sources(sources, here, DeclaredAt(field="rows"))
    except UserError as error:
        raise _at_original(error, staged) from None


def _at_original(error: UserError, staged: list[Staged]) -> UserError:
    """Name the file that was given, and the line in it, in place of a temporary one."""
    for each in staged:
        if each.written is not None and error.file == str(each.written.absolute()):
            line = each.lines[error.line - 1] if error.line else None
            return UserError(
                error.problem, fix=error.fix, file=each.file, line=line, field=error.field, value=error.value
            )
    return error


def _check(request: ImportRequest, ledger: Ledger, text: str) -> None:
    declaration = request.project / "tenants" / request.key.tenant / f"{request.key.variant}.yaml"
    try:
        validate(VariantSpec, yaml.safe_load(text), lambda field: declaration)
    except UserError as error:
        first = all_of(error)[0]
        item = ledger.origin(first.field or "")
        if item is None:
            raise
        raise item.error(f"{first.field} here: {first.problem}", first.fix) from None
