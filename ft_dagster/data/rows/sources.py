"""Stream the rows of a declared source, wherever it lies: as they are, or checked and normalized."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import takewhile
from pathlib import Path

from ft_dagster.data.rows.rows import Row, normalize_text, rename
from ft_dagster.data.sources.formats import detect_format, refuse_unlearned, refuse_unrendered
from ft_dagster.data.sources.hub import hub_errors, pin_revision
from ft_dagster.data.sources.locations import NOWHERE, DeclaredAt, data_files, is_hub, s3_errors
from ft_dagster.data.sources.plain_sets import foreign_files, media_columns
from ft_dagster.data.sources.readers import LackedColumns, RawRow, read_file
from ft_dagster.data.sources.transform import transformed
from ft_dagster.errors import UserError
from ft_dagster.extras import of_train
from ft_dagster.spec.data import SourceSpec, TenantSource

Columns = dict[str, list[list[str]]]  # declared path -> the columns of its tables, in order, each once
MOST_COUNTED = 20_000  # rows of a file that are read to count those with one mistake
NAMED = 5  # of them


def read_rows(
    source: SourceSpec,
    project: Path,
    asked: DeclaredAt = NOWHERE,
    formats: dict[str, str] | None = None,
    columns: Columns | None = None,
) -> Iterator[Row]:
    """Yield the checked, normalized rows of a source; its format is told by the first one and noted in
    `formats`, its columns in `columns`; see `noting_columns`.

    Raises UserError for a missing source, an empty file, a malformed row, and one that says what nothing
    renders, or of which it is not said what a tenant's variant learns. The error of a row says how many more
    of its file have it.
    """
    format, unsaid = str(source.format), False
    read = noting_columns(read_raw(source, project, asked), source, project, columns)
    if isinstance(source, TenantSource) and source.transform is not None:
        read = transformed(read, source.transform, project, asked)

    def checked(ordinal: int, raw: RawRow) -> Row:
        nonlocal format, unsaid
        fields = rename(raw, source.fields, asked.field)
        if format == "auto":
            format = detect_format(raw, fields, asked.field)
            said = not isinstance(source, TenantSource) or {"text", "content"} & source.fields.keys()
            unsaid = format == "text" and not said
        if unsaid:
            refuse_unlearned(raw, fields, asked.field)
        if formats is not None:
            formats[source.path] = format
        refuse_unrendered(raw, fields, format)
        return normalize_text(raw, fields, source, format, ordinal=ordinal, field=asked.field)

    file, before = "", 0
    for ordinal, raw in enumerate(read):
        file, before = raw.file, before + 1 if raw.file == file else 0
        try:
            row = checked(ordinal, raw)
        except UserError as error:
            more = iter(()) if is_hub(source, project) else read
            raise _with_count(error, raw, before, more, partial(checked, ordinal)) from None
        yield row


def _with_count(
    error: UserError, first: RawRow, before: int, more: Iterator[RawRow], check: Callable[[RawRow], Row]
) -> UserError:
    """Return the error of a row with how many rows of its file have it, and which are the first; of columns
    that all of them lack, that of the file. `before`: rows of the file before it; `more`: those that follow,
    of which MOST_COUNTED are read.
    """
    lines, number, ended = [first.line], before + 1, False
    with suppress(UserError):  # of a file that cannot be read further
        for raw in takewhile(lambda row: row.file == first.file, more):
            if number >= MOST_COUNTED:
                break
            number += 1
            try:
                check(raw)
            except UserError as other:
                lines += [raw.line] if _is_same(error, other) else []
        else:
            ended = True
    if len(lines) == 1:
        return error
    whole = ended or first.delimited or first.columnar  # of a table the header says it for all rows
    if isinstance(error, LackedColumns) and len(lines) == number and whole:
        return UserError(error.problem, fix=error.fix, file=error.file, field=error.field, value=error.value)
    read = f"{number:,} rows" if ended else f"the first {number:,} rows"
    unit, named = "rows" if first.columnar else "lines", ", ".join(map(str, lines[:NAMED]))
    those = f"{unit} {named}" if len(lines) <= NAMED else f"the first in {unit} {named}"
    problem = f"{error.problem}; {len(lines):,} of {read} of the file have this fault: {those}"
    return UserError(
        problem, fix=error.fix, file=error.file, line=error.line, field=error.field, value=error.value
    )


def _is_same(error: UserError, other: UserError) -> bool:
    """Say whether two rows have the same fault: rows that lack columns, where they lack the same one."""
    lacks = isinstance(error, LackedColumns)
    return other.problem == error.problem and (not lacks or other.field == error.field)


def noting_columns(
    read: Iterator[RawRow], source: SourceSpec, project: Path, columns: Columns | None
) -> Iterator[RawRow]:
    """Yield the rows, and note which columns stand in each file of delimited cells, or of the hub, which may
    be such: by them a line of it is read.
    """
    last, hub = None, is_hub(source, project)
    for raw in read:
        if columns is not None and raw.file != last and (raw.delimited or hub):
            known, names = columns.setdefault(source.path, []), list(raw.fields)
            known += [] if names in known else [names]
        last = raw.file
        yield raw


def read_raw(source: SourceSpec, project: Path, asked: DeclaredAt = NOWHERE) -> Iterator[RawRow]:
    """Yield every row of a source, file by file in order of name; memory holds one batch of one file.

    Raises UserError for a missing source, an empty file and a malformed row.
    """
    if is_hub(source, project):
        yield from read_hub(source, asked)
        return
    for file in data_files(source, project, asked):
        with s3_errors(source.path, asked):
            yield from read_file(file)


def read_hub(source: SourceSpec, asked: DeclaredAt = NOWHERE) -> Iterator[RawRow]:
    """Yield the rows of a split of a hub data set, streamed at a pinned commit.

    Raises UserError for one that the hub does not have, and for other than plain rows of its own files.
    """
    with of_train():
        from datasets import load_dataset_builder
        from datasets.exceptions import DatasetNotFoundError

    asked.check_hub(source.path)
    field = f"{asked.field}.path"
    commit = pin_revision(
        source.path, source.revision, "dataset", file=asked.file, field=field, bound=asked.lists_hub
    )
    with hub_errors(source.path, "data set", file=asked.file, field=field):
        try:
            builder = load_dataset_builder(source.path, revision=commit)
            wrong = foreign_files(builder, named=False, commit=commit)
            if wrong is not None:
                raise asked.error(wrong, source.path, "Name a data set of plain files of rows")
            rows = builder.as_streaming_dataset(split=source.split)
        except DatasetNotFoundError:
            fix = "Check the name, the revision and HF_TOKEN"
            raise asked.error("the hub has no such data set", source.path, fix) from None
        except ValueError as error:
            raise asked.error(
                str(error).splitlines()[0], source.split, "Name one of its splits", "split"
            ) from None
        media = media_columns(rows.features)
        if media:
            fix = f"Name a data set without {', '.join(media)}, or with them as text"
            raise asked.error("columns that are no plain values", source.path, fix)
        name, number = f"{source.path}@{commit[:12]}", 0
        try:
            for number, fields in enumerate(rows, 1):
                yield RawRow(dict(fields), name, number, columnar=True)
        except ValueError as error:  # of a library, and it may quote a cell
            problem = f"the row after this one cannot be read: {type(error).__name__}"
            raise UserError(problem, file=name, line=number, fix="Name another commit or split") from None
    if not number:
        raise UserError("the data set is empty", file=source.path, fix="Name another split")
