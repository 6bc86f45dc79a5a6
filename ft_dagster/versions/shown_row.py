"""Shows what becomes of one row: its text as the base reads it, what is trained, and what is cut off."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ft_dagster.data.rendering.examples import examples_of, refuse_kind
from ft_dagster.data.rendering.known_tokenizer import KnownTokenizer
from ft_dagster.data.rows.faults import fault_of
from ft_dagster.data.rows.rows import Row
from ft_dagster.data.rows.sources import read_rows
from ft_dagster.data.sources.locations import DeclaredAt
from ft_dagster.errors import UserError
from ft_dagster.models.base import resolve_base
from ft_dagster.objectives import Rendered
from ft_dagster.roots import Roots
from ft_dagster.spec.declarations import Declared
from ft_dagster.stage_entries import BASE_MODEL
from ft_dagster.versions.sample import longest_example
from ft_dagster.workspace.workspace import Workspace

Part = Literal["trained", "context", "cut"]
WHOLE = 10_000_000  # tokens: more than any row has


class Piece(NamedTuple):
    """Is a piece of a row's text, and what is done with it."""

    part: Part
    text: str


class ShownRow(NamedTuple):
    """Holds a row as it is rendered. `place`: its file and line; `tokens`: how many there are of each part;
    `left_out`: why no model sees it, "" where one does.
    """

    place: str
    pieces: tuple[Piece, ...]
    tokens: dict[Part, int]
    left_out: str = ""


def shown_row(workspace: Workspace, number: int) -> ShownRow:
    """Return the row of this number, from 1, in the order in which the sources are read, as training renders
    it now. Raises UserError, also where there are fewer rows.
    """
    declared = workspace.declared()
    rows = _rows(declared, workspace.project, workspace.roots)
    row = next(islice(rows, min(number, sys.maxsize) - 1, None), None)
    if row is None:
        raise UserError("the sources have fewer rows", field="--row", value=number, fix="Name a smaller one")
    assert row.place is not None
    place = f"{row.place.file}:{row.place.line}"
    if (fault := fault_of(row)) is not None:
        return ShownRow(place, (), {}, fault)
    refuse_kind(declared.spec, row, declared.file)
    folder = _base_folder(workspace, declared)
    tokenizer, max_length = KnownTokenizer(folder, workspace.cache), longest_example(declared.spec, folder)
    exchange = declared.spec.data.render == "auto" and tokenizer.chats
    [(_, examples)] = examples_of(declared.spec, [row], tokenizer.loaded, WHOLE, exchange=exchange)
    pieces: list[Piece] = []
    counts: dict[Part, int] = {"trained": 0, "context": 0, "cut": 0}
    for example in examples:
        for part, ids in _parts(example, max_length):
            pieces.append(Piece(part, tokenizer.loaded.decode(ids)))
            counts[part] += len(ids)
    return ShownRow(place, tuple(pieces), counts)


def _base_folder(workspace: Workspace, declared: Declared) -> Path:
    """Return the folder of the base: of the newest one, else of the one that is declared."""
    base = workspace.head(BASE_MODEL.name)
    if base is not None:
        return workspace.base_folder(base)
    return resolve_base(
        declared.spec.base_model,
        workspace.project,
        workspace.cache,
        declared_in=declared.file,
        roots=workspace.roots,
        bound=bool(workspace.settings.policies().of(declared.key.tenant).bases),
    ).folder


def _rows(declared: Declared, project: Path, roots: Roots) -> Iterator[Row]:
    for place, source in enumerate(declared.spec.data.sources):
        yield from read_rows(source, project, DeclaredAt(declared.file, f"data.sources[{place}]", roots))


def _parts(example: Rendered, max_length: int) -> Iterator[tuple[Part, Sequence[int]]]:
    """Yield the tokens of an example, piece by piece, with what is done with each."""
    ids: Any = example.input_ids
    borders = sorted({0, min(max_length, len(ids)), len(ids), *(at for span in example.spans for at in span)})
    for start, end in pairwise(borders):
        trained = any(first <= start < last for first, last in example.spans)
        part: Part = "cut" if start >= max_length else "trained" if trained else "context"
        yield part, ids[start:end]
