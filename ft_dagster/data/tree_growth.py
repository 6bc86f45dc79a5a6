"""Grow the record tree of new evidence, a column at a time: beside preparing a row, its leaf costs little.

What it writes, `record_tree` reads row by row, and holds each leaf against its row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.parquet import ParquetFile, write_table

from ft_dagster.data.record_tree import DIGESTS, TREE, TreeHead, check_names, leaf_of, row_files
from ft_dagster.provenance.merkle import SIZE, MerkleTree
from ft_dagster.provenance.record_keys import RecordKey

BATCH = 8192
SCHEMA = pa.schema(
    [("lookup", pa.binary(SIZE)), ("leaf", pa.binary(SIZE)), ("dropped", pa.bool_()), ("row", pa.int64())]
)
_AS_JSON = json.JSONEncoder(ensure_ascii=False)


def grow_tree(evidence: Path, key: RecordKey) -> TreeHead:
    """Write tree.parquet over the rows of an evidence folder. Some 150 bytes of memory a record."""
    lookups, leaves = bytearray(), bytearray()
    counts = []
    for name in row_files(evidence):
        before = len(leaves)
        for batch in _batches(evidence / name):
            identities, records, salts, facts = _columns(batch)
            found = key.lookups(identities)
            lookups += b"".join(found)
            leaves += b"".join(map(leaf_of, found, records, salts, facts))
        counts.append((len(leaves) - before) // SIZE)
    order = _order(bytes(lookups))
    columns = [_gathered(lookups, order), _gathered(leaves, order), *_places(counts, order)]
    root = MerkleTree(columns[1].buffers()[1].to_pybytes()).root if len(order) else MerkleTree(b"").root
    table = pa.Table.from_arrays(columns, schema=SCHEMA)
    write_table(table, evidence / TREE, compression="NONE", use_dictionary=False, row_group_size=2**16)
    return TreeHead(root.hex(), len(order), key.id)


def _batches(file: Path) -> Iterator[Any]:
    with ParquetFile(file) as table:
        check_names(table.schema_arrow.names, file)
        yield from table.iter_batches(BATCH)


def _columns(batch: Any) -> list[list[bytes]]:
    """Identities, records, salts and facts of the rows."""
    digests = [list(map(bytes.fromhex, batch.column(name).to_pylist())) for name in DIGESTS]
    return [*digests, _facts(batch).cast(pa.binary()).to_pylist()]


def _facts(batch: Any) -> Any:
    """The facts of each row as JSON."""
    pieces: list[Any] = []
    for name in sorted(set(batch.schema.names) - set(DIGESTS)):
        pieces += [f'{"," if pieces else "{"}"{name}":', _in_json(batch.column(name))]
    return pc.binary_join_element_wise(*pieces, "}", "")


def _in_json(column: Any) -> Any:
    """Texts and whole numbers as JSON writes them."""
    if pa.types.is_integer(column.type):
        return column.cast(pa.string()).fill_null("null")
    coded = column.cast(pa.string()).dictionary_encode()
    texts = pa.array([_AS_JSON.encode(text) for text in coded.dictionary.to_pylist()], pa.string())
    return texts.take(coded.indices).fill_null("null")


def _order(lookups: bytes) -> Any:
    """The permutation that sorts lookups; equal ones stay as they came."""
    words = np.frombuffer(lookups, ">u8").astype(np.uint64).reshape(-1, SIZE // 8)
    return np.lexsort(words.T[::-1])


def _gathered(hashes: bytearray, order: Any) -> Any:
    """Hashes in order, as an Arrow array."""
    flat = np.frombuffer(hashes, np.uint8).reshape(-1, SIZE)[order]
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(SIZE), len(order), [None, pa.py_buffer(flat.tobytes())]
    )


def _places(counts: list[int], order: Any) -> tuple[Any, Any]:
    """(dropped, row in its file) of each leaf, in order; `counts`: rows of rows.parquet, dropped.parquet."""
    kept = counts[0] if counts else 0
    dropped = order >= kept
    return pa.array(dropped, pa.bool_()), pa.array(np.where(dropped, order - kept, order), pa.int64())
