"""Reads which record is asked for: a text, a row, a file of one, or the identity itself."""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, product
from pathlib import Path
from typing import IO, Any, NamedTuple

from pydantic import ValidationError

from ft_dagster.audit.index.judged import LABEL, LEAST, name_of, name_of_words
from ft_dagster.audit.search.inside import as_written
from ft_dagster.audit.sought_lines import COLUMNS, Reading, TableText, read_json, read_table
from ft_dagster.data.rows.content import EXACT, normal_text, words_of
from ft_dagster.data.rows.rows import Row, normalize_text, rename
from ft_dagster.data.rows.sources import read_raw
from ft_dagster.data.sources.formats import FILED, detect_format
from ft_dagster.data.sources.locations import file_type
from ft_dagster.data.sources.readers import DELIMITERS, RawRow
from ft_dagster.errors import UserError
from ft_dagster.files import special_kind
from ft_dagster.spec.data import SourceSpec

MOST_BYTES = 16_000_000  # of a file that is asked for
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FILE_NAME = re.compile(r"\S+\.(jsonl?|csv|tsv|txt)")  # as nobody writes a text
STDIN = "-"
MOST_RECORDS = 10_000  # of a file of several
MOST_NAME = 4096  # characters of a file's name
MOST_LINES = 100  # of a text that may be turns of a row
FILING = ("role", "from", "type", *FILED)  # names of JSON under which nothing is said
TEXT_FILES = ("jsonl", "json", *DELIMITERS)  # a record of these is read as a text
PLAIN: Reading = {}
READ_BY = ("format", "fields", "system")  # what of a declared source says how a row of it is read
TRANSFORM = "transform"  # of a declared source: its function, which no way of reading stands for
WHOLE: Reading = {"as": "text"}  # a row as JSON, read as a document that is this very text


@dataclass(frozen=True)
class SoughtRecord:
    """Describes a sought record. `identities`: what it would be known by: those of a text, of a row as JSON
    those of each way that sources read it, and last those of the text that it is. `alike`: identity 1 of what
    has an identity 2 -> that: what is known by the former may be another record. `said`: how it was given, in
    words without the text. `readings`: by which way of reading a row an identity came; PLAIN of one that is
    not there. `words`: in normal form, as each way reads them; empty for an identity. `questions`: the names
    by which a question is found that is the record, or a text of it. `no_row`: why JSON is no row to any
    source; empty of all else. `rows`: what it is by each reading, a text alone among them; none of an
    identity, nor of a stored row; `texts`: of these, those that stand in what contains it. `bare`: it was
    given by its identity alone. `unsure`: why it may be a record in a further way.
    """

    identities: tuple[bytes, ...]
    said: str
    readings: Mapping[bytes, Reading] = field(default_factory=dict)
    words: tuple[tuple[str, ...], ...] = ()
    questions: tuple[bytes, ...] = ()
    no_row: str = ""
    rows: tuple[Row, ...] = ()
    texts: tuple[tuple[str, ...], ...] = ()
    alike: Mapping[bytes, bytes] = field(default_factory=dict)
    bare: bool = False
    unsure: tuple[str, ...] = ()

    @property
    def exactly(self) -> SoughtRecord:
        """Return it as what no other record is known by."""
        return self._known_by(self.alike.keys())

    def known_in(self, form: int) -> tuple[bytes, ...]:
        """Return what it would be known by where identities are of this form or older."""
        return self.identities if form >= EXACT else self._known_by(self.alike.values()).identities

    def _known_by(self, others: Collection[bytes]) -> SoughtRecord:
        left = tuple(one for one in self.identities if one not in others)
        return replace(self, identities=left, alike={})

    def reading(self, identity: bytes) -> Reading:
        return self.readings.get(identity, PLAIN)


class StoredRow(NamedTuple):
    """Is what a stored row is known by: `Row.identities`, and the names by which a question is found that
    asks it.
    """

    identities: tuple[bytes, ...]
    questions: tuple[bytes, ...]

    @classmethod
    def of(cls, row: Row) -> StoredRow:
        return cls(row.identities, _names_of(row))


def parse_record(given: str, readings: Iterable[Reading] = (PLAIN,)) -> SoughtRecord:
    """Return the record that TEXT, FILE, DIGEST or `-` (standard input) names. `readings`: how declared
    sources read a row (format, fields, system), for one that is given as JSON, and a line of their tables
    (columns). Raises UserError for a file that holds no one record.
    """
    readings = tuple(readings)
    if _DIGEST.fullmatch(given):
        identity = bytes.fromhex(given)
        return SoughtRecord((identity,), f"identity {given[:12]}", questions=(name_of(identity),), bare=True)
    if given == STDIN:
        return _of_text(_decoded(sys.stdin.buffer, "standard input"), "a text", readings)
    file = Path(given)
    if given.strip() and len(given) < MOST_NAME and "\0" not in given and _is_there(file):
        return _of_file(file, f"file {file}", readings)
    if _FILE_NAME.fullmatch(given):
        fix = """Name one that is there, or give a text of that form as a row: '{"text": "..."}'"""
        raise UserError("no such file", value=given, fix=fix)
    return _of_text(given, "a text", readings)


def parse_text(given: str, readings: Iterable[Reading] = (PLAIN,)) -> SoughtRecord:
    """Return the text that a file, or `-` (standard input), has, as `parse_record` does. Raises UserError for
    what is no file.
    """
    if given != STDIN and (len(given) >= MOST_NAME or "\0" in given or not _is_there(Path(given))):
        fix = "Name a file with the text, or `-` and give it on standard input: no text stands in a command"
        raise UserError("no such file", field="--contains", fix=fix)  # which may be a text: not repeated
    return parse_record(given, readings)


def parse_records(given: str, readings: Iterable[Reading] = (PLAIN,)) -> list[SoughtRecord]:
    """Return the records of FILE, or of `-` (standard input): one a line, each a row as JSON, a text or an
    identity; of a file of another kind that sources may have, its rows. `said` names the line, or the row.
    Raises UserError for what is no file, and for a line that is no record.
    """
    readings = tuple(readings)
    if given == STDIN:
        return _of_lines(_decoded(sys.stdin.buffer, "standard input"), "standard input", readings)
    file = Path(given)
    if len(given) >= MOST_NAME or "\0" in given or not _is_there(file):
        fix = "Name a file of records, or `-` and give them on standard input: no text stands in a command"
        raise UserError("no such file", field="FILE", fix=fix)  # which may be a text: it is not repeated
    if special_kind(file) or not file.is_file():
        raise UserError("not a regular file", file=file, fix="Name a file of records")
    kind = file_type(str(file))
    if kind not in (None, "jsonl"):
        rows = read_raw(SourceSpec(path=str(file.absolute())), file.parent)
        numbered = enumerate(islice(rows, MOST_RECORDS + 1), start=1)
        found = [_as_row(row.fields, f"row {number} of {file}", readings) for number, row in numbered]
        wrong = next((one for one in found if one.no_row), None)
        if wrong is not None:
            raise UserError(f"{wrong.said} is no row: {wrong.no_row}", file=file, fix="Give it as JSON")
        return _refuse_many(found, file)
    with file.open("rb") as content:
        return _of_lines(_decoded(content, file), str(file), readings)


def _of_lines(text: str, named: str, readings: Sequence[Reading]) -> list[SoughtRecord]:
    lines = enumerate(text.removeprefix("\ufeff").splitlines(), start=1)
    given = [(f"line {number} of {named}", line.strip()) for number, line in lines if line.strip()]
    found = []
    for said, line in given[: MOST_RECORDS + 1]:
        if _DIGEST.fullmatch(line):
            identity = bytes.fromhex(line)
            found.append(SoughtRecord((identity,), said, questions=(name_of(identity),), bare=True))
        else:
            found.append(_of_text(line, said, readings))
    return _refuse_many(found, named)


def _refuse_many(found: list[SoughtRecord], file: object) -> list[SoughtRecord]:
    if not found:
        raise UserError("no record is given", file=file, fix="Give one a line")
    if len(found) > MOST_RECORDS:
        raise UserError(f"more than {MOST_RECORDS:,} records", file=file, fix="Give them in parts")
    return found


def _is_there(file: Path) -> bool:
    try:
        return file.exists()
    except OSError:  # a name too long for a file
        return False


def _of_file(file: Path, said: str, readings: Sequence[Reading]) -> SoughtRecord:
    if special_kind(file) or not file.is_file():
        raise UserError("not a regular file", file=file, fix="Name a file of one record, or give its text")
    kind = file_type(str(file))
    if kind is not None and (kind not in TEXT_FILES or file.suffix == ".gz"):
        rows = list(islice(read_raw(SourceSpec(path=str(file.absolute())), file.parent), 2))
        if len(rows) > 1:
            raise _several("more than one row", file)
        return _as_row(rows[0].fields, f"{said}, a row", readings)
    with file.open("rb") as content:
        text = _decoded(content, file)
    lines = [line for line in text.splitlines() if line.strip()]
    if kind == "jsonl" and len(lines) != 1:
        raise _several(f"{len(lines)} rows", file)
    return _of_text(text, said, readings, file, kind if kind in DELIMITERS else None)


def _several(how_many: str, file: object) -> UserError:
    fix = "Keep one, in a table below the line that names its columns"
    return UserError(f"{how_many}, where one record is asked for", file=file, fix=fix)


def _decoded(opened: IO[bytes], file: object) -> str:
    content = opened.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        fix = f"Give one record, of at most {MOST_BYTES / 1e6:.0f} MB"
        raise UserError("too large to be one record", file=file, fix=fix)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        fix = "Save the record as UTF-8, or give its identity (64 hexadecimal digits)"
        raise UserError("not UTF-8 text, so no record", file=file, fix=fix) from None


def _of_text(
    text: str, said: str, readings: Sequence[Reading], file: Path | None = None, table: str | None = None
) -> SoughtRecord:
    """Return the record that a text is: a row as JSON, a row of a table, and the text itself. `table`: which
    kind its file is, where that is one.
    """
    text = text.removeprefix("\ufeff")
    if not text.strip():
        raise UserError("no record is given", fix="Give a text, a row as JSON, a file or an identity")
    given = read_json(text)
    if given.row is not None:
        row = _as_row_within(given.row, f"{said}, a row", readings)
        if row.no_row and given.as_cells is not None and any(COLUMNS in one for one in readings):
            cells = _as_row(given.as_cells, f"{said}, a row", readings)
            row = row if cells.no_row else cells
        try:
            whole = _as_text(text, said, WHOLE)
        except UserError:
            if row.no_row:
                raise
            return row
        if row.no_row:
            texts = (*whole.texts, tuple(_said_in(given.row)))
            return replace(whole, no_row=row.no_row, texts=tuple(dict.fromkeys(filter(None, texts))))
        return _both(row, whole)
    pieces = tuple(dict.fromkeys(_pieces_of(text)))
    found = replace(_as_text(text, said, PLAIN), unsure=given.unsure, texts=pieces)
    if given.text:
        found = _both(_as_text(given.text, said, PLAIN), found)
    for one in read_table(text, readings, table):
        found = _both(_as_line(one, said, readings, file if table else None), found)
    return found


def _pieces_of(text: str) -> Iterator[tuple[str, ...]]:
    """Yield texts that all stand in what contains a text: itself, however it is written; of several lines,
    which turns of a row may be, each without its label.
    """
    yield from ((one,) for one in as_written(text))
    lines = [LABEL.sub("", line).strip() for line in text.replace("\t", "\n").split("\n")]
    lines = list(dict.fromkeys(filter(None, lines)))
    if 1 < len(lines) <= MOST_LINES and any(len(words_of(normal_text(line))) >= LEAST for line in lines):
        yield tuple(lines)


def _as_line(one: TableText, said: str, readings: Sequence[Reading], file: Path | None) -> SoughtRecord:
    """Return the record that a text is as a row of a table; without identities where it is none."""
    row = _as_row(one.named, said, readings) if one.named is not None else SoughtRecord((), said)
    if one.lines > 1:
        if row.identities and one.lines == 2:
            return row
        if row.identities or file is not None:
            raise _several(f"{one.lines - bool(row.identities):,} rows", file)
        return SoughtRecord((), said, unsure=one.unsure)
    known, tried = (
        _as_rows(((*each, False) for each in rows), one.cells, said) for rows in (one.rows, one.orders)
    )
    if tried.identities:  # each has its texts from the same cells
        filled = tuple(cell for cell in one.cells if cell.strip())
        words = tuple(words_of(normal_text("\n".join(filled))))
        tried = replace(tried, words=(words,), texts=(filled,))
    return replace(_both(known, tried), no_row="", unsure=one.unsure)


def _as_text(text: str, said: str, reading: Reading) -> SoughtRecord:
    """Raises UserError for what is not valid Unicode."""
    _refuse_surrogates(text)
    row = Row("text", "", text=text)
    told = tuple(row.words)
    names = (name_of(row.likeness), name_of_words(told))
    readings = dict.fromkeys(row.identities, reading)
    return SoughtRecord(
        row.identities, said, readings, (told,), names, "", (row,), _texts_of([row]), _alike(row)
    )


def sought_row(known: StoredRow, said: str) -> SoughtRecord:
    """Return the record of a stored row."""
    identities, questions = known
    alike = dict.fromkeys(identities[1:], identities[0])
    return SoughtRecord(identities, said, questions=questions, alike=alike)


def _alike(row: Row) -> dict[bytes, bytes]:
    return dict.fromkeys(row.identities[1:], row.identity)


def _as_row_within(fields: Mapping[str, object], said: str, readings: Iterable[Reading]) -> SoughtRecord:
    """Read the record as a row, or as the one that it holds beside what is said of it."""
    held = [one for one in fields.values() if isinstance(one, dict)]
    rows = [_as_row(one, said, readings) for one in (fields, *held)]
    return next((row for row in rows if not row.no_row), rows[0])


def _as_row(fields: Mapping[str, object], said: str, readings: Iterable[Reading]) -> SoughtRecord:
    """Read the record as a row; without identities, and with `no_row`, where no way of reading makes a row of
    it.
    """
    plain = [reading for reading in (PLAIN, *readings) if COLUMNS not in reading]
    ways = ((fields, reading, columnar) for reading, columnar in product(plain, (False, True)))
    return _as_rows(ways, fields, said)


def _as_rows(
    ways: Iterable[tuple[Mapping[str, object], Reading, bool]], tree: Any, said: str
) -> SoughtRecord:
    """Read the record as a row in several ways, each (fields, reading, whether a file of columns has it).
    `tree`: all that it says.
    """
    found: dict[bytes, Reading] = {}
    words: dict[tuple[str, ...], None] = {}
    rows: list[Row] = []
    wrong: list[UserError] = []
    for fields, reading, columnar in ways:
        try:
            row = _read(dict(fields), reading, columnar=columnar)
            if columnar and row.identity in found:
                continue
            found |= {one: reading for one in row.identities if one not in found}
            words[tuple(row.words)] = None
            rows.append(row)
        except UserError as error:
            wrong.append(error)
    names = [name for row in rows for name in _names_of(row)]
    asked = dict.fromkeys([*names, *map(name_of_words, _texts_in(tree))])
    no_row = wrong[0].problem if wrong and not found else ""
    alike = {one: other for row in rows for one, other in _alike(row).items()}
    return SoughtRecord(
        tuple(found), said, found, tuple(words), tuple(asked), no_row, tuple(rows), _texts_of(rows), alike
    )


def _texts_of(rows: Iterable[Row]) -> tuple[tuple[str, ...], ...]:
    """Return the texts of each row; its system turn, which an application may put before it, is none."""
    turns = (tuple(text for role, text in row.parts if role != "system") for row in rows)
    return tuple(dict.fromkeys(turns))


def _said_in(tree: Any) -> Iterator[str]:
    """Yield the texts of JSON that is no row, but those that only file it."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, list):
        yield from (text for below in tree for text in _said_in(below))
    elif isinstance(tree, dict):
        yield from (text for name, below in tree.items() if name not in FILING for text in _said_in(below))


def _names_of(row: Row) -> tuple[bytes, ...]:
    """Return the names by which a question is found that asks a row, or any that identity 1 does not tell
    from it.
    """
    return name_of(row.likeness), name_of(row.identity_1)


def _both(row: SoughtRecord, whole: SoughtRecord) -> SoughtRecord:
    """Join the two readings of a record, each text and identity once."""

    def joined(*both: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(itertools.chain(*both)))

    return replace(
        row,
        identities=joined(row.identities, whole.identities),
        readings={**whole.readings, **row.readings},
        words=joined(row.words, whole.words),
        questions=joined(row.questions, whole.questions),
        rows=(*row.rows, *whole.rows),
        texts=joined(row.texts, whole.texts),
        alike={**row.alike, **whole.alike},
        unsure=joined(row.unsure, whole.unsure),
    )


def _texts_in(tree: Any) -> Iterator[list[str]]:
    """Yield the words of each text of a row, however deep."""
    if isinstance(tree, str):
        yield words_of(normal_text(tree))
    for below in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ():
        yield from _texts_in(below)


def _read(fields: dict[str, object], reading: Reading, *, columnar: bool) -> Row:
    """Read a row as every version read it: a store may hold rows of which fields were left out, which are
    refused by now. `columnar`: as a file of columns has it.
    """
    raw = RawRow(fields, "the row", 1, columnar)
    declared = {name: said for name, said in reading.items() if name != COLUMNS}
    try:
        source = SourceSpec(path="the row", **declared)
    except ValidationError:
        raise UserError("a source that is read otherwise today", fix="Give the row's identity") from None
    named, format = rename(raw, source.fields, "row"), str(source.format)
    if format == "auto":
        format = detect_format(raw, named, "row")
    return normalize_text(raw, named, source, format, ordinal=0, field="row")


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        fix = "Give it as UTF-8, in a file, or by its identity"
        raise UserError("not valid Unicode, so no record", fix=fix) from None


def readings_of(source: Mapping[str, Any]) -> Iterator[str]:
    """Yield how a declared source reads its rows, as JSON: what of it shapes their content; then how it reads
    a line of each of its tables.
    """
    kept = {name: source[name] for name in READ_BY if source.get(name)}
    yield json.dumps(kept, sort_keys=True)
    for columns in source.get(COLUMNS, ()):
        yield json.dumps({**kept, COLUMNS: columns}, sort_keys=True)
