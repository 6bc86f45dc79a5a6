"""Reads a text as a row: as JSON, or as a line of a table, alone or below the line that names its columns.

A line alone is read by the columns that data sets noted of their tables. Of a table whose columns nothing
noted each order of the cells that makes a row is one way to read it.
"""

from __future__ import annotations

import ast
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice, permutations
from typing import Any, NamedTuple

from ft_dagster.data.sources.formats import BESIDE, CONVERSATIONS
from ft_dagster.data.sources.formats import COLUMNS as OF_FORMAT
from ft_dagster.data.sources.locations import file_type
from ft_dagster.data.sources.readers import DELIMITERS, MalformedCells, read_cells
from ft_dagster.strict_json import loads

COLUMNS = "columns"  # of a reading: what each cell of a line is, "" of one that is not read
UNKNOWN: tuple[str, ...] = ()  # columns that nothing noted
MOST_ORDERS = 300  # of the cells of a line
TABULAR = ("text", "prompt_completion", "alpaca")  # formats that cells can have
Reading = Mapping[str, Any]


class GivenJson(NamedTuple):
    """Is what a text says as JSON. `row`: an object; `as_cells`: the same as cells say it, its numbers texts.
    `text`: of a text in quotes. `unsure`: why it may be a record in a further way.
    """

    row: dict[str, object] | None = None
    as_cells: dict[str, object] | None = None
    text: str = ""
    unsure: tuple[str, ...] = ()


class TableText(NamedTuple):
    """Holds the ways to read a text as a row of a table. `cells`: of its last line; `named`: by the names in
    its first one. `rows`: (fields, reading) of each way to read a line alone, `orders`: of those that try
    orders of its cells. `unsure`: as of `GivenJson`.
    """

    lines: int = 0
    cells: tuple[str, ...] = ()
    named: dict[str, object] | None = None
    rows: tuple[tuple[dict[str, object], Reading], ...] = ()
    orders: tuple[tuple[dict[str, object], Reading], ...] = ()
    unsure: tuple[str, ...] = ()


def read_json(text: str) -> GivenJson:
    """Read a text as JSON: a row, one of a list, its turns, a part of its fields; or as Python shows it."""
    bare = text.strip(" \t\r\n'`").removesuffix(",")
    for way in (bare, f"{{{bare}}}") if bare[:1] in ("{", "[", '"') else ():
        with suppress(ValueError, RecursionError):
            found = _row_of(loads(way))
            as_cells = _row_of(json.loads(way, parse_int=str, parse_float=str, parse_constant=str))
            return found._replace(as_cells=as_cells.row)
    if bare[:1] in ("{", "["):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            return _row_of(ast.literal_eval(bare))
    part = bare[:1] == "{" and ":" in bare
    return GivenJson(
        unsure=("it begins as JSON and is none, so that it may be a part of a row",) if part else ()
    )


def _row_of(content: Any) -> GivenJson:
    if isinstance(content, str):
        return GivenJson(text=content)
    objects = content if isinstance(content, list) and all(isinstance(one, dict) for one in content) else []
    for name, column in (("role", "messages"), ("from", "conversations")):
        if objects and all(name in one for one in objects):
            return GivenJson({column: content})
    if len(objects) > 1:
        return GivenJson(unsure=(f"its {len(objects):,} objects may be as many rows: give one",))
    return GivenJson(objects[0] if objects else content if isinstance(content, dict) else None)


def is_columns(given: object) -> bool:
    """Say whether a reading that somebody wrote names the cells of a line."""
    return isinstance(given, list) and bool(given) and all(isinstance(name, str) for name in given)


def readings_of_columns(source: Mapping[str, Any], noted: Mapping[str, Any] | None) -> list[Sequence[str]]:
    """Return the columns of each table of a source: as `noted`, by its path; UNKNOWN where nothing was noted
    and it may be one.
    """
    if source.get("format") in CONVERSATIONS - set(TABULAR):
        return []
    if noted is not None:
        return list(noted.get(source["path"], ()))
    return [UNKNOWN] if file_type(source["path"]) in (None, *DELIMITERS) else []


def read_table(text: str, readings: Iterable[Reading], kind: str | None = None) -> Iterator[TableText]:
    """Yield what a text is as a table, by each delimiter by which it is one. `kind`: of a file of one."""
    readings = [reading for reading in readings if COLUMNS in reading]
    for delimiter in DELIMITERS.values() if kind is None else [DELIMITERS[kind]]:
        try:
            lines = [cells for _, cells in read_cells(io.StringIO(text.strip(" \r\n"), "\n"), delimiter)]
        except MalformedCells:
            if readings and delimiter in text:
                yield TableText(unsure=("its quotes do not close, so that it may be a part of a row",))
            continue
        if len(lines) == 1 and lines[0] != [text.strip(" \r\n")]:
            yield _line(lines[0], readings)
        elif len(lines) > 1 and len(set(map(len, lines))) == 1:
            yield _lines(lines, readings)


def _lines(lines: list[list[str]], readings: list[Reading]) -> TableText:
    names, *_, last = lines
    named = dict(zip(map(str.strip, names), last, strict=True))
    several = len(last) > 1 and any(len(reading[COLUMNS]) in (0, len(last)) for reading in readings)
    unsure = (f"its {len(lines):,} lines may be as many rows: give one",) if several else ()
    return TableText(len(lines), tuple(last), dict(named), unsure=unsure)


def _line(cells: list[str], readings: list[Reading]) -> TableText:
    rows, orders = list[tuple[dict[str, object], Reading]](), list[tuple[dict[str, object], Reading]]()
    unsure = dict[str, None]()
    for reading in readings:
        columns = tuple(reading[COLUMNS])
        if len(columns) == len(cells):
            rows.append(({name: cell for name, cell in zip(columns, cells, strict=True) if name}, reading))
        for format in _formats(reading) if columns == UNKNOWN else ():
            system = {"system": reading["system"]} if reading.get("system") else {}
            found = _orders(cells, format)
            for order in islice(found, MOST_ORDERS):
                names = {at: name for name, at in order.items()}
                as_read = [names.get(at, "") for at in range(len(cells))]
                there: dict[str, object] = {name: cells[at] for name, at in order.items()}
                orders.append((there, {"format": format, **system, COLUMNS: as_read}))
            if next(found, None) is not None:
                said = f"nothing says which of its {len(cells)} cells a source of format {format} read"
                unsure[f"{said}: give the line that names the columns above it"] = None
    return TableText(1, tuple(cells), None, tuple(rows), tuple(orders), tuple(unsure))


def _formats(reading: Reading) -> Sequence[str]:
    return TABULAR if reading.get("format", "auto") == "auto" else (reading["format"],)


def _orders(cells: Sequence[str], format: str) -> Iterator[dict[str, int]]:
    """Yield name -> which of the cells, of each order of them that may be a row of a format: those that it
    needs first, then with those that it reads where they are there.
    """
    needed, beside = OF_FORMAT[format], BESIDE.get(format, ())
    filled = [at for at, cell in enumerate(cells) if cell.strip()]
    for more in ((), *((name,) for name in beside), *([beside] if len(beside) > 1 else [])):
        names = (*needed, *more)
        for places in permutations(filled, len(names)):
            yield dict(zip(names, places, strict=True))
