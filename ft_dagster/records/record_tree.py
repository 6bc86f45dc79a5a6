"""Makes and reads the record tree of a data set, a corpus or a mixture: evidence of exactly which records it
has.

rows.parquet (and dropped.parquet) beside a payload say of each record its keyed lookups (see `sealed_rows`;
older files its `identity`), a `salt`, `record`, which is sha256(salt ‖ identity), and the facts: source,
file, line, licence, group, split, or why it was left out. tree.parquet has a leaf of each, ordered by lookup,
the HMAC of the identity under the owner's key; the root of the Merkle tree over them stands in the manifest,
which binds the files as well. A leaf is

    lookup ‖ record ‖ sha256(salt ‖ facts)          32 bytes each; facts: JSON, names in order, no spaces

so that a record and its salt show that it is in, and two leaves side by side that nothing is between them.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ft_dagster.data.files.parquet import column_names, quoted, row_of, rows_of
from ft_dagster.data.rows.content import EXACT, NORMALIZATION
from ft_dagster.data.rows.dataset_io import DROPPED, ORIGINS
from ft_dagster.errors import UserError
from ft_dagster.provenance.merkle import SIZE, MerkleTree, leaf_hash
from ft_dagster.records.record_keys import RecordKey
from ft_dagster.schema_version import refuse_newer

SCHEMA_VERSION = 1
TREE = "tree.parquet"
FIGURES = "records"  # the figures of a manifest that name the tree
DIGESTS = ("identity", "record", "salt")  # in hex, of rows whose tree is grown
LOOKUP, SHARED_LOOKUP, SHARED_KEY = (
    "lookup",
    "shared",
    "shared_key",
)  # in place of identities, see `sealed_rows`
NOT_FACTS = frozenset((*DIGESTS, LOOKUP, SHARED_LOOKUP, SHARED_KEY))  # all other columns are facts
ERASED_SALT, ERASED_ROW = bytes(SIZE), -1  # of a row that was erased, and of its leaf; see `erased_rows`
RESTORE = "Restore it from a backup, or make the artifact again"
_AS_FACTS = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))


class TreeHead(NamedTuple):
    """Holds what a manifest says of a tree. `root`: hex. `size`: leaves. `key`: the id of the key that orders
    them. `identity`: the newest form of identity that its records may be known by (`data.rows.content`).
    """

    root: str
    size: int
    key: str
    identity: int = EXACT

    def to_json(self) -> dict[str, object]:
        return {"schema_version": SCHEMA_VERSION, **self._asdict()}

    @classmethod
    def of(cls, figures: Mapping[str, Any], *, file: object = None) -> TreeHead | None:
        """Read the tree's head from a manifest's figures; None for an artifact that was made before there
        were trees. Raises UserError.
        """
        found = figures.get(FIGURES)
        if found is None:
            return None
        try:
            refuse_newer(found["schema_version"], SCHEMA_VERSION, file=file)
            form = int(found.get("identity", NORMALIZATION))
            return cls(str(found["root"]), int(found["size"]), str(found["key"]), form)
        except (KeyError, TypeError, ValueError):
            raise UserError(
                "its figures name no record tree", file=file, field=FIGURES, fix=RESTORE
            ) from None


def identity_form(figures: Mapping[str, Any]) -> int:
    """Return the newest form of identity that an artifact's records may be known by. Raises UserError."""
    head = TreeHead.of(figures)
    return NORMALIZATION if head is None else head.identity


class RecordRow(NamedTuple):
    """Is a row of the evidence. `known`: its lookup by the key of its tree, where it is `keyed`, else its
    identity. `record` and `salt`: bytes. `facts`: the JSON that its leaf binds.
    """

    known: bytes
    keyed: bool
    record: bytes
    salt: bytes
    facts: str

    def is_of(self, identity: bytes) -> bool:
        """Say whether it is the row of a record of this identity."""
        return is_record(identity, self.record, self.salt)

    def leaf(self, lookup: bytes) -> bytes:
        """Return the hash of the row's leaf, see the top."""
        return leaf_of(lookup, self.record, self.salt, self.facts.encode())


def is_record(identity: bytes, record: bytes, salt: bytes) -> bool:
    """Say whether a record is that of an identity."""
    return hashlib.sha256(salt + identity).digest() == record


def leaf_of(lookup: bytes, record: bytes, salt: bytes, facts: bytes) -> bytes:
    """Return the hash of a leaf, see the top."""
    return leaf_hash(lookup + record + hashlib.sha256(salt + facts).digest())


def record_rows(file: Path) -> Iterator[list[RecordRow]]:
    """Yield the rows of rows.parquet or dropped.parquet, a batch at a time. Raises UserError for another
    file.
    """
    names = column_names(file)
    known = check_names(names, file)
    facts = sorted(set(names) - NOT_FACTS)
    for batch in rows_of(file, *map(quoted, (known, *DIGESTS[1:], *facts))):
        yield [_as_row(row[:3], known, dict(zip(facts, row[3:], strict=True))) for row in batch]


def record_row(file: Path, number: int) -> tuple[RecordRow, dict[str, Any]]:
    """Return one row and its facts as a mapping. Raises UserError where there is none."""
    fields = row_of(file, number)
    if fields is None:
        raise UserError(f"it has no row {number}", file=file, fix=RESTORE)
    known = check_names(fields, file)
    digests = [fields[name] for name in (known, *DIGESTS[1:])]
    facts = {name: value for name, value in fields.items() if name not in NOT_FACTS}
    return _as_row(digests, known, facts), facts


@dataclass(frozen=True)
class RecordTree:
    """Is tree.parquet as it was read. `lookups`, `leaves`: 32 bytes a leaf, in order of the tree."""

    file: Path
    lookups: bytes
    leaves: bytes
    dropped: Any
    rows: Any

    @classmethod
    def read(cls, evidence: Path) -> RecordTree:
        """Raises UserError for a file that is none, or whose leaves are not in order."""
        file, lookups, leaves = evidence / TREE, bytearray(), bytearray()
        dropped, rows = [np.zeros(0, np.bool_)], [np.zeros(0, np.int64)]
        for batch in rows_of(file, "lookup", "leaf", "dropped", quoted("row")):
            *hashes, left_out, places = zip(*batch, strict=True)
            if any(type(each) is not bytes or len(each) != SIZE for column in hashes for each in column):
                raise UserError("not a record tree: a hash that is none", file=file, fix=RESTORE)
            dropped.append(np.array(left_out))
            rows.append(np.array(places))
            if dropped[-1].dtype != np.bool_ or rows[-1].dtype != np.int64:
                raise UserError("not a record tree: places that are none", file=file, fix=RESTORE)
            lookups += b"".join(hashes[0])
            leaves += b"".join(hashes[1])
        return cls(file, bytes(lookups), bytes(leaves), np.concatenate(dropped), np.concatenate(rows))

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def merkle(self) -> MerkleTree:
        return MerkleTree(self.leaves)

    def lookup(self, index: int) -> bytes:
        return self.lookups[index * SIZE : (index + 1) * SIZE]

    def find(self, lookup: bytes) -> range:
        """Return the places of a record's leaves; where it has none, an empty range at its place among the
        others.
        """
        first = last = bisect_left(range(len(self)), lookup, key=self.lookup)
        while last < len(self) and self.lookup(last) == lookup and self.rows[last] != ERASED_ROW:
            last += 1
        return range(first, last)

    def is_beside_erased(self, place: int) -> bool:
        """Say whether one of the leaves on both sides of a place is of an erased record."""
        return any(self.rows[at] == ERASED_ROW for at in (place - 1, place) if 0 <= at < len(self))

    def row_file(self, index: int) -> Path:
        """Return the file that has the row of a leaf."""
        return self.file.with_name(DROPPED if self.dropped[index] else ORIGINS)

    def row(self, index: int) -> tuple[RecordRow, dict[str, Any]]:
        """Return the row of a leaf and its facts. Raises UserError where the leaf is not that of the row, and
        where its record was erased.
        """
        if self.rows[index] == ERASED_ROW:
            problem = f"leaf {index} of this record tree is of a record that was erased: it proves nothing"
            raise UserError(problem, file=self.file, fix="Ask of another model, whose tree is whole")
        row, facts = record_row(self.row_file(index), int(self.rows[index]))
        if row.leaf(self.lookup(index)) != self.merkle.leaf(index):
            raise UserError(
                f"leaf {index} of this record tree is not that of its row", file=self.file, fix=RESTORE
            )
        return row, facts


@dataclass(frozen=True)
class TreeLeaves:
    """Holds the part of a record tree that shows that a record of a known row is in it: 37 bytes a leaf.
    `places`: of each leaf the number of its row; -1 - number of a row of dropped.parquet; of an erased one
    the least number of 32 bits.
    """

    file: Path
    merkle: MerkleTree
    places: Any

    @classmethod
    def of(cls, tree: RecordTree) -> TreeLeaves:
        places = np.where(tree.dropped, -1 - tree.rows, tree.rows)
        places[tree.rows == ERASED_ROW] = np.iinfo(np.int32).min
        small = len(places) <= np.iinfo(np.int32).max
        return cls(tree.file, tree.merkle, places.astype(np.int32 if small else np.int64))

    def __len__(self) -> int:
        return len(self.places)

    def find(self, row: int, *, dropped: bool) -> int | None:
        """Return the leaf of a row; None where none is."""
        [found] = np.nonzero(self.places == (-1 - row if dropped else row))
        return int(found[0]) if len(found) else None


def check_tree(evidence: Path, head: TreeHead, key: RecordKey | None) -> None:
    """Hold a tree against its rows and its head. Raises UserError that says what differs.

    With its key the lookups too, of rows that have identities; else the leaves are made again from the
    lookups as they are written. There are as many erased leaves as erased rows.
    """
    tree = RecordTree.read(evidence)
    if len(tree) != head.size or tree.merkle.root.hex() != head.root:
        raise UserError(
            "the root of this record tree is not the one of the manifest", file=tree.file, fix=RESTORE
        )
    places = {
        (bool(d), int(row)): at
        for at, (d, row) in enumerate(zip(tree.dropped, tree.rows, strict=True))
        if row != ERASED_ROW
    }
    erased = len(tree) - len(places)
    for name in row_files(evidence):
        rows = (row for batch in record_rows(evidence / name) for row in batch)
        for number, row in enumerate(rows):
            at = places.pop((name == DROPPED, number), None)
            if at is None and row.salt == ERASED_SALT:
                erased -= 1
            elif at is None or not _holds(tree, at, row, key):
                problem = f"row {number} of {name} is not what its leaf says"
                raise UserError(problem, file=tree.file, fix=RESTORE)
    if places or erased:
        raise UserError("this record tree has leaves of no row", file=tree.file, fix=RESTORE)
    ordered = all(tree.lookup(at) <= tree.lookup(at + 1) for at in range(len(tree) - 1))
    if not ordered:
        raise UserError("the leaves of this record tree are out of order", file=tree.file, fix=RESTORE)


def _holds(tree: RecordTree, at: int, row: RecordRow, key: RecordKey | None) -> bool:
    if row.keyed:
        lookup, committed = row.known, True
    else:
        lookup = tree.lookup(at) if key is None else key.lookup(row.known)
        committed = row.is_of(row.known)
    return committed and lookup == tree.lookup(at) and row.leaf(lookup) == tree.merkle.leaf(at)


def row_files(evidence: Path) -> list[str]:
    return [name for name in (ORIGINS, DROPPED) if (evidence / name).is_file()]


def check_names(names: Iterable[str], file: Path) -> str:
    """Return the column by which a file knows its records. Raises UserError where it knows none."""
    names = set(names)
    if set(DIGESTS) <= names:
        return DIGESTS[0]
    if not {LOOKUP, *DIGESTS[1:]} <= names:
        raise UserError("its rows name no records", file=file, fix=RESTORE)
    return LOOKUP


def _as_row(digests: Sequence[str], known: str, facts: Mapping[str, Any]) -> RecordRow:
    named, record, salt = map(bytes.fromhex, digests)
    return RecordRow(named, known == LOOKUP, record, salt, _AS_FACTS.encode(facts))
