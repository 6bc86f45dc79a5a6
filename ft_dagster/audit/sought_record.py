"""Reads which record is asked for: a text, a row, a file of one, or the identity itself."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from ft_dagster.audit.index.judged import name_of, name_of_words
from ft_dagster.data.rows.content import EXACT, normal_text, words_of
from ft_dagster.data.rows.rows import Row, normalize_text, rename
from ft_dagster.data.sources.formats import detect_format
from ft_dagster.data.sources.readers import RawRow
from ft_dagster.errors import UserError
from ft_dagster.files import special_kind
from ft_dagster.spec.data import SourceSpec
from ft_dagster.strict_json import loads

MOST_BYTES = 16_000_000  # of a file that is asked for
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FILE_NAME = re.compile(r"\S+\.(jsonl?|csv|tsv|txt)")  # as nobody writes a text
PLAIN: Mapping[str, Any] = {}
READ_BY = ("format", "fields", "system")  # what of a declared source says how a row of it is read
TRANSFORM = "transform"  # of a declared source: its function, which no way of reading stands for
WHOLE: Mapping[str, Any] = {"as": "text"}  # a row as JSON, read as a document that is this very text


@dataclass(frozen=True)
class SoughtRecord:
    """Describes a sought record. `identities`: what it would be known by: those of a text, of a row as JSON
    those of each way that sources read it, and last those of the text that it is. `alike`: identity 1 of what
    has an identity 2 -> that: what is known by the former may be another record. `said`: how it was given, in
    words without the text. `readings`: by which way of reading a row an identity came; PLAIN of one that is
    not there. `words`: in normal form, as each way reads them; empty for an identity. `questions`: the names
    by which a question is found that is the record, or a text of it. `no_row`: why JSON is no row to any
    source; empty of all else. `rows`: what it is by each reading, a text alone among them; none of an
    identity, nor of a stored row. `bare`: it was given by its identity alone.
    """

    identities: tuple[bytes, ...]
    said: str
    readings: Mapping[bytes, Mapping[str, Any]] = field(default_factory=dict)
    words: tuple[tuple[str, ...], ...] = ()
    questions: tuple[bytes, ...] = ()
    no_row: str = ""
    rows: tuple[Row, ...] = ()
    alike: Mapping[bytes, bytes] = field(default_factory=dict)
    bare: bool = False

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

    def reading(self, identity: bytes) -> Mapping[str, Any]:
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


def parse_record(given: str, readings: Iterable[Mapping[str, Any]] = (PLAIN,)) -> SoughtRecord:
    """Return the record that TEXT, FILE or DIGEST names. `readings`: how declared sources read a row (format,
    fields, system), for one that is given as JSON. Raises UserError for a file that holds no one record.
    """
    if not given.strip():
        raise UserError("no record is given", fix="Give a text, a row as JSON, a file or an identity")
    if _DIGEST.fullmatch(given):
        identity = bytes.fromhex(given)
        return SoughtRecord((identity,), f"identity {given[:12]}", questions=(name_of(identity),), bare=True)
    file = Path(given)
    if len(given) < 4096 and "\0" not in given and _is_there(file):
        return _of_text(_text_of(file), f"file {file}", readings)
    if _FILE_NAME.fullmatch(given):
        fix = """Name one that is there, or give a text of that form as a row: '{"text": "..."}'"""
        raise UserError("no such file", value=given, fix=fix)
    return _of_text(given, "a text", readings)


def _is_there(file: Path) -> bool:
    try:
        return file.exists()
    except OSError:  # a name too long for a file
        return False


def _text_of(file: Path) -> str:
    if special_kind(file) or not file.is_file():
        raise UserError("not a regular file", file=file, fix="Name a file of one record, or give its text")
    if file.stat().st_size > MOST_BYTES:
        fix = f"Give one record, of at most {MOST_BYTES / 1e6:.0f} MB"
        raise UserError("too large to be one record", file=file, fix=fix)
    try:
        text = file.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        fix = "Save the record as UTF-8, or give its identity (64 hexadecimal digits)"
        raise UserError("not UTF-8 text, so no record", file=file, fix=fix) from None
    lines = [line for line in text.splitlines() if line.strip()]
    if file.suffix == ".jsonl" and len(lines) != 1:
        raise UserError(f"{len(lines)} rows, where one record is asked for", file=file, fix="Keep one line")
    return text


def _of_text(text: str, said: str, readings: Iterable[Mapping[str, Any]]) -> SoughtRecord:
    fields = _row(text)
    if fields is None:
        return _as_text(text, said, PLAIN)
    row = _as_row(fields, f"{said}, a row", readings)
    try:
        whole = _as_text(text, said, WHOLE)
    except UserError:
        if row.no_row:
            raise
        return row
    return replace(whole, no_row=row.no_row) if row.no_row else _both(row, whole)


def _as_text(text: str, said: str, reading: Mapping[str, Any]) -> SoughtRecord:
    """Raises UserError for what is not valid Unicode."""
    _refuse_surrogates(text)
    row = Row("text", "", text=text)
    told = tuple(row.words)
    names = (name_of(row.likeness), name_of_words(told))
    readings = dict.fromkeys(row.identities, reading)
    return SoughtRecord(row.identities, said, readings, (told,), names, rows=(row,), alike=_alike(row))


def sought_row(known: StoredRow, said: str) -> SoughtRecord:
    """Return the record of a stored row."""
    identities, questions = known
    alike = dict.fromkeys(identities[1:], identities[0])
    return SoughtRecord(identities, said, questions=questions, alike=alike)


def _alike(row: Row) -> dict[bytes, bytes]:
    return dict.fromkeys(row.identities[1:], row.identity)


def _as_row(fields: dict[str, object], said: str, readings: Iterable[Mapping[str, Any]]) -> SoughtRecord:
    """Read the record as a row; without identities, and with `no_row`, where no way of reading makes a row of
    it.
    """
    found: dict[bytes, Mapping[str, Any]] = {}
    words: dict[tuple[str, ...], None] = {}
    rows: list[Row] = []
    wrong: list[UserError] = []
    for reading, columnar in product((PLAIN, *readings), (False, True)):
        try:
            row = _read(fields, reading, columnar=columnar)
            if columnar and row.identity in found:
                continue
            found |= {one: reading for one in row.identities if one not in found}
            words[tuple(row.words)] = None
            rows.append(row)
        except UserError as error:
            wrong.append(error)
    names = [name for row in rows for name in _names_of(row)]
    asked = dict.fromkeys([*names, *map(name_of_words, _texts_in(fields))])
    no_row = "" if found else wrong[0].problem
    alike = {one: other for row in rows for one, other in _alike(row).items()}
    return SoughtRecord(
        tuple(found), said, found, tuple(words), tuple(asked), no_row, tuple(rows), alike=alike
    )


def _names_of(row: Row) -> tuple[bytes, ...]:
    """Return the names by which a question is found that asks a row, or any that identity 1 does not tell
    from it.
    """
    return name_of(row.likeness), name_of(row.identity_1)


def _both(row: SoughtRecord, whole: SoughtRecord) -> SoughtRecord:
    """Join the two readings of a row that may be a document too."""
    return replace(
        row,
        identities=(*row.identities, *whole.identities),
        readings={**row.readings, **whole.readings},
        words=(*row.words, *whole.words),
        questions=tuple(dict.fromkeys((*row.questions, *whole.questions))),
        rows=(*row.rows, *whole.rows),
        alike={**row.alike, **whole.alike},
    )


def _texts_in(tree: Any) -> Iterator[list[str]]:
    """Yield the words of each text of a row, however deep."""
    if isinstance(tree, str):
        yield words_of(normal_text(tree))
    for below in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _texts_in(below)


def _row(text: str) -> dict[str, object] | None:
    """Return the fields of a text that is a JSON object; None of any other."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        content = loads(text)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _read(fields: dict[str, object], reading: Mapping[str, Any], *, columnar: bool) -> Row:
    """Read a row as every version read it: a store may hold rows of which fields were left out, which are
    refused by now. `columnar`: as a file of columns has it.
    """
    raw = RawRow(fields, "the row", 1, columnar)
    try:
        source = SourceSpec(path="the row", **reading)
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


def reading_of(source: Mapping[str, Any]) -> str:
    """Return how a declared source reads its rows, as JSON: what of it shapes their content."""
    kept = {name: source[name] for name in READ_BY if source.get(name)}
    return json.dumps(kept, sort_keys=True)
