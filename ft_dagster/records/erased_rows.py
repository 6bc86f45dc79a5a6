"""Takes records out of record evidence: their rows and leaves stay in number, and say nothing of them.

An erased row has a `lookup`, a `shared` and a `record` of random bytes, a salt of zeros, and no facts but its
place in what was made (`split`, `part`, `row`, `examples`, `reason`). Its leaf keeps its hash, so that the
tree's root stays what the manifest says and all other records are proved as before; but it has the lookup of
the leaf before it, and no row. Nothing is proved by it, nor by its place between two others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ft_dagster.data.files.parquet import rows_of
from ft_dagster.records.record_tree import (
    DIGESTS,
    ERASED_ROW,
    ERASED_SALT,
    LOOKUP,
    SHARED_LOOKUP,
    TREE,
    RecordRow,
    record_rows,
    row_files,
)

if TYPE_CHECKING:
    import pyarrow as pa

NOISE = (*DIGESTS[:2], LOOKUP, SHARED_LOOKUP)  # identity and record among them
FACTS = frozenset({"path", "file", "line", "ordinal", "licence", "group", "source"})  # that are taken out
OF_A_MIXTURE = "examples"  # a column of it alone, whose `source` is part of what a ledger calls a record
ROW_BYTES, LEAF_BYTES, ROWS_AT_ONCE = 300, 80, 2048


def erased_evidence(evidence: Path, to: Path, is_erased: Callable[[RecordRow], bool]) -> Iterator[Path]:
    """Write anew the files of record evidence that change where some rows are erased, rows before the tree,
    and yield each. `to`: an empty folder. What is erased already counts as such: a tree that speaks of it
    still is written anew. Raises UserError for evidence that cannot be read. Memory: a row group; of trees
    all of one.
    """
    erased = dict[str, set[int]]()
    for name in row_files(evidence):
        rows = (row for batch in record_rows(evidence / name) for row in batch)
        found = dict[int, bool]()
        for number, row in enumerate(rows):
            if row.salt == ERASED_SALT:
                found[number] = False
            elif is_erased(row):
                found[number] = True
        erased[name] = set(found)
        new = {number for number, now in found.items() if now}
        if new:
            _write_rows(evidence / name, to / name, new)
            yield to / name
    if (evidence / TREE).is_file() and _speaks_of(evidence / TREE, erased):
        _write_tree(evidence / TREE, to / TREE, erased)
        yield to / TREE


def _write_rows(file: Path, to: Path, erased: set[int]) -> None:
    import pyarrow as pa

    from ft_dagster.data.files.tables import TableWriter, open_table

    with open_table(file) as table:
        schema = table.schema_arrow
        taken = FACTS - {"source"} if OF_A_MIXTURE in schema.names else FACTS
        first = 0
        with TableWriter(to, schema) as out:
            for batch in table.iter_batches(ROWS_AT_ONCE):
                places = [at for at in range(batch.num_rows) if first + at in erased]
                first += batch.num_rows
                arrays = [
                    _without(batch.column(field.name), field, places, taken) if places else batch.column(at)
                    for at, field in enumerate(schema)
                ]
                out.add_batch(pa.RecordBatch.from_arrays(arrays, schema=schema), [ROW_BYTES] * batch.num_rows)


def _without(column: pa.Array, field: pa.Field, places: list[int], taken: frozenset[str]) -> pa.Array:
    """Return a column without what it says of some rows."""
    import pyarrow as pa

    values = column.to_pylist()
    for at in places:
        if field.name in NOISE:
            values[at] = os.urandom(len(ERASED_SALT)).hex()
        elif field.name == DIGESTS[2]:
            values[at] = ERASED_SALT.hex()
        elif field.name in taken:
            values[at] = "" if pa.types.is_string(field.type) else 0
    return pa.array(values, field.type)


def _speaks_of(tree: Path, erased: dict[str, set[int]]) -> bool:
    return any(
        _is_of(dropped, row, erased) for batch in rows_of(tree, "dropped", '"row"') for dropped, row in batch
    )


def _is_of(dropped: bool, row: int, erased: dict[str, set[int]]) -> bool:
    from ft_dagster.data.rows.dataset_io import DROPPED, ORIGINS

    return row != ERASED_ROW and row in erased.get(DROPPED if dropped else ORIGINS, ())


def _write_tree(file: Path, to: Path, erased: dict[str, set[int]]) -> None:
    import pyarrow as pa

    from ft_dagster.data.files.tables import TableWriter, open_table

    before = bytes(len(ERASED_SALT))
    with open_table(file) as table:
        schema = table.schema_arrow
        with TableWriter(to, schema) as out:
            for batch in table.iter_batches(ROWS_AT_ONCE):
                leaves = batch.to_pylist()
                for leaf in leaves:
                    if _is_of(leaf["dropped"], leaf["row"], erased):
                        leaf |= {"lookup": before, "row": ERASED_ROW, "dropped": False}
                    before = leaf["lookup"]
                arrays = [pa.array([leaf[field.name] for leaf in leaves], field.type) for field in schema]
                out.add_batch(pa.RecordBatch.from_arrays(arrays, schema=schema), [LEAF_BYTES] * len(leaves))
