"""Build a general corpus: plain documents from its sources, without duplicates, a part of them held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa

from ft_dagster.data.files.tables import TableWriter, open_table
from ft_dagster.data.rows.dataset_io import ORIGINS, as_origin
from ft_dagster.data.rows.dataset_schema import ORIGIN
from ft_dagster.data.rows.dedup import SeenRows
from ft_dagster.data.rows.planted import FILE as CANARIES
from ft_dagster.data.rows.planted import SOURCE, Canary, Planted, canaries_of, places_of, references_of
from ft_dagster.data.rows.refused import unless_erased
from ft_dagster.data.rows.rows import Row, RowPlace, normalize_text, rename
from ft_dagster.data.rows.sources import Columns, noting_columns, read_raw
from ft_dagster.data.rows.splits import position_of
from ft_dagster.data.sources.fingerprint import Frozen, check_unchanged, pinned
from ft_dagster.data.sources.locations import DeclaredAt
from ft_dagster.data.sources.readers import columns_of
from ft_dagster.errors import UserError
from ft_dagster.provenance.digest import FileDigest, payload_digest, sha256_file
from ft_dagster.spec.data import SourceSpec
from ft_dagster.spec.load import corpus_file
from ft_dagster.spec.variant import CanariesSpec, CorpusSpec
from ft_dagster.strict_json import dumps

SCHEMA_VERSION = 2
EVERY = 20_000  # documents between two lines of progress
SCHEMA = pa.schema([(name, pa.string()) for name in ("text", "source", "licence")])
SAID = ("source", "licence")  # of the document itself, repeated beside where it came from
ORIGINS_SCHEMA = pa.schema(
    [("part", pa.string()), ("row", pa.int64()), *ORIGIN, *((name, pa.string()) for name in SAID)]
)
PARTS = ("train", "holdout")
FEW = 16  # held-out documents below which the held-out loss is a poor measure
MANY_PLANTED = 0.05  # share of the documents from which canaries are warned of


@dataclass
class _Counts:
    size: int = 0  # bytes of UTF-8
    characters: int = 0
    capped: bool = False
    sources: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    columns: Columns = field(default_factory=dict)


def build_general_corpus(
    name: str,
    spec: CorpusSpec,
    project: Path,
    out: Path,
    progress: Callable[[str], None] | None = None,
    *,
    evidence: Path | None = None,
    frozen: Frozen | None = None,
    secret: bytes = b"",
) -> dict[str, Any]:
    """Write out/<name>/train.parquet, holdout.parquet and corpus.json; returns the latter's content, and what
    `noting_columns` noted.

    Into the folder `evidence` goes rows.parquet: where each document came from. `secret`: by which the
    canaries that are declared are made; they stand in the training part, and in canaries.json.

    The sources take turns, a document each, until `max_megabytes` (1e6 bytes of UTF-8) are kept.
    Documents without text are dropped and counted. Whether a document is held out depends on its
    text alone. Raises UserError, also where either part would be empty.
    """
    folder, declared_in = out / name, corpus_file(project, name)
    prints = [None] * len(spec.sources) if frozen is None else frozen.fingerprints
    asked = [DeclaredAt(declared_in, f"sources[{i}]") for i in range(len(spec.sources))]
    counts, say = _Counts(), progress or (lambda line: None)
    since = None if frozen is None else frozen.erased

    def kept(counts: _Counts, say: Callable[[str], None]) -> Iterator[Row]:
        streams = [
            unless_erased(_documents(pinned(source, print_), spec, project, where, counts), since)
            for source, print_, where in zip(spec.sources, prints, asked, strict=True)
        ]
        return _kept(streams, spec, counts, say)

    planting = None
    if spec.canaries is not None:
        planting = _Planting.of(name, spec.canaries, secret, _trained(kept(_Counts(), say), spec))
    with ExitStack() as files:
        origins = None if evidence is None else TableWriter(evidence / ORIGINS, ORIGINS_SCHEMA)
        if origins is not None:
            files.enter_context(origins)
        documents = _write(folder, spec, kept(counts, say), origins, planting)
    if planting is not None:
        planting.planted.write(folder / CANARIES)
    for source, print_, where in zip(spec.sources, prints, asked, strict=True):
        check_unchanged(source, project, print_, where, None if frozen is None else frozen.cache)
    _check_parts(documents, spec, declared_in)
    content = {
        "schema_version": SCHEMA_VERSION,
        "documents": documents,
        "characters": counts.characters,
        "bytes": counts.size,
        "capped": counts.capped,
        "sources": dict(counts.sources),
        "dropped": dict(sorted(counts.dropped.items())),
        **({} if planting is None else {"canaries": len(planting.planted.canaries)}),
        "digest": corpus_digest(folder),
        "warnings": _warnings(documents, 0 if planting is None else planting.count),
    }
    (folder / "corpus.json").write_text(dumps(content, indent=1, sort_keys=True) + "\n", "utf-8")
    return {**content, "columns": counts.columns}


def write_written_origins(payload: Path, evidence: Path) -> None:
    """Write rows.parquet of documents that stood in no file, such as a base wrote: `payload` has both
    parts.
    """
    ordinals = count()
    with TableWriter(evidence / ORIGINS, ORIGINS_SCHEMA) as origins:
        for part in PARTS:
            numbers = count()
            with open_table(payload / f"{part}.parquet") as documents:
                for one in (one for batch in documents.iter_batches(512) for one in batch.to_pylist()):
                    place = RowPlace(one["source"], "", 0, next(ordinals))
                    row = Row("text", one["source"], text=one["text"], place=place)
                    said = {**as_origin(row), "file": None, "line": None}
                    named = {name: one[name] for name in SAID}
                    origins.add({"part": part, "row": next(numbers), **said, **named}, 300)


def corpus_digest(folder: Path) -> str:
    """Return the digest of one corpus: the payload digest of its two Parquet files."""
    files = [folder / f"{part}.parquet" for part in PARTS]
    return payload_digest([FileDigest(f.name, f.stat().st_size, sha256_file(f)) for f in files])


def _documents(
    source: SourceSpec, spec: CorpusSpec, project: Path, asked: DeclaredAt, counts: _Counts
) -> Iterator[Row]:
    """Yield the documents of a source; only rows of plain text are documents."""
    if source.format not in ("auto", "text"):
        fix = "Map the column that holds the text: fields: {text: ...}"
        raise asked.error("a corpus takes plain text only", source.format, fix, "format")
    licensed = source.model_copy(update={"licence": source.licence or spec.licence})
    read = noting_columns(read_raw(source, project, asked), source, project, counts.columns)
    for ordinal, raw in enumerate(read):
        fields = rename(raw, source.fields, asked.field)
        text = fields.get("text", fields.get("content"))
        if text is None or (isinstance(text, str) and not text.strip()):
            if "text" not in fields and "content" not in fields:
                has = columns_of(fields)
                fix = f"Map the column that holds it: fields: {{text: ...}}; the row has {has}"
                raise raw.error("a document without text", fix, field=f"{asked.field}.fields")
            counts.dropped["empty"] += 1
            continue
        yield normalize_text(raw, fields, licensed, "text", ordinal=ordinal, field=asked.field)


def _kept(
    streams: list[Iterator[Row]], spec: CorpusSpec, counts: _Counts, say: Callable[[str], None]
) -> Iterator[Row]:
    """Yield the documents of all sources that are new, until there is enough text."""
    seen = SeenRows()
    for row in _in_turns(streams):
        if not seen.add(row.likeness):
            counts.dropped["duplicate"] += 1
            continue
        nbytes = len(row.text.encode())
        if counts.size + nbytes > spec.max_megabytes * 1e6:
            counts.capped = True
            return
        counts.size += nbytes
        counts.characters += len(row.text)
        counts.sources[row.named] += 1
        yield row
        if len(seen) % EVERY == 0:
            say(f"{len(seen):,} documents, {counts.size / 1e6:.1f} of at most {spec.max_megabytes:g} MB")


@dataclass(frozen=True)
class _Planting:
    """Says before which documents of the training part which canaries stand; `planted` takes their rows."""

    planted: Planted
    places: Mapping[int, Sequence[Canary]]

    @classmethod
    def of(cls, corpus: str, spec: CanariesSpec, secret: bytes, documents: int) -> _Planting:
        canaries = canaries_of(secret, corpus, spec)
        planted = Planted(canaries, references_of(secret, corpus), {each.id: [] for each in canaries})
        return cls(planted, places_of(secret, canaries, documents))

    @property
    def count(self) -> int:
        """Return how many documents were planted."""
        return sum(map(len, self.planted.rows.values()))

    def before(self, document: int, row: int) -> Iterator[Row]:
        """Yield the documents to be planted before one of the training part, of which the first gets this
        row.
        """
        for canary in self.places.get(document, ()):
            copies = self.planted.rows[canary.id]
            place = RowPlace(SOURCE, f"{SOURCE} {canary.id}", 0, len(copies))
            copies.append(row)
            row += 1
            yield Row("text", SOURCE, text=canary.text, place=place)


def _trained(rows: Iterator[Row], spec: CorpusSpec) -> int:
    """Count the documents of the training part."""
    return sum(_part_of(row, spec) == "train" for row in rows)


def _part_of(row: Row, spec: CorpusSpec) -> str:
    return "holdout" if position_of(row.text) < spec.holdout else "train"


def _write(
    folder: Path,
    spec: CorpusSpec,
    rows: Iterator[Row],
    origins: TableWriter | None,
    planting: _Planting | None,
) -> dict[str, int]:
    """Write both parts; returns the documents of each. Row groups are small: a mixture reads a few."""
    with ExitStack() as files:
        parts = {
            part: files.enter_context(
                TableWriter(folder / f"{part}.parquet", SCHEMA, rows=256, nbytes=500_000)
            )
            for part in PARTS
        }

        def add(part: str, row: Row) -> None:
            if origins is not None:
                said = {name: getattr(row, name) for name in SAID}
                origins.add({"part": part, "row": parts[part].rows, **as_origin(row), **said}, 300)
            parts[part].add({name: getattr(row, name) for name in SCHEMA.names}, 200 + len(row.text))

        document = 0
        for row in rows:
            part = _part_of(row, spec)
            if part == "train" and planting is not None:
                for canary in planting.before(document, parts[part].rows):
                    add(part, canary)
                document += 1
            add(part, row)
    return {part: table.rows for part, table in parts.items()}


def _in_turns(streams: list[Iterator[Row]]) -> Iterator[Row]:
    while streams:
        for stream in list(streams):
            row = next(stream, None)
            if row is None:
                streams.remove(stream)
            else:
                yield row


def _check_parts(counts: dict[str, int], spec: CorpusSpec, declared_in: Path) -> None:
    for part in PARTS:
        if counts[part] == 0:
            raise UserError(
                f"no document fell into the {part} part (of {sum(counts.values())} documents)",
                file=declared_in,
                field="holdout",
                value=spec.holdout,
                fix="Add documents, cut long ones into several, or change holdout",
            )


def _warnings(counts: dict[str, int], planted: int) -> list[str]:
    """Warn of a corpus that measures little, or is largely canaries. `planted`: documents of its training
    part that are.
    """
    found = []
    if counts["holdout"] < FEW:
        held = counts["holdout"]
        found.append(f"only {held} documents are held out: the loss on them is a noisy measure of forgetting")
    if planted > MANY_PLANTED * counts["train"]:
        found.append(
            f"{planted:,} of the {counts['train']:,} documents of the training part are planted canaries: "
            "models on it learn them in place of text; plant fewer, or add documents"
        )
    return found
