"""Build a variant's task data set: check, deduplicate, decontaminate, split; every dropped row is counted."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa

from ft_dagster.data.files.gc_freeze import heap_frozen
from ft_dagster.data.files.tables import TableWriter
from ft_dagster.data.rows.coverage import evaluation_grams
from ft_dagster.data.rows.dataset_figures import DatasetFigures
from ft_dagster.data.rows.dataset_io import (
    DATASET,
    DROPPED,
    DUPLICATE,
    ORIGINS,
    as_origin,
    as_record,
    label_of,
    paths_of,
)
from ft_dagster.data.rows.dataset_schema import (
    DROPPED_SCHEMA,
    ORIGIN,
    ORIGIN_NAMES,
    ORIGINS_SCHEMA,
    SAID,
    SCHEMA,
    WITH_TOOLS,
)
from ft_dagster.data.rows.decontaminate import EvaluationItem, read_items
from ft_dagster.data.rows.dedup import NearDuplicates, SeenRows
from ft_dagster.data.rows.faults import fault_of, malformed
from ft_dagster.data.rows.refused import unless_erased
from ft_dagster.data.rows.rows import Row, in_batches
from ft_dagster.data.rows.sources import Columns, read_rows
from ft_dagster.data.rows.splits import (
    SPLITS,
    SplitGroups,
    check_sizes,
    group_key,
    position_of_normal,
    split_at,
)
from ft_dagster.data.sources.fingerprint import Frozen, check_unchanged, pinned
from ft_dagster.data.sources.locations import NOWHERE, DeclaredAt
from ft_dagster.spec.data import DataSpec, SourceSpec, SplitsSpec
from ft_dagster.spec.variant import VariantSpec
from ft_dagster.strict_json import dumps

NEAR, CONTAMINATED = "near duplicate", "overlaps an evaluation set"
EVERY = 20_000  # rows between two lines of progress
# A kept row until its split is known; `nbytes`: of its text.
SPOOL_SCHEMA = pa.schema(
    [
        *WITH_TOOLS,
        *ORIGIN,
        *(("group_key", pa.binary(16)), ("position", pa.float64()), ("nbytes", pa.int64())),
    ]
)
ORIGIN_BYTES = 300  # of a row of evidence, about


class Dropped(NamedTuple):
    """Says why a row was left out. `task`: what it overlaps."""

    reason: str
    task: str | None = None


def build_task_dataset(
    spec: VariantSpec,
    project: Path,
    evaluation_texts: Iterable[EvaluationItem] | Path | None,
    out: Path,
    progress: Callable[[str], None] | None = None,
    *,
    evidence: Path | None = None,
    asked: DeclaredAt = NOWHERE,
    frozen: Frozen | None = None,
) -> dict[str, Any]:
    """Write train, validation and test.parquet into `out`; returns what there is to say of them.

    Into the folder `evidence` go rows.parquet (where each row came from), dropped.parquet (the same of those
    that were left out, and why) and dataset.json (what is returned).
    Rows are streamed: memory holds a hash of each row (at most 64 bytes), a batch of rows, one row group of a
    split and the n-grams of `evaluation_texts` (items, or the file that this stage writes); the kept
    rows wait in an unlinked file in `out`, since the last row may tie two groups together.
    With `frozen`, the sources' fingerprints at declaration, hub data sets are read at that commit, and a
    source that changed since is refused. `asked`: whose the sources are. Raises UserError; `out` is then to
    be thrown away.
    """
    say = progress or (lambda line: None)
    formats: dict[str, str] = {}
    columns: Columns = {}
    schema = SCHEMA
    filters = _Filters(spec.data, evaluation_texts)
    with ExitStack() as files, tempfile.TemporaryFile(dir=out) as spool, heap_frozen():
        dropped = _writer(files, evidence, DROPPED, DROPPED_SCHEMA)
        read = partial(read_rows, formats=formats, columns=columns)
        rows_read = unless_erased(
            _rows(spec, project, read=read, say=say, asked=asked, frozen=frozen),
            None if frozen is None else frozen.erased,
        )
        with pa.ipc.new_stream(spool, SPOOL_SCHEMA) as kept:
            for batch in in_batches(rows_read, lambda row: row.size):
                before, left_out = filters.read, filters.left_out(batch)
                left = [row for row, why in zip(batch, left_out, strict=True) if why is None]
                schema = WITH_TOOLS if any(row.tools for row in left) else schema
                kept.write_batch(_record_batch(left))
                for row, why in zip(batch, left_out, strict=True):
                    if why is not None and dropped is not None:
                        said = {name: getattr(row, name) for name in SAID}
                        dropped.add({**why._asdict(), **as_origin(row), **said}, ORIGIN_BYTES)
                if filters.read // EVERY > before // EVERY:
                    say(f"{filters.read:,} rows read")
        origins = _writer(files, evidence, ORIGINS, ORIGINS_SCHEMA)
        rows = _write_splits(
            spool, out, schema, groups=filters.groups, splits=spec.data.splits, origins=origins
        )
    _refuse_malformed(filters, spec.data.max_malformed, asked)
    check_sizes(rows, spec.data.splits, file=asked.file, overlapping=filters.dropped[CONTAMINATED])
    figures = filters.figures(rows, formats, paths_of(spec))
    content = replace(figures, columns=columns).to_json()
    if evidence is not None:
        (evidence / DATASET).write_text(dumps(content, indent=1, sort_keys=True) + "\n", "utf-8")
    return content


def _refuse_malformed(filters: _Filters, allowed: float, asked: DeclaredAt) -> None:
    """Raise UserError where more of the rows are malformed than the declaration lets be."""
    count = sum(filters.dropped[fault] for fault in filters.malformed)
    if count <= allowed * filters.read:
        return
    raise malformed(filters.malformed, filters.dropped, f"{filters.read:,} rows", allowed, asked.file)


def _writer(files: ExitStack, evidence: Path | None, name: str, schema: Any) -> TableWriter | None:
    return None if evidence is None else files.enter_context(TableWriter(evidence / name, schema))


def _rows(
    spec: VariantSpec,
    project: Path,
    *,
    read: Callable[[SourceSpec, Path, DeclaredAt], Iterator[Row]],
    say: Callable[[str], None],
    asked: DeclaredAt,
    frozen: Frozen | None,
) -> Iterator[Row]:
    """Yield the rows of all sources, in order; each source is checked against its fingerprint when it was
    read.
    """
    sources = spec.data.sources
    prints = [None] * len(sources) if frozen is None else frozen.fingerprints
    for i, (source, print_) in enumerate(zip(sources, prints, strict=True)):
        say(f"reading {source.path}")
        place = asked._replace(field=label_of(i))
        yield from read(pinned(source, print_), project, place)
        check_unchanged(source, project, print_, place, None if frozen is None else frozen.cache)


def _record_batch(rows: Sequence[Row]) -> Any:
    """Return kept rows as a record batch of `SPOOL_SCHEMA`."""
    records, origins = list(map(as_record, rows)), list(map(as_origin, rows))
    turns = [row.first_turn for row in rows]
    columns = {
        **{name: [record[name] for record in records] for name in WITH_TOOLS.names},
        **{name: [origin[name] for origin in origins] for name in ORIGIN_NAMES},
        "group_key": [group_key(turn, row.group) for turn, row in zip(turns, rows, strict=True)],
        "position": [position_of_normal(turn) for turn in turns],
        "nbytes": [row.size for row in rows],
    }
    return pa.RecordBatch.from_pydict(columns, schema=SPOOL_SCHEMA)


def _write_splits(
    spool: IO[bytes],
    out: Path,
    schema: Any,
    *,
    groups: SplitGroups,
    splits: SplitsSpec,
    origins: TableWriter | None,
) -> dict[str, int]:
    """Write the kept rows into their splits, in order; returns the rows of each."""
    spool.seek(0)
    with ExitStack() as files, pa.ipc.open_stream(spool) as batches:
        tables = {s: files.enter_context(TableWriter(out / f"{s}.parquet", schema)) for s in SPLITS}
        for batch in batches:
            keys, fallbacks = (batch.column(name).to_pylist() for name in ("group_key", "position"))
            positions = map(groups.position, keys, fallbacks)
            names = np.array([split_at(position, splits) for position in positions], str)
            numbers = np.zeros(len(names), np.int64)  # of each row within its split
            for split, table in tables.items():
                indices = np.flatnonzero(names == split)
                numbers[indices] = table.rows + np.arange(len(indices))
                rows = batch.take(pa.array(indices))
                nbytes = [300 + n for n in rows.column("nbytes").to_pylist()]
                table.add_batch(rows.select(schema.names), nbytes)
            if origins is not None:
                told = map(batch.column, (*ORIGIN_NAMES, *SAID))
                columns = [pa.array(names, pa.string()), pa.array(numbers), *told]
                evidence = pa.RecordBatch.from_arrays(columns, schema=ORIGINS_SCHEMA)
                origins.add_batch(evidence, [ORIGIN_BYTES] * len(names))
    return {split: table.rows for split, table in tables.items()}


class _Filters:
    """Applies what a row must pass, in order, and counts what did and did not."""

    def __init__(self, spec: DataSpec, evaluation_texts: Iterable[EvaluationItem] | Path | None) -> None:
        method = spec.deduplicate.method
        self._seen = SeenRows() if method != "off" else None
        self._near = NearDuplicates(spec.deduplicate.threshold) if method == "near" else None
        self._near_turns: list[str] = []
        items = evaluation_texts if spec.decontaminate.enabled else None
        if isinstance(items, Path):
            items = read_items(items)
        self._grams = evaluation_grams(items or (), spec.decontaminate)
        self.groups = SplitGroups()
        self.read = 0
        self.dropped = Counter[str]()
        self.malformed: dict[str, Row] = {}  # the first of each fault
        self._by_source: dict[str, Counter[str]] = {}
        self._overlaps: dict[str, Counter[str]] = {}

    def left_out(self, rows: Sequence[Row]) -> list[Dropped | None]:
        """Return why each row is left out, None for one that is kept; either is counted."""
        read = bool(self._grams) or self._near is not None
        words = [[*row.words, *row.other_words] if read else [] for row in rows]
        overlapping = self._grams.overlaps(words)
        reasons = []
        for row, its_words, task in zip(rows, words, overlapping, strict=True):
            if row.group is not None:
                self.groups.join(row.first_turn, row.group)
            reasons.append(self._reason(row, its_words, task))
            self._count(row, reasons[-1])
        return reasons

    def _count(self, row: Row, found: Dropped | None) -> None:
        self.read += 1
        counts = self._by_source.setdefault(row.named, Counter(read=0, kept=0))
        counts["read"] += 1
        counts["kept"] += found is None
        if found is not None:
            self.dropped[found.reason] += 1
        if found is not None and found.task is not None:
            self._overlaps.setdefault(found.task, Counter())[row.named] += 1

    def figures(
        self, rows: Mapping[str, int], formats: Mapping[str, str], paths: Mapping[str, str]
    ) -> DatasetFigures:
        """Return the counts, with what is known of the rows besides."""
        return DatasetFigures(
            rows=rows,
            read=self.read,
            dropped=dict(sorted(self.dropped.items())),
            sources={source: dict(counts) for source, counts in self._by_source.items()},
            formats=formats,
            paths=paths,
            overlaps={task: dict(counts) for task, counts in sorted(self._overlaps.items())},
            too_short_to_look_for=self._grams.ignored,
        )

    def _reason(self, row: Row, words: Sequence[str], task: str | None) -> Dropped | None:
        """Return why a row is left out, None to keep it. `task`: whose questions the row overlaps."""
        fault = fault_of(row)
        if fault is not None:
            self.malformed.setdefault(fault, row)
            return Dropped(fault)
        if self._seen is not None and not self._seen.add(row.likeness):
            return Dropped(DUPLICATE)
        if task is not None:
            return Dropped(CONTAMINATED, task)
        return Dropped(NEAR) if self._near is not None and self._is_near(self._near, row, words) else None

    def _is_near(self, near: NearDuplicates, row: Row, words: Sequence[str]) -> bool:
        earlier = near.add(words)
        if earlier is None:
            self._near_turns.append(row.first_turn)
        elif row.group is not None:  # what is left of its group belongs with the row that it repeats
            self.groups.join(self._near_turns[earlier], row.group)
        return earlier is not None
