"""Stream the rows of one data file: JSONL, JSON list, CSV, Parquet, Arrow; never the whole file at once.

The one exception is a `.json` file that holds a list: JSON has no way to read half of it, so it is
loaded whole. For anything large, use JSONL or Parquet.

An error names file, line and columns, and never quotes a row: what Dagster logs is kept for good.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from fsspec.implementations.local import LocalFileSystem

from ft_dagster.data.sources.json_faults import fault_of_json
from ft_dagster.data.sources.locations import DataFile
from ft_dagster.errors import UserError
from ft_dagster.extras import of_train

BATCH = 512  # rows of a columnar file held as Python objects at a time
LONGEST_CELL = 64_000_000  # characters of one CSV cell: an unclosed quote must not swallow a large file
LONGEST_LINE = 64_000_000  # bytes of a line of text: a gzip of 3 MB may hold one of 3 GB
LARGEST_LIST = 256_000_000  # bytes of a JSON list, which is read whole
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)
BLANK = b"\xef\xbb\xbf \t\r\n"  # what may stand before the text of a file
DELIMITERS = {"csv": ",", "tsv": "\t"}  # by type of file
MOST_COLUMNS, LONGEST_NAME = 20, 40  # of the columns that an error names


class RawRow(NamedTuple):
    """Is a row as the file has it. `line` counts from 1: the line of a text file, the row of any other.
    `columnar`: of a file of columns, which gives each object the names of all others, as nulls. `delimited`:
    of a file of delimited cells.
    """

    fields: dict[str, object]
    file: str
    line: int
    columnar: bool = False
    delimited: bool = False

    def error(self, problem: str, fix: str, *, field: str | None = None, value: object = None) -> UserError:
        """Return an error that names the row's file and line. `value`: of the declaration. Of a cell say its
        `kind_of`, of the row its `columns_of`.
        """
        return UserError(problem, fix=fix, file=self.file, line=self.line, field=field, value=value)

    def lacks(self, problem: str, fix: str, *, field: str, value: object = None) -> UserError:
        """Return an error, as `error` does, of columns that the row lacks."""
        return LackedColumns(problem, fix=fix, file=self.file, line=self.line, field=field, value=value)


class LackedColumns(UserError):
    """Signals columns that a row lacks: where all rows of a file lack them, the file does."""


def kind_of(cell: object) -> str:
    """Say what stands in a cell, without its text."""
    if isinstance(cell, str):
        return f"a text of {len(cell):,} characters" if cell else "an empty text"
    if isinstance(cell, list):
        return f"a list of {len(cell):,}" if cell else "an empty list"
    if isinstance(cell, bool | int | float):
        return "true or false" if isinstance(cell, bool) else "a number"
    return "null" if cell is None else "an object" if isinstance(cell, Mapping) else type(cell).__name__


def columns_of(fields: Iterable[object]) -> str:
    """Return the names of a row's columns, as an error says them."""
    names = [name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}..." for name in map(str, fields)]
    more = [f"{len(names) - MOST_COLUMNS} more"] if len(names) > MOST_COLUMNS else []
    return ", ".join([*names[:MOST_COLUMNS], *more]) or "nothing"


def read_file(file: DataFile) -> Iterator[RawRow]:
    """Yield every row of a data file. Raises UserError for a malformed row and for a file without rows."""
    empty = True
    for row in READERS[file.type](file):
        empty = False
        yield row
    if empty:
        raise UserError("the file holds no rows", file=file.name, fix="Put rows into it, or leave it out")


@contextmanager
def _open(file: DataFile) -> Iterator[io.BufferedIOBase]:
    with _opened(file) as raw, io.BufferedReader(raw, 1 << 20) as buffered:
        if file.gzipped:
            with gzip.open(buffered) as content:
                yield content
        else:
            yield buffered


def _opened(file: DataFile) -> Any:
    try:
        opened = file.fs.open(file.path, "rb")
    except PermissionError as error:
        if not isinstance(file.fs, LocalFileSystem):
            raise  # said with what S3 needs
        fix = "Let the user that runs ft-dagster read it"
        raise UserError(f"cannot be read: {error.strerror}", file=file.name, fix=fix) from None
    if file.roots is not None:
        file.roots.check_opened(opened.fileno(), file.path)
    return opened


def _lines(file: DataFile, longest: int = LONGEST_LINE) -> Iterator[tuple[int, str]]:
    """Yield (number, text) of every line, its line break kept. No more than `longest` bytes of one are
    read.
    """
    number = 0
    with _open(file) as content:
        try:
            for number, line in enumerate(iter(partial(content.readline, longest + 1), b""), 1):
                if len(line) > longest:
                    raise _too_long(file, number, longest)
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise UserError("not UTF-8 text", file=file.name, line=number, fix="Save it as UTF-8") from None
        except DAMAGED:
            raise _damaged_gzip(file, number + 1) from None


def _damaged_gzip(file: DataFile, line: int) -> UserError:
    return UserError("damaged gzip file", file=file.name, line=line, fix="Compress it again")


def _too_long(file: DataFile, line: int, longest: int) -> UserError:
    fix = "Put each row on a line of its own, and long texts into several rows"
    return UserError(f"a line of more than {longest:,} bytes", file=file.name, line=line, fix=fix)


def _read_jsonl(file: DataFile) -> Iterator[RawRow]:
    for number, line in _lines(file):
        if line.strip():
            yield _parsed(file, number, line)


def _parsed(file: DataFile, number: int, line: str) -> RawRow:
    try:
        fields = json.loads(line, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        what, fix = fault_of_json(error, line)
        raise UserError(f"malformed line: {what}", file=file.name, line=number, fix=fix) from None
    return _object(file, number, fields)


class _GivenTwice(ValueError):
    msg = "a field is given twice"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, object]:
    """Make an object of JSON from its fields. Raises ValueError where the last of two fields of one name
    would be read alone.
    """
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise _GivenTwice
    return fields


def _object(file: DataFile, number: int, fields: Any) -> RawRow:
    if not isinstance(fields, dict):
        fix = "Each row is a JSON object with named fields"
        if isinstance(fields, list) and file.type == "jsonl":
            fix = "Name the file .json where it is one list of rows: a line of .jsonl is one JSON object"
        problem = f"malformed row: not an object but {kind_of(fields)}"
        raise UserError(problem, file=file.name, line=number, fix=fix)
    return RawRow(fields, file.name, number)


def _read_json(file: DataFile) -> Iterator[RawRow]:
    """Read a `.json` file: a list of objects, or JSON lines under another name."""
    if not _begins_with_bracket(file):
        yield from _read_jsonl(file)
        return
    lines, held = list[str](), 0
    for _, part in _lines(file, LARGEST_LIST):
        held += len(part)
        if held > LARGEST_LIST:
            fix = "Write one object a line instead, as .jsonl"
            problem = f"a JSON list of more than {LARGEST_LIST:,} bytes, which would be read whole"
            raise UserError(problem, file=file.name, fix=fix)
        lines.append(part)
    text = "".join(lines)
    try:
        rows = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        (what, fix), at = fault_of_json(error, text), getattr(error, "lineno", None)
        raise UserError(f"malformed JSON: {what}", file=file.name, line=at, fix=fix) from None
    for number, fields in enumerate(rows, 1):
        yield _object(file, number, fields)


def _begins_with_bracket(file: DataFile) -> bool:
    with _open(file) as content:
        try:
            pieces = iter(partial(content.read, 1 << 16), b"")
            return next(filter(None, (piece.lstrip(BLANK) for piece in pieces)), b"").startswith(b"[")
        except DAMAGED:
            raise _damaged_gzip(file, 1) from None


def _read_csv(file: DataFile, delimiter: str = DELIMITERS["csv"]) -> Iterator[RawRow]:
    header: list[str] | None = None
    first = True
    try:
        for number, cells in read_cells((line for _, line in _lines(file)), delimiter):
            if header is None:
                header = _header(file, cells)
                continue
            if first:
                first = False
                _refuse_separator(file, header, cells, delimiter)
            if len(cells) != len(header):
                problem = f"malformed line: {len(cells)} cells under {len(header)} columns"
                fix = "Quote cells that hold a comma or a line break"
                raise UserError(problem, file=file.name, line=number, fix=fix)
            yield RawRow(dict(zip(header, cells, strict=True)), file.name, number, delimited=True)
    except MalformedCells as error:
        fix = "Mend the quotes of this line"
        raise UserError(f"malformed line: {error}", file=file.name, line=error.line, fix=fix) from None


class MalformedCells(ValueError):
    """Signals cells whose quotes are wrong, in the record that begins at a line."""

    def __init__(self, problem: str, line: int) -> None:
        super().__init__(problem)
        self.line = line


def read_cells(lines: Iterable[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of its first line, cells) of each record of delimited text. Raises MalformedCells."""
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    start = 1
    try:
        for cells in reader:
            number, start = start, reader.line_num + 1
            if cells:
                yield number, cells
    except csv.Error as error:
        unclosed = str(error) == "unexpected end of data"
        raise MalformedCells("a quote is never closed" if unclosed else str(error), start) from None


SEPARATORS = {"\t": "tabs", ";": "semicolons", "|": "bars", ",": "commas"}  # the likeliest first


def _refuse_separator(file: DataFile, header: list[str], cells: list[str], delimiter: str) -> None:
    """Raise UserError where the one column of a table is several, parted by another separator in its name as
    in the first row. A text of a later row may have as many.
    """
    if len(header) > 1:
        return
    [name], row, right = header, delimiter.join(cells), SEPARATORS[delimiter]
    parted = (each for each in SEPARATORS if each != delimiter and each in name)
    if (other := next((each for each in parted if row.count(each) == name.count(each)), None)) is not None:
        named = next((suffix for suffix, each in DELIMITERS.items() if each == other), None)
        fix = f"Name it .{named}" if named else f"Save it with {right} between the columns"
        problem = f"its columns are separated by {SEPARATORS[other]}, not by {right}"
        raise UserError(problem, file=file.name, line=1, fix=fix)


def _header(file: DataFile, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        fix = "The first line names each column once; where it is a row, put a line of names above it"
        raise UserError(f"two columns of one name: {columns_of([double])}", file=file.name, line=1, fix=fix)
    return names


def _read_tsv(file: DataFile) -> Iterator[RawRow]:
    return _read_csv(file, DELIMITERS["tsv"])


def _read_parquet(file: DataFile) -> Iterator[RawRow]:
    with of_train():
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile

    with _open(file) as content:
        if not content.read(1):
            return
        content.seek(0)
        try:
            table = ParquetFile(content, buffer_size=1 << 20, pre_buffer=False)
            batches = table.iter_batches(batch_size=BATCH)
            yield from _rows(file, batches)
        except pa.ArrowInvalid as error:
            raise _damaged(file, error) from None


def _read_arrow(file: DataFile) -> Iterator[RawRow]:
    """Read both of Arrow's IPC layouts: the file (starts with ARROW1) and the stream (what `datasets`
    writes).
    """
    with of_train():
        import pyarrow as pa

    with _open(file) as content:
        magic = content.read(6)
        content.seek(0)
        if not magic:
            return
        try:
            if magic == b"ARROW1":
                table = pa.ipc.open_file(content)
                yield from _rows(file, (table.get_batch(i) for i in range(table.num_record_batches)))
            else:
                yield from _rows(file, pa.ipc.open_stream(content))
        except pa.ArrowInvalid as error:
            raise _damaged(file, error) from None


def _rows(file: DataFile, batches: Any) -> Iterator[RawRow]:
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, BATCH):
            try:
                rows = batch.slice(start, BATCH).to_pylist()
            except UnicodeDecodeError:
                fix = "Write the file again, its texts as UTF-8"
                problem = f"a text that is not UTF-8 in the {BATCH} rows from here"
                raise UserError(problem, file=file.name, line=number + 1, fix=fix) from None
            for fields in rows:
                number += 1
                yield RawRow(fields, file.name, number, columnar=True)


def _damaged(file: DataFile, error: Exception) -> UserError:
    first = str(error).splitlines()[0].rstrip(".")
    return UserError(f"not a whole {file.type} file: {first}", file=file.name, fix="Write the file again")


READERS: dict[str, Callable[[DataFile], Iterator[RawRow]]] = {
    "jsonl": _read_jsonl,
    "json": _read_json,
    "csv": _read_csv,
    "tsv": _read_tsv,
    "parquet": _read_parquet,
    "arrow": _read_arrow,
}
