"""Bring an index up to what a store has: each new manifest is read once, and the records that it binds.

The index's own list of artifacts is the cursor. One process of a host writes at a time. What cannot be read
is kept as a problem of its artifact, stops nothing, and is read again each time until it can be.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ft_dagster.audit.index.artifact_records import (
    ASKED,
    HAVE_RECORDS,
    StoredFiles,
    members_of,
    row_states,
    said_by,
    times_of,
)
from ft_dagster.audit.index.index import MEMBER, Index, LogEntry, Members, as_members, short, tenant_of
from ft_dagster.audit.index.judged import judged_questions
from ft_dagster.data.rows.dataset_io import DROPPED, ORIGINS
from ft_dagster.errors import UserError
from ft_dagster.lineage.log import ReleaseLog, entry_path, folder_of, read_log
from ft_dagster.provenance.merkle import SIZE
from ft_dagster.records.record_keys import RESTORE, SHARED_OWNER, OwnerKeys, keys_of
from ft_dagster.records.record_tree import ERASED_ROW, RecordTree, TreeHead
from ft_dagster.records.sealed_rows import shared_key_of, shared_names
from ft_dagster.stage_entries import FINE_TUNED_MODEL, TRAINING_MIXTURE
from ft_dagster.store import SHARED, Artifact, Place, Store
from ft_dagster.store.artifacts import Removed, stated
from ft_dagster.store.make import host_lock
from ft_dagster.store.numbered import numbers
from ft_dagster.store.release_chain import CHAINED
from ft_dagster.store.remote_errors import unreachable
from ft_dagster.strict_json import dumps, loads

LOCK = "the index of the audit"
AT_ONCE = 64  # manifests read together, and what is committed together
_STAGE, _KEY = re.compile(r"[a-z_]+"), re.compile(r"[0-9a-f]{64}")
NO_STAGES = {"heads", "releases", "tries", "experiments", "code", "corpora"}


# What a file raises that holds to its manifest, and is not of the form that this version writes.
MALFORMED = (UserError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, OSError)


class Unread(NamedTuple):
    """Names what could not be read. `prefix`: of whose part of the store. `stage`: empty of a release log.
    `problem`: one line.
    """

    prefix: str
    stage: str
    problem: str


def problem_of(error: Exception, where: str) -> str:
    """Return one of MALFORMED in one line. Raises it where the store could not be reached just now."""
    if isinstance(error, UserError):
        return str(error)
    if unreachable(error):
        raise error
    said = (str(error).splitlines() or [""])[0].rstrip(".")
    wrong = f"an artifact that cannot be read ({type(error).__name__}: {said})"
    return str(UserError(wrong, file=where, fix="Restore it from a backup, or make it again"))


class LostKey(NamedTuple):
    """Names a key that the index was made by and that is no longer in the folder of keys. `owner`: a tenant;
    empty of what is shared. `key`: its id; `current`: that of the one in its place.
    """

    owner: str
    key: str
    current: str


@dataclass(frozen=True)
class Followed:
    """Says what a look at a store brought: artifacts and records that were new or read again, what could not
    be read, and the keys that were found lost: once, for the index is then made again by others.
    """

    artifacts: int
    records: int
    problems: tuple[Unread, ...]
    lost: tuple[LostKey, ...] = ()


@dataclass(frozen=True)
class Follower:
    """Brings the index up to date with a store. `keys`: the folder of record keys. `work`: where the lock of
    this host lies.
    """

    index: Index
    stored: StoredFiles
    keys: Path
    work: Path
    say: Callable[[str], None] = lambda line: None

    @property
    def store(self) -> Store:
        return self.stored.store

    def follow(self) -> Followed:
        """Add what is new, and read again what could not be read. Raises UserError for keys that are none.

        It costs the names of each stage's keys, the reading of what is new, of each release log its names and
        its newest entry, and to see what was made again under a known key: of a folder a look for one file a
        key, of a remote store one listing of all names, a request for each thousand of them.
        """
        with host_lock(self.work, LOCK):
            lost = self._drop_if_rotated()
            known = self.index.places()
            first = {place: known.get(place, 0) + 1 for place in places_of(self.store)}
            for unread in self.index.unread():
                first[unread.place] = min(first.get(unread.place, 1), unread.generation)
            asked = sorted(self._listed(first), key=lambda one: _rank(one[0]))
            new = sum(place not in known for place, _ in asked)
            problems: list[Unread] = []
            artifacts = records = 0
            with self.index.transaction():
                for found in self._read(asked, problems):
                    artifacts += 1
                    records += self._add(found, problems)
                    if artifacts % 1000 == 0:
                        self.say(f"{artifacts:,} of {new:,} artifacts, {records:,} records")
                self._add_releases(problems)
            return Followed(artifacts, records, tuple(problems), lost)

    def read_again(self, found: Artifact | Removed) -> None:
        """Read the records of an artifact again that the index knows."""
        problems: list[Unread] = []
        with host_lock(self.work, LOCK), self.index.transaction():
            self._add(found, problems)
        for each in problems:  # `verify` tells of it
            self.say(each.problem)

    def _drop_if_rotated(self) -> tuple[LostKey, ...]:
        """Drop the index where an owner has other keys than it was made by; return those that are gone."""
        there = {name: keys_of(self.keys, name) for name in self.index.owners()}
        named = {name: ids for name, (_, ids) in self.index.owners().items()}
        if any(keys.ids != named[name] for name, keys in there.items()):
            self.say("a key was rotated, lost or restored: the index is made again")
            self.index.clear()
        ids = ((name, id) for name in there for id in named[name].split(","))
        gone = ((name, id) for name, id in ids if there[name].of_id(id) is None)
        return tuple(LostKey(name, id, there[name].current.id) for name, id in gone)

    def _listed(self, first: Mapping[Place, int]) -> list[tuple[Place, int]]:
        """Return those keys, and the generation that is wanted of each, whose manifest may be there: to ask a
        remote store for each that is not would be a request for every key.
        """
        if not self.store.remote:
            return list(first.items())
        listed = {file.path for file in self.store.walk() if "/manifest" in file.path}
        return [one for one in first.items() if one[0].manifest_of(one[1]) in listed]

    def _read(
        self, asked: Sequence[tuple[Place, int]], problems: list[Unread]
    ) -> Iterator[Artifact | Removed]:
        """Yield what was committed under each key since a generation, also what retention removed since."""
        for first in range(0, len(asked), AT_ONCE):
            batch = asked[first : first + AT_ONCE]
            contents = self.store.read_each([place.manifest_of(generation) for place, generation in batch])
            for (place, generation), content in zip(batch, contents, strict=True):
                if content is not None:
                    yield from self._generations(place, generation, content, problems)

    def _generations(
        self, place: Place, generation: int, content: bytes, problems: list[Unread]
    ) -> Iterator[Artifact | Removed]:
        """Yield what a manifest says, and those after it; nothing of one that stands after what was never
        removed, which no reader of the store finds.
        """
        try:
            if generation > 1 and not isinstance(said_by(self.store, place, generation - 1), Removed):
                return
            found: Artifact | Removed | None = stated(self.store, place, content, generation)
            while isinstance(found, Removed):
                yield found
                found = said_by(self.store, place, found.artifact.generation + 1)
            if found is not None:
                yield found
        except UserError as error:
            problems.append(Unread(place.prefix, place.stage, str(error)))

    def _add(self, found: Artifact | Removed, problems: list[Unread]) -> int:
        """Add an artifact and count its records; the questions of an evaluation are none of these."""
        artifact = found.artifact if isinstance(found, Removed) else found
        tenant = tenant_of(artifact.place.prefix)
        keys = keys_of(self.keys, tenant)
        owner = self.index.owner(tenant, keys.ids)
        id = self.index.add_artifact(artifact, owner, removed=isinstance(found, Removed))
        records = 0
        try:
            if artifact.place.stage in (*HAVE_RECORDS, *ASKED):
                members = indexed_members(self.stored, artifact, keys, keys_of(self.keys, SHARED_OWNER))
                self.index.add_members(owner, id, members)
                records = len(members)
            elif artifact.place.stage == FINE_TUNED_MODEL.name:
                self._add_times(artifact, id)
        except MALFORMED as error:
            said = problem_of(error, self.store.uri(artifact.path))
            problems.append(Unread(artifact.place.prefix, artifact.place.stage, said))
            self.index.set_records(id, records, said)
        else:
            self.index.set_records(id, records)
        return records if artifact.place.stage in HAVE_RECORDS else 0

    def _add_times(self, model: Artifact, id: int) -> None:
        mixture = self.stored.parent(model, TRAINING_MIXTURE.name)
        if mixture is None:
            fix = "Restore it from a backup"
            raise UserError("the mixture that this model was trained on is gone", value=model.digest, fix=fix)
        self.index.add_times(id, times_of(self.stored, model, mixture))

    def _add_releases(self, problems: list[Unread]) -> None:
        """Add the release logs as they are now."""
        known = defaultdict[str, list[LogEntry]](list)
        for each in self.index.releases():
            known[each.prefix].append(each)
        prefixes = tenant_prefixes(self.store)
        for prefix in known.keys() - set(prefixes):
            self.index.set_releases(prefix, [])
        for prefix in list(self._moved_logs(prefixes, known)):
            try:
                entries = log_entries(prefix, read_log(self.store, prefix))
            except UserError as error:
                problems.append(Unread(prefix, "", str(error)))
                continue
            if entries != known[prefix]:
                self.index.set_releases(prefix, entries)

    def _moved_logs(self, prefixes: Sequence[str], known: Mapping[str, list[LogEntry]]) -> Iterator[str]:
        """Yield the parts whose release log may be another than the index knows: it has more or fewer
        entries, or another newest one, which names those before it (one of an old schema does not: such a log
        is read whole).
        """
        alike: list[LogEntry] = []
        for prefix in prefixes:
            there = numbers(self.store, folder_of(prefix))
            if len(there) != len(known.get(prefix, ())):
                yield prefix
            elif there:
                alike.append(known[prefix][-1])
        for first in range(0, len(alike), AT_ONCE):
            batch = alike[first : first + AT_ONCE]
            try:
                contents = self.store.read_each([entry_path(each.prefix, each.number) for each in batch])
            except IsADirectoryError:  # reading its log names it
                contents = [None] * len(batch)
            for newest, content in zip(batch, contents, strict=True):
                if content is None or not _stands_for_all(newest, content):
                    yield newest.prefix


def _stands_for_all(newest: LogEntry, content: bytes) -> bool:
    """Say whether a file is the entry that the index knows, and names those before it."""
    if hashlib.sha256(content).hexdigest() != newest.sha256:
        return False
    try:
        return bool(loads(content)["schema_version"] >= CHAINED)
    except MALFORMED:
        return False


def log_entries(prefix: str, log: ReleaseLog) -> list[LogEntry]:
    """Return a release log as the index has it."""
    known = zip(log.entries, log.hashes, strict=True)
    return [
        LogEntry(prefix, at, dumps(entry.to_json()), sha256) for at, (entry, sha256) in enumerate(known, 1)
    ]


def indexed_members(stored: StoredFiles, artifact: Artifact, keys: OwnerKeys, shared: OwnerKeys) -> Members:
    """Return the records of an artifact, or the questions of an evaluation, each by one of the keys. A tree
    has the lookups by its own already. Where that key is lost they are those by the shared key, of a file
    that has identities those of the current one, as of what has no tree. `shared`: keys of what all share.

    Raises UserError where neither key is here and there are no identities.
    """
    head = TreeHead.of(artifact.figures, file=stored.store.uri(artifact.manifest_path))
    has_tree = artifact.place.stage not in ASKED and head is not None
    if head is not None and has_tree and keys.of_id(head.key) is not None:
        return _of_tree(stored, artifact)
    lost = head.key if head is not None and has_tree else ""
    found = _without_key(stored, artifact, shared, lost) if lost else None
    if found is None:
        found = _named_rows(stored, artifact, keys)
    rows = np.fromiter(((short(name), number, state) for name, number, state in found), MEMBER)
    return as_members(rows["lookup"], rows["number"], rows["state"])


def _without_key(
    stored: StoredFiles, artifact: Artifact, shared: OwnerKeys, lost: str
) -> Iterator[tuple[bytes, int, int]] | None:
    """Return (lookup by the shared key, number, state) of each record; None where the files have identities.
    Raises UserError where that key is not here either. `lost`: the id of the key that orders the tree.
    """
    names = (f"evidence/{name}" for name in (ORIGINS, DROPPED))
    files = [stored.file(artifact, name) for name in names if stored.has(artifact, name)]
    ids = {shared_key_of(file) for file in files} - {""}
    if None in ids:
        return None
    if any(shared.of_id(str(id)) is None for id in ids):
        where = stored.store.uri(artifact.path)
        raise UserError(f"the key {lost}, by which its records are known, is lost", file=where, fix=RESTORE)
    lookups = (name for file in files for batch in shared_names(file, None) for name in batch)
    members = (one for batch in members_of(stored, artifact) for one in batch)
    return ((name, one.number, one.state) for name, one in zip(lookups, members, strict=True))


def _of_tree(stored: StoredFiles, artifact: Artifact) -> Members:
    tree = RecordTree.read(stored.evidence(artifact))
    states = row_states(stored.file(artifact, f"evidence/{ORIGINS}"))
    there = tree.rows != ERASED_ROW
    kept = np.where(tree.dropped, 0, tree.rows)
    found = np.where(tree.dropped, 0, states[kept] if len(states) else 0)
    return as_members(np.frombuffer(tree.lookups, ">u8")[:: SIZE // 8][there], tree.rows[there], found[there])


def _named_rows(stored: StoredFiles, artifact: Artifact, keys: OwnerKeys) -> Iterator[tuple[bytes, int, int]]:
    """Yield (lookup, number, state) of each record; of each question, by each of its names."""
    lookup = keys.current.lookup
    if artifact.place.stage in ASKED:
        for question in judged_questions(stored, artifact):
            yield from ((lookup(name), question.number, question.state) for name in question.names)
    for members in members_of(stored, artifact):
        yield from ((one.known if one.keyed else lookup(one.known), one.number, one.state) for one in members)


def places_of(store: Store) -> Iterator[Place]:
    """Yield every key of every stage, committed or not."""
    corpora = [f"{SHARED}/corpora/{name}" for name in store.names(f"{SHARED}/corpora")]
    for prefix in (SHARED, *corpora, *tenant_prefixes(store)):
        for stage in store.names(prefix):
            if stage not in NO_STAGES and _STAGE.fullmatch(stage):
                keys = store.names(f"{prefix}/{stage}")
                yield from (Place(prefix, stage, key) for key in keys if _KEY.fullmatch(key))


def tenant_prefixes(store: Store) -> list[str]:
    """Return the part of a store that each variant has."""
    return [
        f"tenants/{tenant}/{variant}"
        for tenant in store.names("tenants")
        for variant in store.names(f"tenants/{tenant}")
    ]


def _rank(place: Place) -> tuple[int, str]:
    """Return a sort key: what records are read from goes before what was made of it."""
    ranked = (*HAVE_RECORDS, FINE_TUNED_MODEL.name)
    return (ranked.index(place.stage) if place.stage in ranked else len(ranked)), place.path
