"""Reads the records of an artifact, as an audit counts them: each with its split, and its number among the
evidence.

Of an artifact with record evidence its rows.parquet and dropped.parquet are read; of an older one the rows of
its payload, whose identity, identity 1, is then computed from the text.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ft_dagster.data.files.parquet import arrays_of, column_names, dicts_of, rows_of
from ft_dagster.data.mixture.asked_before import EXAMPLE
from ft_dagster.data.mixture.mixture_figures import GENERAL
from ft_dagster.data.mixture.mixture_io import HOLDOUT, shard_files
from ft_dagster.data.rows.content import identity_of, normal_text
from ft_dagster.data.rows.dataset_io import DROPPED, ORIGINS, as_row
from ft_dagster.errors import UserError
from ft_dagster.files import read_text
from ft_dagster.provenance.digest import sha256_file
from ft_dagster.provenance.hash_cache import SETTLED_SECONDS
from ft_dagster.provenance.stamp import Stamp
from ft_dagster.records.record_tree import LOOKUP, TREE, check_names
from ft_dagster.schema_version import refuse_newer
from ft_dagster.stage_entries import BASE_TEXT, GENERAL_CORPUS, TASK_DATASET, TRAINING_MIXTURE, names_of
from ft_dagster.store import Artifact, Place, Store
from ft_dagster.store.artifacts import Removed, stated
from ft_dagster.store.cache import DRAFTS, hold, make_room, release
from ft_dagster.store.transfer import OTHER_BYTES, Transfer, fetch_all
from ft_dagster.strict_json import loads

ASKED = names_of(lambda entry: entry.judges in ("model", "production"))  # have questions, see `judged`
HAVE_RECORDS = names_of(lambda entry: entry.has_records)
STEP_LOG = "evidence/log.jsonl"  # of a training
LEDGER, LEDGER_VERSION, MOST_TIMES = "evidence/ledger.json", 1, 2**32 - 1
MOST_LEDGER_BYTES = 4_000_000_000
QUESTION, PROBE, CANARY = "question", "probe", "canary"
STATES = ("dropped", "train", "validation", "test", "holdout", HOLDOUT, QUESTION, PROBE, CANARY)  # by number
NUMBER = {name: number for number, name in enumerate(STATES)}
TRAIN = NUMBER["train"]
BATCH = 8192
HELD_AT_ONCE = 128  # copies of a remote store: each holds a file open
RESTORE = "Restore it from a backup"
LEAF_DIGITS = 64  # of a name that is a record's leaf
Times = NDArray[np.uint32]


def said_by(store: Store, place: Place, generation: int) -> Artifact | Removed | None:
    """Return what the manifest of one generation of a key says; None where there is none. Raises UserError
    for one that cannot be read.
    """
    try:
        content = store.read(place.manifest_of(generation))
    except FileNotFoundError:
        return None
    return stated(store, place, content, generation)


class HeldRecord(NamedTuple):
    """Is a record in an artifact. `known`: its lookup under the key of the artifact's tree, where it is
    `keyed`, else its identity. `state`: of STATES. `number`: of its row in rows.parquet (in
    dropped.parquet of one that was left out), or counted in the payload. `name`: of a mixture, what a ledger
    calls it; else its row in the split or part, or the leaf that old rows have.
    """

    known: bytes
    state: int
    number: int
    name: str = ""
    keyed: bool = False


@dataclass(frozen=True)
class StoredFiles:
    """Opens files of artifacts on this machine, their bytes checked against the manifest.

    `parent`: the artifact of a stage that another was made from, or None where it is gone.
    """

    store: Store
    cache: Path
    parent: Callable[[Artifact, str], Artifact | None]
    _known: dict[Path, tuple[Stamp, str]] = field(default_factory=dict)
    _in_use: dict[tuple[str, str], None] = field(default_factory=dict)  # the oldest first
    _room: dict[str, float] = field(default_factory=dict)
    _amended: dict[str, Artifact] = field(default_factory=dict)  # by the sha256 of the manifest

    def has(self, artifact: Artifact, name: str) -> bool:
        return name in artifact.files

    def file(self, artifact: Artifact, name: str) -> Path:
        """Return one file of an artifact, such as evidence/rows.parquet; of a remote store a copy of it.

        Raises UserError for one that is damaged.
        """
        artifact = self._amended.get(artifact.manifest, artifact)
        try:
            return self._file(artifact, name)
        except UserError:
            amended = artifact.as_amended(self.store) if name.startswith("evidence/") else None
            if amended is None or amended == artifact:
                raise
            self._amended[artifact.manifest] = amended
            return self._file(amended, name)

    def amended_anew(self, artifact: Artifact) -> None:
        """Look again at its amendments when a file of it is asked for next."""
        self._amended.pop(artifact.manifest, None)

    def _file(self, artifact: Artifact, name: str) -> Path:
        listed, stored = artifact.files[name].sha256, f"{artifact.path}/{name}"
        path = self.store.local(stored)
        if path is None:
            path = self._copy(artifact, name)
        fix = "Restore it from a backup; `ft-dagster audit verify` says what else differs"
        if not path.is_file() or path.is_symlink():
            removed = said_by(self.store, artifact.place, artifact.generation)
            if isinstance(removed, Removed):
                raise removed.error(self.store)
            raise UserError("a stored file is missing", file=self.store.uri(stored), fix=fix)
        if self._sha256(path) != listed:
            raise UserError(f"a stored file {OTHER_BYTES}", file=self.store.uri(stored), fix=fix)
        return path

    def left(self, artifact: Artifact, name: str) -> Path | None:
        """Return one file of an artifact; None where retention removed it. Raises UserError, see `file`."""
        if not self.store.exists(f"{artifact.path}/{name}"):
            removed = said_by(self.store, artifact.place, artifact.generation)
            if isinstance(removed, Removed):
                return None
        return self.file(artifact, name)

    def _copy(self, artifact: Artifact, name: str) -> Path:
        """Return where a file of a remote store is in the cache, held there while this process lives; it is
        downloaded where it is absent or has other bytes.
        """
        file = artifact.files[name]
        path = self._held(artifact.digest, str(artifact.predicate["attempt"])) / name
        if path.is_file() and not path.is_symlink():
            if self._sha256(path) == file.sha256:
                return path
            path.unlink()
        self._make_room(file.size)
        with suppress(FileNotFoundError):
            fetch_all(
                self.store, [Transfer(path, f"{artifact.path}/{name}", file.sha256)], self.cache / DRAFTS
            )
        return path

    def _held(self, digest: str, attempt: str) -> Path:
        """Return a folder of the cache, held with the HELD_AT_ONCE that were asked for last."""
        self._in_use.pop((digest, attempt), None)
        self._in_use[digest, attempt] = None
        while len(self._in_use) > HELD_AT_ONCE:
            oldest = next(iter(self._in_use))
            del self._in_use[oldest]
            release(self.cache, *oldest)
        return hold(self.cache, digest, attempt)

    def _make_room(self, size: int) -> None:
        """Make room in parts of a hundredth of the cache: to look through all of it takes its time."""
        limit = self.store.cache_bytes
        if limit is None:
            return
        if self._room.get("left", 0.0) < size:
            self._room["left"] = max(size, limit / 100)
            make_room(self.cache, limit, int(self._room["left"]))
        self._room["left"] -= size

    def _sha256(self, path: Path) -> str:
        """Return the sha256 of a file as it is; remembered while nothing touches it, once it is older than a
        file system's clock.
        """
        stamp = Stamp.of(path.stat())
        if path not in self._known or self._known[path][0] != stamp:
            found = sha256_file(path)
            if time.time() - stamp.newest_ns / 1e9 < SETTLED_SECONDS:
                return found
            self._known[path] = stamp, found
        return self._known[path][1]

    def evidence(self, artifact: Artifact) -> Path:
        """Return the folder of an artifact's evidence, with its record files checked."""
        names = [f"evidence/{name}" for name in (ORIGINS, DROPPED, TREE)]
        files = [self.file(artifact, name) for name in names if self.has(artifact, name)]
        return files[0].parent


def members_of(stored: StoredFiles, artifact: Artifact) -> Iterator[list[HeldRecord]]:
    """Yield all records of a data set, corpus or mixture, in batches. Raises UserError where they cannot be
    read.
    """
    if artifact.place.stage not in HAVE_RECORDS:
        return
    if stored.has(artifact, f"evidence/{ORIGINS}"):
        for name in (ORIGINS, DROPPED):
            if stored.has(artifact, f"evidence/{name}"):
                yield from _of_evidence(stored.file(artifact, f"evidence/{name}"))
        return
    readers = {
        TASK_DATASET.name: _of_rows,
        GENERAL_CORPUS.name: _of_documents,
        BASE_TEXT.name: _of_documents,
        TRAINING_MIXTURE.name: _of_examples,
    }
    yield from _batched(readers[artifact.place.stage](stored, artifact))


def times_of(stored: StoredFiles, model: Artifact, mixture: Artifact) -> Times:
    """Return how often examples of each record of the mixture were trained on, by the record's number, up to
    the checkpoint that the model is. Raises UserError for a ledger of another training.
    """
    file = stored.file(model, LEDGER)
    seen = _counts_of(file, mixture)
    size, known = _training_names(stored, mixture)
    strange = next((name for name in seen.names if name not in known), None)
    if strange is not None:
        raise UserError(
            "the ledger names a record that its mixture has not", file=file, value=strange, fix=RESTORE
        )
    places = np.fromiter(map(known.__getitem__, seen.names), np.int64, len(seen.names))
    times = np.zeros(size, np.uint64)
    np.add.at(times, places, seen.counts)
    if times.max(initial=0) > MOST_TIMES:
        raise _no_ledger(file)
    return times.astype(np.uint32)


class _Seen(NamedTuple):
    """Says what a ledger has: examples (`counts`) of each of its records (`names`)."""

    names: list[str]
    counts: NDArray[np.uint64]


def _counts_of(file: Path, mixture: Artifact) -> _Seen:
    """Raises UserError for one of another mixture, or none."""
    try:
        content = loads(read_text(file, most=MOST_LEDGER_BYTES))
        refuse_newer(content["schema_version"], LEDGER_VERSION, file=file)
        trained_on = str(content["mixture_digest"])
        names, counts = content["records"], content["times_exported"]
        whole = isinstance(names, list) and isinstance(counts, list) and len(names) == len(counts)
        if not whole or not all(type(n) is int and 0 <= n <= MOST_TIMES for n in counts):
            raise ValueError
        "".join(names).encode()  # texts, and of characters alone
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _no_ledger(file) from None
    if trained_on != mixture.digest:
        raise UserError(
            f"the ledger is of mixture {trained_on[:12]}, the model was trained on another",
            file=file,
            value=mixture.digest[:12],
            fix=RESTORE,
        )
    return _Seen(names, np.array(counts, np.uint64))


def _no_ledger(file: Path) -> UserError:
    return UserError("not a ledger of a training", file=file, fix=RESTORE)


def row_states(file: Path) -> NDArray[np.int64]:
    """Return the state of each row of a rows.parquet, by number."""
    [states] = arrays_of(file, "split" if "split" in column_names(file) else "part")
    return np.fromiter(map(NUMBER.__getitem__, states.tolist()), np.int64, len(states))


def _training_names(stored: StoredFiles, mixture: Artifact) -> tuple[int, dict[str, int]]:
    """Return of the records of a mixture that may be trained on: above all their numbers, and what a ledger
    calls them -> number.
    """
    if not stored.has(mixture, f"evidence/{ORIGINS}"):
        members = (one for batch in members_of(stored, mixture) for one in batch if one.state == TRAIN)
        named = [(one.number, one.name) for one in members]
    else:
        file = stored.file(mixture, f"evidence/{ORIGINS}")
        splits, names = (column.tolist() for column in arrays_of(file, "split", EXAMPLE))
        rows = enumerate(zip(splits, names, strict=True))
        named = [(at, name) for at, (split, name) in rows if split == "train"]
    known = {name: number for number, name in reversed(named)}
    return max((number for number, _ in named), default=-1) + 1, known


def _of_evidence(file: Path) -> Iterator[list[HeldRecord]]:
    names = column_names(file)
    state = next((name for name in ("split", "part") if name in names), "split")
    called = EXAMPLE if "examples" in names else '"row"::VARCHAR' if "row" in names else "''"
    known = check_names(names, file)
    columns = (known, "'dropped'" if file.name == DROPPED else state, called)
    numbers = count()
    for batch in rows_of(file, *columns):
        yield [
            HeldRecord(bytes.fromhex(one), NUMBER[state], next(numbers), name, known == LOOKUP)
            for one, state, name in batch
        ]


def _of_rows(stored: StoredFiles, dataset: Artifact) -> Iterator[HeldRecord]:
    """Yield the records of a data set without record evidence."""
    numbers = count()
    for split in ("train", "validation", "test"):
        if stored.has(dataset, f"payload/{split}.parquet"):
            for row, record in enumerate(dicts_of(stored.file(dataset, f"payload/{split}.parquet"))):
                name = str(record.get("record", row))
                yield HeldRecord(as_row(record).identity_1, STATES.index(split), next(numbers), name)


def _of_documents(stored: StoredFiles, corpus: Artifact) -> Iterator[HeldRecord]:
    numbers = count()
    for part in ("train", "holdout"):
        for name in [
            name for name in corpus.files if name.startswith("payload/") and name.endswith(f"/{part}.parquet")
        ]:
            for row, record in enumerate(dicts_of(stored.file(corpus, name))):
                identity = identity_of("text", [("text", normal_text(record["text"]))])
                yield HeldRecord(identity, STATES.index(part), next(numbers), str(record.get("record", row)))


def _of_examples(stored: StoredFiles, mixture: Artifact) -> Iterator[HeldRecord]:
    """Yield the records of a mixture without record evidence: by the leaves, or the rows, that its examples
    name.
    """
    known = _names_above(stored, mixture)
    numbers = count()
    payload = stored.file(mixture, "payload/mixture.json").parent
    for split, state in (("train", "train"), ("validation", "validation"), (HOLDOUT, HOLDOUT)):
        seen: set[str] = set()
        for shard in shard_files(payload, split):
            for name in _example_names(stored.file(mixture, f"payload/{shard.relative_to(payload)}")):
                above = known.get((split, name.startswith(GENERAL), name.rpartition(":")[2]))
                if name not in seen and above is not None:
                    seen.add(name)
                    place = STATES.index(state), next(numbers)
                    yield above._replace(state=place[0], number=place[1], name=name)


def _names_above(stored: StoredFiles, mixture: Artifact) -> dict[tuple[str, bool, str], HeldRecord]:
    """Return (split of the mixture, of a corpus or not, what an example of it names) -> the record above.

    Examples that name leaves do not say whether those are of a corpus.
    """
    found: dict[tuple[str, bool, str], HeldRecord] = {}
    parts = {"train": "train", "validation": "validation", "holdout": HOLDOUT}
    for stage in (TASK_DATASET.name, GENERAL_CORPUS.name):
        above = stored.parent(mixture, stage)
        if above is None:
            continue
        for member in (member for batch in members_of(stored, above) for member in batch):
            split = parts.get(STATES[member.state])
            if split is not None:
                is_leaf = len(member.name) == LEAF_DIGITS
                found[split, stage == GENERAL_CORPUS.name and not is_leaf, member.name] = member
    return found


def _example_names(shard: Path) -> Iterator[str]:
    for batch in rows_of(shard, "record" if "record" in column_names(shard) else EXAMPLE):
        yield from (name for (name,) in batch)


def _batched(members: Iterator[HeldRecord]) -> Iterator[list[HeldRecord]]:
    batch: list[HeldRecord] = []
    for member in members:
        batch.append(member)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
