"""Takes the unsalted identities out of record evidence: a file then knows its records by keyed lookups alone.

In place of `identity` a file has `lookup`, the HMAC of the identity by which the record tree beside it is
ordered, and `shared`, the same under the key of what all tenants share, whose id is `shared_key`: by that the
platform compares files of two tenants, or from before and after a rotation of a tenant's key. No leaf and no
root is another for it. Old files have `identity`, and are read as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ft_dagster.data.files.parquet import column_names, rows_of
from ft_dagster.records.record_keys import EvidenceKeys, OwnerKeys, RecordKey
from ft_dagster.records.record_tree import (
    DIGESTS,
    LOOKUP,
    SHARED_KEY,
    SHARED_LOOKUP,
    TreeHead,
    is_record,
    row_files,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from ft_dagster.data.rows.rows import Row

IDENTITY = DIGESTS[0]
ROW_BYTES = 300  # of a row of evidence, about


def bind_records(evidence: Path, keys: EvidenceKeys) -> TreeHead:
    """Write the record tree over the rows of new evidence, then take their identities out. Raises
    UserError.
    """
    from ft_dagster.records.tree_growth import grow_tree

    head = grow_tree(evidence, keys.own)
    for name in row_files(evidence):
        file = evidence / name
        draft = file.with_name(f"{name}.draft")
        seal_rows(file, draft, keys)
        draft.replace(file)
    return head


def seal_rows(file: Path, to: Path, keys: EvidenceKeys) -> None:
    """Write a file of rows anew without identities: the same bytes for the same file, keys and PyArrow. Its
    own key must be the one that orders the tree beside it. Memory: a row group.
    """
    import pyarrow as pa

    from ft_dagster.data.files.tables import TableWriter, open_table

    with open_table(file) as table:
        schema = _sealed_schema(table.schema_arrow)
        with TableWriter(to, schema) as out:
            for batch in table.iter_batches(2048):
                identities = [bytes.fromhex(one) for one in batch.column(IDENTITY).to_pylist()]
                columns = {
                    LOOKUP: [one.hex() for one in keys.own.lookups(identities)],
                    SHARED_LOOKUP: [one.hex() for one in keys.shared.lookups(identities)],
                    SHARED_KEY: [keys.shared.id] * len(identities),
                }
                arrays = [
                    pa.array(columns[name], pa.string()) if name in columns else batch.column(name)
                    for name in schema.names
                ]
                out.add_batch(
                    pa.RecordBatch.from_arrays(arrays, schema=schema), [ROW_BYTES] * len(identities)
                )


def has_identities(file: Path) -> bool:
    """Say whether a file of rows has the unsalted column. Raises UserError for no Parquet file."""
    return IDENTITY in column_names(file)


def shared_key_of(file: Path) -> str | None:
    """Return the id of the shared key by which a file of rows names its records; None where it has their
    identities, and an empty one where it has no row. Raises UserError.
    """
    if has_identities(file):
        return None
    ids = (str(one) for batch in rows_of(file, f"DISTINCT {SHARED_KEY}") for (one,) in batch)
    return next(ids, "")


def name_column(file: Path) -> str:
    """Return the column by which files that name their records alike are compared. Raises UserError."""
    return IDENTITY if has_identities(file) else SHARED_LOOKUP


def tree_column(file: Path) -> str:
    """Return the column by which a file knows what its tree knows. Raises UserError."""
    return IDENTITY if has_identities(file) else LOOKUP


def shared_names(file: Path, key: RecordKey | None) -> Iterator[list[bytes]]:
    """Yield what each row of a file is known by under a shared key, in order, in batches. The file was
    written under that key; `key` is asked of one that has identities alone.
    """
    if key is not None and has_identities(file):
        for batch in rows_of(file, IDENTITY):
            yield key.lookups(bytes.fromhex(one) for (one,) in batch)
        return
    for batch in rows_of(file, SHARED_LOOKUP):
        yield [bytes.fromhex(one) for (one,) in batch]


def namer_of(file: Path, keys: OwnerKeys, tree_key: str) -> Callable[[bytes], bytes] | None:
    """Return what makes of an identity what the file knows it by; None where that takes a key that is not
    here. `keys`: of the file's owner; `tree_key`: the id of the key that orders the tree beside the file.
    """
    if has_identities(file):
        return lambda identity: identity
    key = keys.of_id(tree_key)
    return None if key is None else key.lookup


def identity_in(row: Row, record: bytes, salt: bytes) -> bytes | None:
    """Return by which of its identities evidence knows a row, by its record; None where it is another row."""
    return next((one for one in row.identities if is_record(one, record, salt)), None)


class StoredRows:
    """Reads rows of a payload in order of their numbers, each at most once, to name them by identity."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = enumerate(rows)
        self._at: tuple[int, Row] | None = None

    def __getitem__(self, number: int) -> Row | None:
        """Return the row of a number that is not below one asked for before; None beyond the end."""
        while self._at is None or self._at[0] < number:
            self._at = next(self._rows, None)
            if self._at is None:
                return None
        return self._at[1] if self._at[0] == number else None


def _sealed_schema(schema: pa.Schema) -> pa.Schema:
    import pyarrow as pa

    at = schema.get_field_index(IDENTITY)
    new = [pa.field(name, pa.string()) for name in (LOOKUP, SHARED_LOOKUP, SHARED_KEY)]
    fields: Sequence[pa.Field] = [*list(schema)[:at], *new, *list(schema)[at + 1 :]]
    return pa.schema(fields)
