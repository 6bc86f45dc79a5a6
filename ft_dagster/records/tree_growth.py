"""Grow the record tree of new evidence, a column at a time: beside preparing a row, its leaf costs little.

Leaves are sorted through a file, so that memory does not grow with the records. What is written,
`record_tree` reads row by row, and holds each leaf against its row.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow.parquet import ParquetWriter

from ft_dagster.data.files.tables import open_table
from ft_dagster.data.rows.dataset_io import DROPPED
from ft_dagster.errors import UserError
from ft_dagster.provenance.merkle import SIZE, MerkleTree
from ft_dagster.records.record_keys import RecordKey
from ft_dagster.records.record_tree import (
    DIGESTS,
    NOT_FACTS,
    RESTORE,
    TREE,
    TreeHead,
    leaf_of,
    row_files,
)

BATCH = 2048  # rows whose leaves are made together
GROUP = 2**16  # leaves of a row group: a power of two, so that all but the last are whole trees
FIRST = 256  # values of a lookup's first byte
SCHEMA = pa.schema(
    [("lookup", pa.binary(SIZE)), ("leaf", pa.binary(SIZE)), ("dropped", pa.bool_()), ("row", pa.int64())]
)
LEAF = np.dtype([("lookup", f"S{SIZE}"), ("leaf", f"S{SIZE}"), ("dropped", np.bool_), ("row", np.int64)])
Leaves = NDArray[np.void]  # of LEAF
_AS_JSON = json.JSONEncoder(ensure_ascii=False)


def grow_tree(evidence: Path, key: RecordKey) -> TreeHead:
    """Write tree.parquet over the rows of an evidence folder, which still have identities. Memory: some 30
    MB, and 3 bytes a record; some 200 bytes of each record that is there many times over.
    """
    size, roots = 0, b""
    with (
        tempfile.TemporaryFile(dir=evidence) as file,
        ParquetWriter(evidence / TREE, SCHEMA, compression="NONE", use_dictionary=False) as tree,
    ):
        for group in _groups(_sorted(_groups(_leaves(evidence, key)), file)):
            tree.write_table(_table(group), row_group_size=GROUP)
            roots += MerkleTree(group["leaf"].tobytes()).root
            size += len(group)
    return TreeHead(MerkleTree(roots).root.hex(), size, key.id)


def _leaves(evidence: Path, key: RecordKey) -> Iterator[Leaves]:
    """Yield the leaves of all rows, as they come."""
    for name in row_files(evidence):
        rows = 0
        for batch in _batches(evidence / name):
            identities, records, salts, facts = _columns(batch)
            leaves = np.zeros(len(identities), LEAF)
            leaves["lookup"] = lookups = key.lookups(identities)
            leaves["leaf"] = list(map(leaf_of, lookups, records, salts, facts))
            leaves["dropped"] = name == DROPPED
            leaves["row"] = np.arange(rows, rows + len(leaves))
            rows += len(leaves)
            yield leaves


def _groups(parts: Iterable[Leaves]) -> Iterator[Leaves]:
    """Yield the same leaves, GROUP at a time, and what is left at the end."""
    waiting: list[Leaves] = []
    for part in parts:
        waiting.append(part)
        if sum(map(len, waiting)) >= GROUP:
            whole = np.concatenate(waiting)
            ends = range(GROUP, len(whole) + 1, GROUP)
            yield from (whole[end - GROUP : end] for end in ends)
            waiting = [whole[ends[-1] :]]
    if any(map(len, waiting)):
        yield np.concatenate(waiting)


def _sorted(runs: Iterable[Leaves], file: IO[bytes]) -> Iterator[Leaves]:
    """Leaves by their lookups, equal ones as they came. Each run goes into `file` by the first byte alone,
    and what begins alike is then read of all runs.
    """
    begins, at = [], 0  # of each run, the number of the first leaf of each first byte
    for run in runs:
        first = np.ascontiguousarray(run["lookup"]).view(np.uint8)[::SIZE]
        file.write(run[np.argsort(first, kind="stable")].tobytes())
        begins.append(at + np.cumsum([0, *np.bincount(first, minlength=FIRST)]))
        at += len(run)
    for byte in range(FIRST):
        pieces = (_read(file, *begin[byte : byte + 2]) for begin in begins)
        leaves = np.frombuffer(b"".join(pieces), LEAF)
        yield leaves[np.argsort(leaves["lookup"], kind="stable")]


def _read(file: IO[bytes], first: int, end: int) -> bytes:
    file.seek(first * LEAF.itemsize)
    return file.read((end - first) * LEAF.itemsize)


def _table(leaves: Leaves) -> Any:
    hashes = [
        pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(SIZE), len(leaves), [None, pa.py_buffer(leaves[name].tobytes())]
        )
        for name in ("lookup", "leaf")
    ]
    places = [pa.array(leaves[name]) for name in ("dropped", "row")]
    return pa.Table.from_arrays([*hashes, *places], schema=SCHEMA)


def _batches(file: Path) -> Iterator[Any]:
    with open_table(file) as table:
        if not set(DIGESTS) <= set(table.schema_arrow.names):
            raise UserError("its rows name no records", file=file, fix=RESTORE)
        yield from table.iter_batches(BATCH)


def _columns(batch: Any) -> list[list[bytes]]:
    """Return identities, records, salts and facts of the rows."""
    digests = [list(map(bytes.fromhex, batch.column(name).to_pylist())) for name in DIGESTS]
    return [*digests, _facts(batch).cast(pa.binary()).to_pylist()]


def _facts(batch: Any) -> Any:
    """Write the facts of each row as JSON."""
    pieces: list[Any] = []
    for name in sorted(set(batch.schema.names) - NOT_FACTS):
        pieces += [f'{"," if pieces else "{"}"{name}":', _in_json(batch.column(name))]
    return pc.binary_join_element_wise(*pieces, "}", "")


def _in_json(column: Any) -> Any:
    """Write texts and whole numbers as JSON does."""
    if pa.types.is_integer(column.type):
        return column.cast(pa.string()).fill_null("null")
    coded = column.cast(pa.string()).dictionary_encode()
    texts = pa.array([_AS_JSON.encode(text) for text in coded.dictionary.to_pylist()], pa.string())
    return texts.take(coded.indices).fill_null("null")
