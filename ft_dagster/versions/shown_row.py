"""Shows what becomes of one row: its text as the base reads it, what is trained, and what is cut off."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from ft_dagster.data.mixture.cuts import TOO_LONG, UNTRAINED, unrendered_of
from ft_dagster.data.rendering.examples import refuse_kind
from ft_dagster.data.rendering.known_tokenizer import KnownTokenizer
from ft_dagster.data.rendering.pieces import Part, Piece, pieces_of_row
from ft_dagster.data.rows.faults import fault_of
from ft_dagster.data.rows.rows import Row
from ft_dagster.data.rows.sources import read_rows
from ft_dagster.data.sources.locations import DeclaredAt
from ft_dagster.errors import UserError
from ft_dagster.models.base import resolve_base
from ft_dagster.planning.longest_example import longest_example
from ft_dagster.roots import Roots
from ft_dagster.spec.declarations import Declared
from ft_dagster.stage_entries import BASE_MODEL
from ft_dagster.workspace.workspace import Workspace


class ShownRow(NamedTuple):
    """Holds a row as it is rendered. `place`: its file and line; `tokens`: how many there are of each part;
    `left_out`: why no model sees it, "" where one does; `read`: which of its turns are rendered, "" for all.
    """

    place: str
    pieces: tuple[Piece, ...]
    tokens: dict[Part, int]
    left_out: str = ""
    read: str = ""


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
    pieces = pieces_of_row(declared.spec, row, tokenizer.loaded, max_length, exchange=exchange)
    counts: dict[Part, int] = {"trained": 0, "context": 0, "cut": 0}
    for piece in pieces:
        counts[piece.part] += piece.tokens
    why = _left_out(counts, declared.spec.data.on_too_long)
    return ShownRow(place, tuple(pieces), counts, why, unrendered_of(declared.spec, row, pieces))


def _left_out(tokens: dict[Part, int], on_too_long: str) -> str:
    """Say why a mixture leaves a row of so many tokens out, or refuses it; "" where it does not."""
    if tokens["cut"] and on_too_long != "truncate":
        return TOO_LONG if on_too_long == "drop" else f"{TOO_LONG}, which data.on_too_long refuses"
    return "" if tokens["trained"] else UNTRAINED


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
