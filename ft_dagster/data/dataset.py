"""Build a variant's task data set: check, deduplicate, decontaminate, split; every dropped row is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ft_dagster.data.dataset_io import SCHEMA, as_record, read_texts
from ft_dagster.data.decontaminate import EvaluationGrams
from ft_dagster.data.dedup import NearDuplicates, SeenRows
from ft_dagster.data.fingerprint import Fingerprint, check_unchanged, pinned
from ft_dagster.data.locations import DeclaredAt
from ft_dagster.data.rows import Row
from ft_dagster.data.sources import NOWHERE, read_rows
from ft_dagster.data.splits import SPLITS, check_sizes, split_of
from ft_dagster.data.tables import TableWriter
from ft_dagster.spec.variant import DataSpec, VariantSpec
from ft_dagster.strict_json import dumps

SCHEMA_VERSION = 1
CONTAMINATED = "overlaps an evaluation set"
EVERY = 20_000  # rows between two lines of progress


def build_task_dataset(
    spec: VariantSpec,
    project: Path,
    evaluation_texts: Iterable[str] | Path | None,
    out: Path,
    progress: Callable[[str], None] | None = None,
    *,
    asked: DeclaredAt = NOWHERE,
    frozen: Sequence[Fingerprint] | None = None,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Write train, validation and test.parquet and dataset.json into `out`; returns the latter's content.

    Rows are streamed: memory holds a hash of each row (at most 64 bytes), one row group of each split
    and the n-grams of `evaluation_texts` (texts, or a Parquet file with a column `text`).
    With `frozen`, the sources' fingerprints at declaration, hub data sets are read at that commit, and a
    source that changed since is refused. `asked`: whose the sources are. Raises UserError; `out` is then to
    be thrown away.
    """
    say = progress or (lambda line: None)
    sources = spec.data.sources
    prints = list(frozen) if frozen is not None else [None] * len(sources)
    formats: dict[str, str] = {}
    filters = _Filters(spec.data, evaluation_texts)
    with ExitStack() as files:
        tables = {s: files.enter_context(TableWriter(out / f"{s}.parquet", SCHEMA)) for s in SPLITS}
        for i, (source, print_) in enumerate(zip(sources, prints, strict=True)):
            say(f"reading {source.path}")
            place = asked._replace(field=f"data.sources[{i}]")
            for row in read_rows(pinned(source, print_), project, place, formats):
                if filters.keep(row):
                    split = split_of(row.first_turn, spec.data.splits)
                    tables[split].add(as_record(row), 300 + len(row.canonical))
                if filters.read % EVERY == 0:
                    say(f"{filters.read:,} rows read")
            check_unchanged(source, project, print_, place, cache)
    rows = {split: table.rows for split, table in tables.items()}
    check_sizes(rows, spec.data.splits, file=asked.file, overlapping=filters.dropped[CONTAMINATED])
    content = {
        "schema_version": SCHEMA_VERSION,
        "rows": rows,
        "read": filters.read,
        "dropped": dict(sorted(filters.dropped.items())),
        "formats": formats,
        "sources": {path: dict(counts) for path, counts in filters.by_source.items()},
    }
    (out / "dataset.json").write_text(dumps(content, indent=1, sort_keys=True) + "\n", "utf-8")
    return content


class _Filters:
    """What a row must pass, in order, and the count of what did and did not."""

    def __init__(self, spec: DataSpec, evaluation_texts: Iterable[str] | Path | None) -> None:
        method = spec.deduplicate.method
        self._seen = SeenRows() if method != "off" else None
        self._near = NearDuplicates(spec.deduplicate.threshold) if method == "near" else None
        texts = evaluation_texts if spec.decontaminate.enabled else None
        if isinstance(texts, Path):
            texts = read_texts(texts)
        self._grams = EvaluationGrams(texts or (), spec.decontaminate.ngram)
        self.read = 0
        self.dropped = Counter[str]()
        self.by_source: dict[str, Counter[str]] = {}

    def keep(self, row: Row) -> bool:
        reason = self._reason(row)
        self.read += 1
        counts = self.by_source.setdefault(row.source, Counter(read=0, kept=0))
        counts["read"] += 1
        counts["kept"] += reason is None
        if reason:
            self.dropped[reason] += 1
        return reason is None

    def _reason(self, row: Row) -> str | None:
        if self._seen is not None and not self._seen.add(row.identity):
            return "duplicate"
        if self._grams.overlaps(row.whole_text):
            return CONTAMINATED
        if self._near is not None and not self._near.add(row.whole_text):
            return "near duplicate"
        return None
