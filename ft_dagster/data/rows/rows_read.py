"""Counts the rows of each file that a look at a source reads: the first of them, or all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

from ft_dagster.data.rows.rows import Row
from ft_dagster.data.rows.sources import read_raw, read_rows
from ft_dagster.data.sources.locations import DeclaredAt, data_files, is_hub
from ft_dagster.spec.data import SourceSpec

KEPT = 100  # rows of a source, for those who look at what they say
PLACED = 2_000  # of each source, each placed in its split: the rest is taken to fall as the shares say
READ = 20_000  # of a source, where not all are asked for
NAMED = 5  # files in a sentence
T = TypeVar("T")


@dataclass(frozen=True)
class FileRead:
    """Counts the rows read of a file. `rows`: that were read of it. `whole`: those are all that it has."""

    file: str
    rows: int
    whole: bool

    def to_json(self) -> dict[str, object]:
        return asdict(self)


class SourceLook(NamedTuple):
    """Holds the first PLACED rows of a source, and counts all that were read."""

    rows: list[Row]
    counted: int


@dataclass
class RowsLook:
    """Reads `most` rows of each source (None: all), and remembers of which files they were."""

    project: Path
    most: int | None = READ
    files: list[FileRead] = field(default_factory=list)

    def rows(self, source: SourceSpec, asked: DeclaredAt) -> SourceLook:
        """Read the rows of a tenant's source. Raises UserError as `read_rows`."""
        read = read_rows(source, self.project, asked)
        return SourceLook(
            *self._first(source, asked, read, lambda row: "" if row.place is None else row.place.file)
        )

    def raw_rows(self, source: SourceSpec, asked: DeclaredAt) -> None:
        """Read the rows of a corpus' source in the same way."""
        self._first(source, asked, read_raw(source, self.project, asked), lambda row: row.file)

    def _first(
        self, source: SourceSpec, asked: DeclaredAt, read: Iterator[T], file_of: Callable[[T], str]
    ) -> tuple[list[T], int]:
        there = [] if is_hub(source, self.project) else data_files(source, self.project, asked)
        counts, last = {file.name: 0 for file in there}, None
        first = list[T]()
        for row in islice(read, self.most):
            last = file_of(row)
            counts[last] = counts.get(last, 0) + 1
            if len(first) < PLACED:
                first.append(row)
        following = next(read, None)
        ended = following is None or file_of(following) != last
        names = list(counts)
        until = len(names) if following is None else names.index(str(last)) + ended
        self.files += [FileRead(name, rows, at < until) for at, (name, rows) in enumerate(counts.items())]
        return first, sum(counts.values())


def rows_sentence(files: Sequence[FileRead]) -> str:
    """Return "all 41 rows of a.jsonl, the first 100 of b.jsonl and none of 2 more files read"."""
    read = [each for each in files if each.rows]
    said = [
        f"all {each.rows:,} rows of {each.file}" if each.whole else f"the first {each.rows:,} of {each.file}"
        for each in read[:NAMED]
    ]
    more, unread = read[NAMED:], len(files) - len(read)
    said += [f"{sum(each.rows for each in more):,} of {_files(len(more))}"] if more else []
    said += [f"none of {_files(unread)}"] if unread else []
    return f"{_listed(said)} read"


def _files(count: int) -> str:
    return f"{count:,} more file{'s' if count > 1 else ''}"


def _listed(parts: Iterable[str]) -> str:
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last
