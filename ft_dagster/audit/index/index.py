"""Stores the index of records and artifacts: one SQLite file of this user alone, made of manifests and
evidence.

It holds no text and no identity: a record is known by the first 8 bytes of its lookup (see
`records.record_tree`), an answer is held against the evidence before it is given. It is never authoritative:
one that is damaged, of another store or by another key is made again; of another version see `index_file`.
Many read; one writes, under a lock of this host.
What an artifact has stands in up to 256 rows of the table `members`, by the first byte of the lookups, each
an array of MEMBER: to add ten thousand records takes 256 small writes, and to find one is to look through
those of its owner that begin as it does, which stand side by side.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ft_dagster.audit.index.artifact_records import STATES, Times
from ft_dagster.audit.index.index_file import Holds, open_file
from ft_dagster.lineage import erasures
from ft_dagster.lineage.graph import Input, Node, input_of, inputs_of, named
from ft_dagster.provenance.manifest import variant_of
from ft_dagster.records.record_keys import SHARED_OWNER
from ft_dagster.store import Artifact, Place

CHUNK = 4096  # counts of a model that are read together
MEMBER = np.dtype([("lookup", "<u8"), ("number", "<u4"), ("state", "u1")])  # of a record, see `Hit`
Members = NDArray[np.void]  # of MEMBER, in order of the lookups
ARTIFACTS = 2**32 - 1  # the part of a place that is the artifact's number, see `_place`


class Hit(NamedTuple):
    """Places a record in an artifact, as the index has it; see `artifact_records.HeldRecord`."""

    artifact: int
    state: int
    number: int


class Count(NamedTuple):
    """Counts how many artifacts of a stage a tenant has, and records of these. `gone`: of how many none is
    known, for retention removed them before they were read.
    """

    tenant: str
    stage: str
    artifacts: int
    records: int
    gone: int


class LogEntry(NamedTuple):
    """Is an entry of the release log of a part of the store, as the index has it. `number`: from 1. `entry`:
    its JSON. `sha256`: of its file.
    """

    prefix: str
    number: int
    entry: str
    sha256: str


class SeenFile(NamedTuple):
    """Is a head or a try as a check saw it. `at`: when it says that it was written, ISO 8601."""

    path: str
    at: str
    sha256: str


@dataclass(frozen=True)
class Indexed:
    """Is an artifact as the index has it. `tenant`: empty of what is shared. `generation`: 2 for what was
    made after a first one was removed. `manifest`: sha256 of it. `records`: how many it has. `problem`: why
    they could not be read.
    """

    id: int
    place: Place
    digest: str
    tenant: str
    manifest: str
    created: str
    records: int
    problem: str | None
    generation: int = 1

    @property
    def variant(self) -> str | None:
        return variant_of(self.place.prefix)


def short(lookup: bytes) -> int:
    """Return the part of a lookup that the index has: its first 8 bytes."""
    return int.from_bytes(lookup[:8], "big")


def as_members(lookups: ArrayLike, numbers: ArrayLike, states: ArrayLike) -> Members:
    """Return records as the index takes them, from arrays of one length: short lookups, numbers, states."""
    columns = zip(MEMBER.names or (), (lookups, numbers, states), strict=True)
    given = {name: np.asarray(values, MEMBER[name]) for name, values in columns}
    order = np.argsort(given["lookup"], kind="stable")
    found = np.empty(len(order), MEMBER)
    for name, values in given.items():
        found[name] = values[order]
    return found


def digest_of(owner: int, artifact: int, members: Members) -> str:
    """Return the digest of an artifact's records and where they stand in the index; see `Index.digests`."""
    found = hashlib.sha256()
    for first, records in _by_first(members):
        found.update(_framed(_place(owner, first, artifact), records))
    return found.hexdigest()


def _place(owner: int, first: int, artifact: int) -> int:
    """Return the row in which records stand: those of an owner that begin alike side by side."""
    return owner << 40 | first << 32 | artifact


def _by_first(members: Members) -> Iterator[tuple[int, bytes]]:
    """Yield (first byte of their lookups, these records) in order."""
    ends = np.searchsorted(members["lookup"] >> np.uint64(56), np.arange(257, dtype=np.uint64))
    for first, (start, end) in enumerate(pairwise(ends.tolist())):
        if start < end:
            yield first, members[start:end].tobytes()


def _framed(place: int, records: bytes) -> bytes:
    return f"{place} {len(records)} ".encode() + records


def created(artifact: Artifact) -> str:
    """Return when it was made, ISO 8601; empty where its manifest does not say."""
    return str(artifact.predicate.get("created", ""))


def tenant_of(prefix: str) -> str:
    """Return whose part of a store a prefix is; empty for what is shared."""
    folder, *names = prefix.split("/")
    owned = folder in ("tenants", erasures.FOLDER) and names and names[0] != erasures.SHARED_FOLDER
    return names[0] if owned else SHARED_OWNER


class Index:
    """Answers what a store has (see the top). `open` gives one of this store, empty where there was none that
    could be used. Its answers raise sqlite3.DatabaseError where it is damaged.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._known: dict[int, Indexed] = {}
        self._version = 0  # of what others wrote, as SQLite counts it

    @classmethod
    def open(cls, folder: Path, store: str, holds: Holds = lambda known: False) -> Index:
        """Open the index in a folder of this host; `store`: the address that it is of. See `open_file`."""
        return cls(open_file(folder, store, holds))

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._db:
            yield

    def clear(self) -> None:
        """Forget all but release logs and what checks saw, which no key orders."""
        self._known.clear()
        with self._db:
            for table in ("owners", "artifacts", "inputs", "members", "times"):
                self._db.execute(f"DELETE FROM {table}")

    # What it is told

    def owner(self, name: str, key: str | None = None) -> int:
        """Return the number of an owner; `key`: the ids of the keys that its lookups are made by."""
        self._db.execute("INSERT OR IGNORE INTO owners (name, key) VALUES (?, ?)", (name, key))
        [[id]] = self._db.execute("SELECT id FROM owners WHERE name = ?", (name,))
        return int(id)

    def owners(self) -> dict[str, tuple[int, str]]:
        """Return name -> (number, ids of the keys)."""
        rows = self._db.execute("SELECT name, id, key FROM owners ORDER BY name")
        return {str(name): (int(id), str(key)) for name, id, key in rows}

    def add_artifact(self, artifact: Artifact, owner: int, *, removed: bool = False) -> int:
        """Add an artifact and return its number. Nothing is said of its records yet: what an earlier reading
        of it said is forgotten. `removed`: by retention, before it is read.
        """
        self._known.clear()
        place = artifact.place
        named = (place.prefix, place.stage, place.key, artifact.generation)
        known = self._db.execute(
            "SELECT id, records FROM artifacts WHERE prefix = ? AND stage = ? AND key = ? AND generation = ?",
            named,
        ).fetchone()
        if known is not None:
            self._forget(*known)
        found = self._db.execute(
            "INSERT OR REPLACE INTO artifacts "
            "(id, prefix, stage, key, generation, digest, owner, manifest, created, removed, records) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)",
            (
                None if known is None else known[0],
                *named,
                artifact.digest,
                owner,
                artifact.manifest,
                created(artifact),
                removed,
            ),
        )
        id = int(found.lastrowid or 0)
        rows = [(id, name, *made, place.prefix) for name, made in inputs_of(artifact).items()]
        self._db.executemany("INSERT INTO inputs VALUES (?, ?, ?, ?, ?)", rows)
        return id

    def _forget(self, artifact: int, records: int) -> None:
        """Forget what was said of an artifact; to look for its records takes reading all of the index."""
        self._db.execute("DELETE FROM inputs WHERE artifact = ?", (artifact,))
        self._db.execute("DELETE FROM times WHERE model = ?", (artifact,))
        if records:
            self._db.execute(f"DELETE FROM members WHERE place & {ARTIFACTS} = ?", (artifact,))

    def add_members(self, owner: int, artifact: int, members: Members) -> None:
        """Add the records of an artifact."""
        rows = ((_place(owner, first, artifact), records) for first, records in _by_first(members))
        self._db.executemany("INSERT INTO members VALUES (?, ?)", rows)

    def set_records(self, artifact: int, records: int, problem: str | None = None) -> None:
        self._known.clear()
        self._db.execute(
            "UPDATE artifacts SET records = ?, problem = ? WHERE id = ?", (records, problem, artifact)
        )

    def add_times(self, model: int, times: Times) -> None:
        """Record how often each record of its mixture was trained on, by number."""
        chunks = range(0, len(times), CHUNK)
        rows = [(model, at // CHUNK, times[at : at + CHUNK].astype("<u4").tobytes()) for at in chunks]
        self._db.executemany("INSERT INTO times VALUES (?, ?, ?)", rows)

    def set_releases(self, prefix: str, entries: Sequence[LogEntry]) -> None:
        """Set all entries of a release log as it is now. What it had before and has no more is kept apart,
        see `gone_releases`.
        """
        self._db.execute(
            "INSERT OR IGNORE INTO gone_releases SELECT * FROM releases WHERE prefix = ?", (prefix,)
        )
        self._db.execute("DELETE FROM releases WHERE prefix = ?", (prefix,))
        self._db.executemany("INSERT INTO releases VALUES (?, ?, ?, ?)", entries)
        self._db.executemany(
            "DELETE FROM gone_releases WHERE prefix = ? AND number = ? AND sha256 = ?",
            [(prefix, each.number, each.sha256) for each in entries],
        )

    def see(self, files: Iterable[SeenFile]) -> None:
        """Remember heads, tries and entries of erasure logs, in place of what was remembered of them."""
        self._db.executemany("INSERT OR REPLACE INTO seen VALUES (?, ?, ?)", files)

    # What it answers

    def hits(self, owner: int, lookup: bytes) -> list[Hit]:
        """Return in which artifacts of an owner a record is."""
        rows = self._db.execute(
            f"SELECT place & {ARTIFACTS}, records FROM members WHERE place BETWEEN ? AND ? ORDER BY place",
            (_place(owner, lookup[0], 0), _place(owner, lookup[0], ARTIFACTS)),
        ).fetchall()
        if any(type(records) is not bytes or len(records) % MEMBER.itemsize for _, records in rows):
            raise sqlite3.DatabaseError("records of the index that are none")
        ends = np.cumsum([len(records) for _, records in rows]) // MEMBER.itemsize
        found = np.frombuffer(b"".join(records for _, records in rows), MEMBER)
        places = np.flatnonzero(found["lookup"] == np.uint64(short(lookup)))
        artifacts = np.searchsorted(ends, places, side="right")
        hits = [
            Hit(int(rows[which][0]), int(found["state"][at]), int(found["number"][at]))
            for which, at in zip(artifacts.tolist(), places.tolist(), strict=True)
        ]
        if any(hit.state >= len(STATES) for hit in hits):
            raise sqlite3.DatabaseError("records of the index in no state that there is")
        return hits

    def places(self) -> dict[Place, int]:
        """Return all artifacts that it knows: place -> newest generation."""
        rows = self._db.execute("SELECT prefix, stage, key, MAX(generation) FROM artifacts GROUP BY 1, 2, 3")
        return {Place(*place): int(generation) for *place, generation in rows}

    def artifact(self, id: int) -> Indexed:
        [[version]] = self._db.execute("PRAGMA data_version")
        if version != self._version:  # another process may have made the index again, with other numbers
            self._known.clear()
            self._version = int(version)
        if id not in self._known:
            found = self._select("a.id = ?", (id,))
            if not found:
                raise sqlite3.DatabaseError(f"the index names artifact {id}, which it has not")
            self._known[id] = found[0]
        return self._known[id]

    def with_digest(self, digest: str, manifest: str | None = None) -> list[Indexed]:
        """Return all artifacts of a digest, or the one that has this manifest too: many variants may share a
        digest.
        """
        if manifest is None:
            return self._select("a.digest = ?", (digest,))
        return self._select("a.digest = ? AND a.manifest = ?", (digest, manifest))

    def equals(self, artifact: Indexed) -> list[Indexed]:
        """Return others of its stage and digest in the same variant; see `made_of`."""
        named = (artifact.digest, artifact.place.stage, artifact.place.prefix, artifact.id)
        return self._select("a.digest = ? AND a.stage = ? AND a.prefix = ? AND a.id != ?", named)

    def like(self, start: str) -> list[Indexed]:
        """Return the artifacts whose digest begins so."""
        return self._select("a.digest >= ? AND a.digest < ?", (start, f"{start}g"))

    def of_stage(self, stage: str, prefix: str | None = None) -> list[Indexed]:
        within = "" if prefix is None else " AND a.prefix = ?"
        return self._select(f"a.stage = ?{within}", (stage, *(() if prefix is None else (prefix,))))

    def all(self) -> list[Indexed]:
        return self._select("1", ())

    def counts(self) -> list[Count]:
        """Return the counts of each tenant and stage."""
        rows = self._db.execute(
            "SELECT o.name, a.stage, COUNT(*), SUM(a.records), SUM(a.removed IS 1 AND a.records = 0) "
            "FROM artifacts a JOIN owners o ON o.id = a.owner GROUP BY 1, 2"
        )
        return [Count(str(name), str(stage), *map(int, numbers)) for name, stage, *numbers in rows]

    def unread(self) -> list[Indexed]:
        """Return the artifacts whose records could not be read."""
        return self._select("a.problem IS NOT NULL", ())

    def inputs(self, artifact: Indexed) -> dict[str, Input]:
        """Return the inputs of an artifact, see `lineage.graph.Graph`."""
        query = "SELECT name, digest, manifest FROM inputs WHERE artifact = ?"
        rows = self._db.execute(query, (artifact.id,))
        return {str(name): Input(str(digest), manifest) for name, digest, manifest in rows}

    def find(self, artifact: Node, name: str, one: Input) -> list[Indexed]:
        """Find an artifact, see `lineage.graph.Graph`: the one with the recorded manifest alone. Where none
        was recorded, the first that was made, by the same tenant or for all: the artifact may be older than
        the others.
        """
        found, prefix = self.with_digest(*one), artifact.place.prefix
        if one.manifest is None:
            found = [each for each in found if each.tenant in (tenant_of(prefix), SHARED_OWNER)]
        return list(named(found, prefix, one.manifest))[:1]

    def made_of(self, artifact: Indexed, stage: str | None = None) -> list[Indexed]:
        """Return the artifacts that were made from this one, which come last, or from its equal in the same
        variant: one made by another plan, or made again. Not those from its equal in another variant.
        """
        rows = self._db.execute(
            "SELECT artifact, manifest FROM ("
            "SELECT artifact, manifest FROM inputs WHERE digest = :digest AND manifest = :manifest UNION "
            "SELECT artifact, manifest FROM inputs WHERE digest = :digest AND manifest IS NULL UNION "
            "SELECT artifact, manifest FROM inputs WHERE digest = :digest AND prefix = :prefix"
            ") ORDER BY manifest IS :manifest, artifact",
            {"digest": artifact.digest, "manifest": artifact.manifest, "prefix": artifact.place.prefix},
        ).fetchall()
        made: dict[int, Indexed] = {}
        for id, manifest in rows:
            child = self.artifact(id)
            own = child.place.prefix == artifact.place.prefix
            if stage in (None, child.place.stage) and (
                own or manifest or artifact in self.find(child, "", Input(artifact.digest, None))
            ):
                made[id] = child
        return list(made.values())

    def parent(self, child: Indexed, *names: str) -> Indexed | None:
        """Return what an artifact was made from, see `lineage.graph.input_of`."""
        return input_of(self, child, *names)

    def times(self, model: int, number: int) -> int:
        """Return how often a record was trained on, by its number in the mixture."""
        row = self._db.execute(
            "SELECT counts FROM times WHERE model = ? AND chunk = ?", (model, number // CHUNK)
        ).fetchone()
        at = 4 * (number % CHUNK)
        return int.from_bytes(row[0][at : at + 4], "little") if row else 0

    def all_times(self, model: int) -> bytes:
        """Return the times of all records of the mixture, as `add_times` was given them."""
        rows = self._db.execute("SELECT counts FROM times WHERE model = ? ORDER BY chunk", (model,))
        return b"".join(row[0] for row in rows)

    def releases(self) -> list[LogEntry]:
        """Return the entries of all release logs, in order."""
        return self._entries("releases")

    def gone_releases(self) -> list[LogEntry]:
        """Return the entries that release logs had when they were looked at, and have no more."""
        return self._entries("gone_releases")

    def since(self) -> str:
        """Return when it was made from nothing, ISO 8601; empty where an earlier version made it."""
        row = self._db.execute("SELECT value FROM meta WHERE name = 'since'").fetchone()
        return "" if row is None else str(row[0])

    def seen(self) -> list[SeenFile]:
        """Return heads, tries and entries of erasure logs as checks saw them."""
        return [SeenFile(*row) for row in self._db.execute("SELECT path, at, sha256 FROM seen ORDER BY path")]

    def digests(self) -> dict[int, str]:
        """Return `digest_of` the records of each artifact that has any. Reads all of the index."""
        found: dict[int, Any] = defaultdict(hashlib.sha256)
        for place, records in self._db.execute(
            "SELECT place, coalesce(CAST(records AS BLOB), x'') FROM members ORDER BY place"
        ):
            found[place & ARTIFACTS].update(_framed(place, records))
        return {int(artifact): each.hexdigest() for artifact, each in found.items()}

    def damage(self) -> str | None:
        """Return what SQLite finds wrong with the file; None where it is whole."""
        try:
            [[said]] = self._db.execute("PRAGMA integrity_check(1)")
        except sqlite3.DatabaseError as error:
            return str(error)
        return None if said == "ok" else str(said)

    def _entries(self, table: str) -> list[LogEntry]:
        found = self._db.execute(f"SELECT prefix, number, entry, sha256 FROM {table} ORDER BY 1, 2")
        return [LogEntry(str(one), int(number), str(text), str(hash)) for one, number, text, hash in found]

    def _select(self, where: str, values: tuple[Any, ...]) -> list[Indexed]:
        rows = self._db.execute(
            "SELECT a.id, a.prefix, a.stage, a.key, a.digest, o.name, a.manifest, a.created, a.records, "
            "a.problem, a.generation FROM artifacts a JOIN owners o ON o.id = a.owner "
            f"WHERE {where} ORDER BY a.created, a.id",
            values,
        )
        return [Indexed(row[0], Place(*row[1:4]), *row[4:]) for row in rows]
