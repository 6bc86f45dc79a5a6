"""Finds the records of a mixture: rows.parquet of its evidence, by what the data set and the corpus say of
theirs.

Identities, which the files of data set and corpus do not have, are made again of the rows in their payloads.

A record is in a mixture where an example was made of it: `split` is train, validation or general_holdout,
`examples` how many. Held-out general text is what the gate asks; records of it are judged with, not trained
on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ft_dagster.data.files.parquet import rows_of
from ft_dagster.data.files.tables import TableWriter, open_table
from ft_dagster.data.mixture.mixture_figures import GENERAL
from ft_dagster.data.mixture.mixture_io import HOLDOUT, read_mixture
from ft_dagster.data.rows.dataset_io import ORIGINS, read_split
from ft_dagster.data.rows.rows import Row
from ft_dagster.errors import UserError
from ft_dagster.records.record_tree import DIGESTS, RESTORE
from ft_dagster.records.sealed_rows import IDENTITY, StoredRows, identity_in

CARRIED = (
    *(("path", pa.string()), ("file", pa.string()), ("line", pa.int64()), ("ordinal", pa.int64())),
    *(("licence", pa.string()), ("group", pa.string())),
    *((name, pa.string()) for name in DIGESTS),
)
SCHEMA = pa.schema(
    [("split", pa.string()), ("source", pa.string()), ("row", pa.int64()), ("examples", pa.int64()), *CARRIED]
)
OF_DATASET = ("split", "row", "source", *DIGESTS[1:])  # what is read of theirs, and older ones may lack
OF_CORPUS = ("part", "row", *DIGESTS[1:])
ROW_BYTES = 300  # of a row of evidence, about
Counts = NDArray[np.int32]
NONE = np.zeros(0, np.int32)


def write_mixture_records(
    mixture: Path, evidence: Path, dataset: Path, corpus: Path | None, holdout: str = "holdout"
) -> bool:
    """Write rows.parquet into `evidence` for the mixture of a payload folder; whether it could be.

    `dataset`, `corpus`: their evidence folders, each beside its payload. It cannot where one of them was made
    before rows were known by record. `holdout`: the corpus' part that is held out. Raises UserError
    where their evidence is of other rows than their payload.
    """
    if not _names_records(dataset / ORIGINS, OF_DATASET):
        return False
    if corpus is not None and not _names_records(corpus / ORIGINS, OF_CORPUS):
        return False
    with TableWriter(evidence / ORIGINS, SCHEMA) as table:
        for split in ("train", "validation"):
            counts = examples_by_row(mixture, split)
            for source, of in ((None, dataset), (GENERAL, corpus)):
                if of is not None:
                    _carry(table, of, split, source, counts)
        if corpus is not None:
            _carry_held(table, corpus, holdout, held_out_examples(mixture), _corpus_name(mixture))
    return True


def examples_by_row(mixture: Path, split: str) -> dict[str, Counts]:
    """Count the examples of each row, by source and the row's number."""
    found: dict[str, Counts] = {}
    for shard in read_mixture(mixture).splits[split].shards:
        with open_table(mixture / shard.file) as table:
            for batch in table.iter_batches(columns=["source", "row"]):
                coded = batch.column("source").dictionary_encode()
                codes, rows = coded.indices.to_numpy(), batch.column("row").to_numpy()
                for code, source in enumerate(coded.dictionary.to_pylist()):
                    found[source] = _counted(found.get(source, NONE), rows[codes == code])
    return found


def held_out_examples(mixture: Path) -> dict[str, int]:
    """Count the texts that the gate asks of each held-out document, by its likeness (hex)."""
    file = mixture / HOLDOUT / "texts.parquet"
    if not file.is_file():
        return {}
    with open_table(file) as table:
        counted = pc.value_counts(table.read(columns=["group"]).column("group").combine_chunks())
    return {one["values"]: one["counts"] for one in counted.to_pylist()}


def _names_records(file: Path, columns: tuple[str, ...]) -> bool:
    if not file.is_file():
        return False
    with open_table(file) as table:
        return set(columns) <= set(table.schema_arrow.names)


def _carry(
    table: TableWriter, evidence: Path, split: str, source: str | None, counts: dict[str, Counts]
) -> None:
    """Add the rows of a split that have examples. `source`: GENERAL for a corpus, whose rows have another."""
    stored = StoredRows(_rows_in(evidence.with_name("payload"), split, source))
    for batch in _batches(evidence / ORIGINS, split):
        rows = batch.column("row").to_numpy()
        named = np.array(batch.column("source").to_pylist(), object) if source is None else None
        parts = []
        for name, per_row in counts.items():
            if name.startswith(GENERAL) != (source is not None):
                continue
            examples = _at(per_row, rows)
            chosen = np.flatnonzero((examples > 0) & (True if named is None else named == name))
            parts.append((name, chosen, examples[chosen]))
        wanted = np.unique(np.concatenate([chosen for _, chosen, _ in parts])) if parts else NONE
        known = _with_identities(batch, wanted, stored, evidence / ORIGINS)
        for name, chosen, examples in parts:
            _add(table, known.take(pa.array(chosen)), examples, split, name)


def _with_identities(batch: Any, wanted: NDArray[Any], stored: StoredRows, file: Path) -> Any:
    """Return a batch with the identities of the wanted rows. Raises UserError where one is not the stored
    row.
    """
    if IDENTITY in batch.schema.names:
        return batch
    numbers, records, salts = (batch.column(name).to_pylist() for name in ("row", *DIGESTS[1:]))
    identities: list[str | None] = [None] * len(batch)
    for at in wanted.tolist():
        row = stored[numbers[at]]
        found = None if row is None else identity_in(row, *map(bytes.fromhex, (records[at], salts[at])))
        if found is None:
            raise UserError(f"row {numbers[at]} is another than in the payload", file=file, fix=RESTORE)
        identities[at] = found.hex()
    return batch.append_column(IDENTITY, pa.array(identities, pa.string()))


def _rows_in(payload: Path, split: str, source: str | None) -> Iterator[Row]:
    """Yield the rows of a data set's split, or (`source`: GENERAL) the documents of a corpus' part."""
    if source is None:
        yield from read_split(payload / f"{split}.parquet")
        return
    for file in payload.rglob(f"{split}.parquet"):
        for batch in rows_of(file, "text"):
            yield from (Row("text", "", text=text) for (text,) in batch)


def _carry_held(table: TableWriter, corpus: Path, part: str, held: dict[str, int], source: str) -> None:
    documents = _rows_in(corpus.with_name("payload"), part, source) if held else ()
    examples_of = np.array([held.get(row.likeness.hex(), 0) for row in documents], np.int32)
    stored = StoredRows(_rows_in(corpus.with_name("payload"), part, source))
    for batch in _batches(corpus / ORIGINS, part):
        examples = _at(examples_of, batch.column("row").to_numpy())
        chosen = np.flatnonzero(examples)
        known = _with_identities(batch, chosen, stored, corpus / ORIGINS)
        _add(table, known.take(pa.array(chosen)), examples[chosen], HOLDOUT, source)


def _add(table: TableWriter, rows: Any, examples: NDArray[np.int64], split: str, source: str) -> None:
    if not len(rows):
        return
    columns = [
        pa.repeat(split, len(rows)),
        pa.repeat(source, len(rows)),
        rows.column("row"),
        pa.array(examples),
        *(_or_null(rows, name, kind) for name, kind in CARRIED),
    ]
    table.add_batch(pa.RecordBatch.from_arrays(columns, schema=SCHEMA), [ROW_BYTES] * len(rows))


def _batches(file: Path, split: str) -> Iterator[Any]:
    """Yield the rows of a data set's split, or a corpus' part."""
    with open_table(file) as table:
        name = "split" if "split" in table.schema_arrow.names else "part"
        for batch in table.iter_batches(8192):
            yield batch.filter(pc.equal(batch.column(name), split))


def _or_null(batch: Any, name: str, kind: Any) -> Any:
    if name in batch.schema.names:
        return batch.column(name).cast(kind)
    return pa.nulls(len(batch), kind)


def _counted(counts: Counts, rows: Any) -> Counts:
    """Return `counts`, made longer where need be, with one more for each of these rows."""
    counts = np.pad(counts, (0, max(0, rows.max() + 1 - len(counts))))
    np.add.at(counts, rows, 1)
    return counts


def _at(counts: Counts, rows: Any) -> NDArray[np.int64]:
    """Return `counts[rows]`, 0 beyond its end."""
    found = np.zeros(len(rows), np.int64)
    inside = rows < len(counts)
    found[inside] = counts[rows[inside]]
    return found


def _corpus_name(mixture: Path) -> str:
    """Return the name of a mixture's corpus."""
    splits = read_mixture(mixture).splits.values()
    named = (name for split in splits for name in split.by_source if name.startswith(GENERAL))
    return next(named, GENERAL)
