"""Copies one store into another (`store copy`), folder or S3, each byte held against its digest.

First come the signatures, then all artifacts, each one's files before its manifest; then what lies beside
them; then the release logs, entry by entry; the heads come last. Logs and heads are those from before the
artifacts were listed. So the target is at every moment a store that holds, in which less is known; killed,
the next call goes on behind the last manifest. Attempts that nobody committed stay behind, and claims but
those of removals. What the target's own retention removed is not brought back; what the source's removed
stays in the target until the target's removes it, or something comes that was made in its place and nothing
there needs the old one.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Literal, TypeVar

from ft_dagster.errors import UserError
from ft_dagster.lineage.log import entry_path, mark_newest, marked, read_log
from ft_dagster.lineage.reachable import reached
from ft_dagster.lineage.retention import Rules
from ft_dagster.store.artifacts import Artifact, Place, Removed, generations, stated
from ft_dagster.store.blobs import Store, StoredFile
from ft_dagster.store.contents import Keyed, contents_of
from ft_dagster.store.exclusive import PROBES, WRITER
from ft_dagster.store.removal import DAY, claim_removal, finish_removal, outlives, removal_claim
from ft_dagster.store.signatures import FOLDER
from ft_dagster.store.transfer import Transfer, fetch, persist, send
from ft_dagster.strict_json import loads

T = TypeVar("T")

AT_ONCE = 8  # artifacts, or other files, that are copied together
MUTABLE = ("heads", "experiments")  # folders whose files are written over
How = Literal["copied", "there", "left", "removed"]


@dataclass(frozen=True)
class Copied:
    """Reports a copy. `how`: `there` before it was copied; `left`: the target has a newer one; `removed`: the
    target's retention removed it. `bytes`: moved.
    """

    path: str
    how: How
    bytes: int = 0


def copy_store(
    source: Store,
    target: Store,
    drafts: Path,
    rules: Rules,
    expect: Callable[[int], None] = lambda total: None,
) -> Iterator[Copied]:
    """Copy all that is committed. `drafts`: a folder of this host for what is on its way. `rules`: retention
    of the target. `expect` is told how many there are once that is known, but for entries of logs.

    Raises UserError: something of the source cannot be read or has other bytes than its manifest says; the
    target has another artifact, record or log under the same name, or needs an artifact that was removed and
    made again here.
    """
    early = [file for file in source.walk() if _is_record(file)]
    changing = {file: source.read(file.path) for file in early if _is_mutable(file)}
    contents = contents_of(source)
    if not contents.keyed and not contents.records:
        raise UserError("nothing is there", file=source.url, fix="Name a store")
    damaged = next((keyed.damaged for keyed in contents.keyed.values() if keyed.damaged), None)
    if damaged is not None:
        raise damaged
    copy = _Copy(source, target, drafts, rules)
    listed = Counter(str(PurePosixPath(file.path).parent.parent) for file in early if _is_entry(file))
    logs = {prefix: min(listed[prefix], len(read_log(source, prefix).entries)) for prefix in sorted(listed)}
    committed = [keyed for keyed in contents.keyed.values() if keyed.committed]
    records = [file for file in contents.records if _is_record(file) and not _is_mutable(file)]
    fixed = [file for file in records if not _is_of_log(file)]
    expect(len(committed) + len(fixed) + len(changing))
    signatures = [file.path for file in fixed if _is_signature(file)]
    yield from copy.each(copy.record, signatures)
    yield from copy.each(copy.artifact, committed)
    yield from copy.each(copy.record, [file.path for file in fixed if not _is_signature(file)])
    for prefix, entries in logs.items():
        yield from copy.log(prefix, entries)
    yield from copy.each(copy.changing, list(changing.items()))


class _Copy:
    def __init__(self, source: Store, target: Store, drafts: Path, rules: Rules) -> None:
        self._source, self._target, self._drafts, self._rules = source, target, drafts, rules
        self._needed: set[Place] | None = None
        self._looking = Lock()

    def each(self, copy: Callable[[T], Copied], those: Sequence[T]) -> Iterator[Copied]:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for first in range(0, len(those), AT_ONCE):
                yield from pool.map(copy, those[first : first + AT_ONCE])

    def artifact(self, keyed: Keyed) -> Copied:
        """Copy what is committed under a key, with what was removed there before and outlived it. A manifest
        is written when all files of its artifact were read back.
        """
        there = list(generations(self._target, keyed.place))
        here: list[Artifact | Removed] = [*keyed.removed, *([keyed.artifact] if keyed.artifact else [])]
        for known, one in zip(there, here, strict=False):
            self._same(keyed.place.manifest, _made(one).manifest, _made(known).manifest)
        path, newest = keyed.place.path, there[-1] if there else None
        if keyed.artifact is not None and any(isinstance(one, Removed) for one in there[len(here) - 1 :]):
            return Copied(path, "left" if isinstance(newest, Artifact) else "removed")
        new = here[len(there) :]
        if keyed.artifact is None and new and isinstance(newest, Artifact):
            return Copied(path, "left")  # all of the source's was removed: nothing takes its place
        moved = sum(self._outlived(one, keyed) for one in keyed.removed if _made(one) not in there)
        if keyed.artifact in new:
            moved += self._files(keyed.artifact, keyed.artifact.files)
        if new and isinstance(newest, Artifact):
            self._let_go(newest, keyed.removed[len(there) - 1])
        moved += sum(map(self._manifest, new))
        return Copied(path, "copied" if new or moved else "there", moved)

    def _manifest(self, one: Artifact | Removed) -> int:
        """Copy a manifest, and return the bytes moved."""
        made = _made(one)
        content = self._source.read(made.manifest_path)
        if stated(self._source, made.place, content, made.generation) != one:
            raise _changed(self._source, made.manifest_path)
        self._create(made.manifest_path, content)
        return len(content)

    def _outlived(self, removed: Removed, keyed: Keyed) -> int:
        """Bring what is left of an artifact, and the claim of its removal. Bytes moved."""
        made = removed.artifact
        there = self._target.files_below(made.path)
        attempt = made.predicate["attempt"]
        moved = self._files(
            made,
            [
                name
                for name, file in made.files.items()
                if outlives(made.place, name)
                and f"{attempt}/{name}" in keyed.files
                and there.get(name) != file.size
            ],
        )
        claim = removal_claim(self._source, made)
        if claim is not None and removal_claim(self._target, made) is None:
            self._create(*claim)
            moved += len(claim[1])
        return moved

    def _let_go(self, standing: Artifact, removed: Removed) -> None:
        """Remove from the target what was removed from the source, for what was made in its place; not what
        the target's own retention keeps.
        """
        before = time.time() - DAY
        created = datetime.fromisoformat(standing.predicate["created"]).timestamp()
        if (
            created >= before
            or self._is_needed(standing.place)
            or not claim_removal(self._target, standing, removed.why, before)
        ):
            raise UserError(
                f"made again in {self._source.url}, while the first one is in use here",
                file=self._target.uri(standing.path),
                fix="Run it again when retention here lets it go, or copy into another store",
            )
        finish_removal(self._target, standing)

    def _is_needed(self, place: Place) -> bool:
        """Say whether heads, releases, retention or legal hold of the target need it, as it was when this was
        first asked.
        """
        with self._looking:
            if self._needed is None:
                self._needed = reached(self._target, contents_of(self._target), self._rules)
            return place in self._needed

    def _files(self, artifact: Artifact, names: Iterable[str]) -> int:
        """Copy files, and return the bytes moved: as amended, where they are."""
        artifact = artifact.as_amended(self._source) or artifact
        files = {f"{artifact.path}/{name}": artifact.files[name] for name in names}
        return sum(self._file(path, file.size, file.sha256) for path, file in files.items())

    def record(self, path: str) -> Copied:
        """Copy a file that is never changed once it is there."""
        there = self._read_target(path)
        content = self._source.read(path)
        if there is None:
            self._create(path, content)
            return Copied(path, "copied", len(content))
        self._same(path, content, there)
        return Copied(path, "there")

    def changing(self, read: tuple[StoredFile, bytes]) -> Copied:
        """Copy a file that may be written over, with its content; unless the target's is newer."""
        file, content = read
        there = self._read_target(file.path)
        if there == content:
            return Copied(file.path, "there")
        if there is not None and self._is_newer(there, content, file):
            return Copied(file.path, "left")
        self._target.write(file.path, content)
        return Copied(file.path, "copied", len(content))

    def _is_newer(self, there: bytes, here: bytes, file: StoredFile) -> bool:
        """Say whether one is newer, by the dates that both have in them, else by when they were written."""
        dates = _date_in(there), _date_in(here)
        if dates[0] and dates[1]:
            return dates[0] > dates[1]
        return self._target.modified(file.path) >= file.modified

    def log(self, prefix: str, entries: int) -> Iterator[Copied]:
        """Copy so many entries of a release log, of which the target may have a part, or more than all. Each
        is counted there once it is.
        """
        has_head, there = marked(self._source, prefix) > 0, marked(self._target, prefix)
        for number in range(1, entries + 1):
            path = entry_path(prefix, number)
            yield self.record(path)
            if has_head and number > there:
                mark_newest(self._target, prefix, number, self._source.read(path))
        read_log(self._target, prefix)

    def _file(self, path: str, size: int, sha256: str) -> int:
        """Copy a file, and return the bytes moved: none where the target has them. It is read back, and held
        against the manifest's digest.
        """
        if self._has(path, sha256):
            return 0
        with self._local(path, sha256) as file:
            send(self._target, Transfer(file, path, sha256))
        return size

    def _has(self, path: str, sha256: str) -> bool:
        try:
            return persist(lambda: self._target.sha256(path)) == sha256
        except FileNotFoundError:
            return False

    @contextmanager
    def _local(self, path: str, sha256: str) -> Iterator[Path]:
        """Return a file of the source on this host."""
        here = self._source.local(path)
        if here is not None:
            yield here
            return
        draft = self._drafts / uuid.uuid4().hex
        try:
            fetch(self._source, Transfer(draft, path, sha256), self._drafts)
            yield draft
        finally:
            draft.unlink(missing_ok=True)

    def _read_target(self, path: str) -> bytes | None:
        return self._target.read_each([path])[0]

    def _create(self, path: str, content: bytes) -> None:
        if not self._target.create_exclusively(path, content):
            self._same(path, content, self._target.read(path))
        self._same(path, content, self._target.read(path))

    def _same(self, path: str, here: bytes | str, there: bytes | str) -> None:
        if here != there:
            raise UserError(
                f"another file than {self._source.uri(path)} has this name",
                file=self._target.uri(path),
                fix="Copy into another store: these two went their own ways",
            )


def _made(one: Artifact | Removed) -> Artifact:
    """Yield what was committed, whether it stands or was removed."""
    return one if isinstance(one, Artifact) else one.artifact


def _is_record(file: StoredFile) -> bool:
    """Say whether a file is a record: not what a store has of its own, nor a draft that a killed writer
    left.
    """
    parts = PurePosixPath(file.path).parts
    return parts[0] not in (WRITER, PROBES) and not any(part.startswith(".") for part in parts)


def _is_signature(file: StoredFile) -> bool:
    return PurePosixPath(file.path).parent.name == FOLDER


def _is_of_log(file: StoredFile) -> bool:
    return PurePosixPath(file.path).parent.name == "releases"


def _is_entry(file: StoredFile) -> bool:
    path = PurePosixPath(file.path)
    return _is_of_log(file) and path.stem.isdigit() and path.suffix == ".json"


def _is_mutable(file: StoredFile) -> bool:
    return any(part in MUTABLE for part in PurePosixPath(file.path).parts[1:-1])


def _date_in(content: bytes) -> str:
    """Return when a head was moved, ISO 8601 in UTC; empty where nothing says so."""
    try:
        return str(loads(content)["at"])
    except (ValueError, KeyError, TypeError):
        return ""


def _changed(store: Store, path: str) -> UserError:
    return UserError(
        "has other bytes than when it was made, or changed meanwhile",
        file=store.uri(path),
        fix="Restore it from a backup, or run it again where somebody was at work there",
    )
