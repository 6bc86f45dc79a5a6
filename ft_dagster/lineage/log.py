"""Reads and writes the files of a release log: `<prefix>/releases/000001.json`, one entry each, numbered
without a gap.

Each entry names in `previous` what it was written after: the sha256 of the file before it. Entries of schema
1 and 2 named nothing; the first entry after them names them all, by the sha256 over the list of their hashes.
So an entry that was changed, taken out or put in is noticed by the one after it. For the last there is
`head.json` beside the entries, written after each: how many there were, and the hash of the newest. So the
head holds all before it, and of a remote store this host reads each entry once (`recalled_log`).

What stands after the head does not count, and is named: its writer was killed before it wrote the head, or is
about to, or somebody put it there. Who does the same again writes the head for it (`adopt`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.lineage.entry import RELEASE, ReleaseEntry, broken_entry
from ft_dagster.provenance.digest import sha256_json
from ft_dagster.provenance.manifest import variant_of
from ft_dagster.provenance.signing import RELEASE as RELEASED
from ft_dagster.provenance.witnessed import Seen
from ft_dagster.store.blobs import Store, as_stored
from ft_dagster.store.signatures import moment, require, sign, signers
from ft_dagster.strict_json import loads

CHAINED = 3  # the first schema whose entries name what stands before them
HEAD = "head.json"
AT_ONCE = 64  # entries read from a remote store together
RESTORE = "Restore the log's folder from a backup"
UNCOUNTED = "without its head, so that it does not count: its writer was killed, or somebody put it there"


class _Head(NamedTuple):
    """Counts the entries there were when it was written, with the sha256 of the newest; 0 and "" without
    one.
    """

    entries: int
    sha256: str


class _Stored(NamedTuple):
    """Holds an entry's file; `content`: None where it is not there."""

    path: str
    content: bytes | None
    recalled: bool = False


@dataclass(frozen=True)
class ReleaseLog:
    """Holds all entries, oldest first, the sha256 of the file of each, and what the next one is to name as
    `previous`. `uncounted`: files that stand after the head, as far as they were looked for.
    """

    entries: list[ReleaseEntry]
    hashes: list[str]
    link: str | None
    uncounted: tuple[str, ...] = ()


def read_log(store: Store, prefix: str) -> ReleaseLog:
    """Read every entry from the store. Raises UserError that names the entry: one that is missing, was
    changed, or cannot be read.
    """
    head = _head(store, prefix)
    while True:
        log = _whole(store, prefix, head)
        now = _head(store, prefix) if log.uncounted else head
        if now == head:
            return log
        head = now  # what stood after it is counted by now


def recalled_log(store: Store, prefix: str) -> ReleaseLog:
    """Read the log as `read_log` does; of a remote store only the head, and what of it this host did not read
    before.

    The head names the newest entry by its hash, and each entry the one before it: so none that is remembered
    is another than was there when the head was written. Where they do not fit, all are read.
    """
    head = _head(store, prefix)
    if head.entries and store.remote:
        with suppress(UserError):
            return _checked(store, prefix, head, _contents(store, prefix, head.entries, recalled=True))
    return _whole(store, prefix, head)


def _whole(store: Store, prefix: str, head: _Head) -> ReleaseLog:
    there = max(head.entries, *_numbers(store, prefix), 0)
    return _checked(store, prefix, head, _contents(store, prefix, there))


def _checked(store: Store, prefix: str, head: _Head, contents: Iterable[_Stored]) -> ReleaseLog:
    """Return the log of these entries, in order, as far as its head holds them; these are remembered."""
    entries: list[ReleaseEntry] = []
    hashes: list[str] = []
    uncounted: list[str] = []
    read = dict[str, bytes]()
    for path, content, recalled in contents:
        if uncounted or (head.entries and len(entries) == head.entries):
            uncounted += [] if content is None else [store.uri(path)]
            continue
        if content is None:
            gone = "this entry of a release log is missing"
            raise UserError(gone, file=store.uri(path), fix=RESTORE)
        entry = _entry(store, prefix, path, content, hashes)
        if entry.schema_version >= CHAINED and not head.entries:  # the first one before its head
            uncounted.append(store.uri(path))
            continue
        if entry.variant != variant_of(prefix):
            another = f"an entry of another variant's release log ({entry.variant})"
            raise UserError(another, file=store.uri(path), fix=RESTORE)
        _check_versions(entry, entries, store.uri(path))
        _check_link(entry, entries, hashes, store.uri(path))
        entries.append(entry)
        hashes.append(hashlib.sha256(content).hexdigest())
        if head.entries and not recalled:
            read[path] = content
    if len(uncounted) > 1 and not head.entries:
        gone = f"{HEAD} of this release log is missing"
        raise UserError(gone, file=store.uri(folder_of(prefix)), fix=RESTORE)
    if head.entries and hashes[head.entries - 1] != head.sha256:
        changed = f"this entry of a release log is not the one that {HEAD} was written after"
        raise UserError(changed, file=store.uri(entry_path(prefix, head.entries)), fix=RESTORE)
    if head.entries and entries[head.entries - 1].schema_version >= CHAINED:
        store.remember(read)
    return ReleaseLog(entries, hashes, _link(entries, hashes), tuple(uncounted))


def append(store: Store, prefix: str, log: ReleaseLog, entry: ReleaseEntry) -> ReleaseEntry | None:
    """Write `entry` after `log`; as it was written, or None where another writer was faster."""
    linked, number = replace(entry, previous=log.link), len(log.entries) + 1
    content = as_stored(linked.to_json())
    if store.witnesses is not None:
        store.witnesses.refuse_behind({prefix: (log.hashes, store.uri(folder_of(prefix)))})
    sign(store, prefix, content, RELEASED)
    if not store.create_exclusively(entry_path(prefix, number), content):
        return None
    _mark(store, prefix, number, content)
    return linked


def adopt(store: Store, prefix: str, log: ReleaseLog, entry: ReleaseEntry) -> ReleaseEntry | None:
    """Write the head for what stands after `log`, where it says what `entry` would, whoever wrote it; None
    where nothing stands there. Raises UserError where it says something else. For who waited for its writer.
    """
    number = len(log.entries) + 1
    path = entry_path(prefix, number)
    (content,) = store.read_each([path])
    if content is None or marked(store, prefix) >= number:
        return None
    found = _entry(store, prefix, path, content, log.hashes)
    same = replace(entry, at=found.at, entry=found.entry, run_id=found.run_id, previous=log.link)
    if same != found:
        said = f"{found.action} of version {found.version} by {found.by}"
        fix = "Ask for the same again to have it counted; or see who wrote it, and delete the file"
        raise UserError(f"an entry ({said}) {UNCOUNTED}", file=store.uri(path), fix=fix)
    _mark(store, prefix, number, content)
    return found


def _mark(store: Store, prefix: str, number: int, content: bytes) -> None:
    """Write the head, unless others went on from there meanwhile, and tell the witnesses."""
    if marked(store, prefix) < number:
        mark_newest(store, prefix, number, content)
    if store.witnesses is not None:
        store.witnesses.tell({prefix: Seen(number, hashlib.sha256(content).hexdigest())})


def marked(store: Store, prefix: str) -> int:
    """Return how many entries the head holds; 0 without one. Raises UserError for what is none."""
    return _head(store, prefix).entries


def mark_newest(store: Store, prefix: str, number: int, content: bytes) -> None:
    """Write the log's head: how many entries there are, and the newest one's content."""
    head = {"schema_version": 1, "entries": number, "sha256": hashlib.sha256(content).hexdigest()}
    store.write_json(f"{folder_of(prefix)}/{HEAD}", head)


def _head(store: Store, prefix: str) -> _Head:
    path = f"{folder_of(prefix)}/{HEAD}"
    try:
        head = store.read_json(path)
        entries, sha256 = head["entries"], str(head["sha256"])
        if type(entries) is not int or entries < 1:
            raise ValueError("not a number of entries")
        return _Head(entries, sha256)
    except FileNotFoundError:
        return _Head(0, "")
    except (ValueError, KeyError, TypeError):
        raise UserError("not the head of a release log", file=store.uri(path), fix=RESTORE) from None


def folder_of(prefix: str) -> str:
    return f"{prefix}/releases"


def entry_path(prefix: str, number: int) -> str:
    return f"{folder_of(prefix)}/{number:06d}.json"


def _link(entries: Sequence[ReleaseEntry], hashes: Sequence[str]) -> str | None:
    if not entries:
        return None
    return hashes[-1] if entries[-1].schema_version >= CHAINED else sha256_json(list(hashes))


def _check_link(
    entry: ReleaseEntry, before: Sequence[ReleaseEntry], hashes: Sequence[str], file: str
) -> None:
    chained = bool(before) and before[-1].schema_version >= CHAINED
    if entry.schema_version < CHAINED:
        if chained:
            raise UserError("an entry that names none before it, after one that does", file=file, fix=RESTORE)
        return
    if entry.previous != _link(before, hashes):
        at = len(before)
        changed = f"entry {at}" if chained else f"one of the entries 1 to {at}"
        problem = f"{changed} of this release log is not what entry {at + 1} was written after"
        raise UserError(problem if before else "entries before this one are missing", file=file, fix=RESTORE)


def _check_versions(entry: ReleaseEntry, before: Sequence[ReleaseEntry], file: str) -> None:
    """Check that a release is of a new version; all else, and production, is of one that was released."""
    versions = {past.version for past in before if past.action == RELEASE}
    is_release = entry.action == RELEASE
    serves_known = entry.production in {None, *versions, *([entry.version] if is_release else [])}
    if (entry.version in versions) == is_release or not serves_known:
        raise UserError("an entry about a version that it cannot be about", file=file, fix=RESTORE)


def _numbers(store: Store, prefix: str) -> list[int]:
    """Return the numbers of the entries that are listed, in order; files without a number are not entries."""
    names = [name.removesuffix(".json") for name in store.names(folder_of(prefix)) if name.endswith(".json")]
    return [int(name) for name in names if name.isascii() and name.isdigit()]


def _contents(store: Store, prefix: str, count: int, *, recalled: bool = False) -> Iterator[_Stored]:
    """Return the entries 1 to `count`, in order; `recalled`: those that this host remembers from there."""
    for first in range(1, count + 1, AT_ONCE):
        paths = [entry_path(prefix, number) for number in range(first, min(count + 1, first + AT_ONCE))]
        known = store.recall(paths) if recalled else {}
        absent = [path for path in paths if path not in known]
        read = dict(zip(absent, store.read_each(absent), strict=True))
        yield from (
            _Stored(path, known[path] if path in known else read[path], path in known) for path in paths
        )


def signed_of(entry: ReleaseEntry, content: bytes, before: Sequence[str]) -> bytes:
    """Return what is signed of an entry: its bytes. Of one that does not name what stands before it, its hash
    with its number and theirs (`before`), for it would fit anywhere else.
    """
    if entry.schema_version >= CHAINED:
        return content
    own = hashlib.sha256(content).hexdigest()
    return as_stored({"entry": len(before) + 1, "sha256": own, "after": sha256_json(list(before))})


def _entry(store: Store, prefix: str, path: str, content: bytes, before: Sequence[str]) -> ReleaseEntry:
    """Return an entry, with whether the signature is that of who it names. Raises UserError for one that
    bears none where it needs one. `before`: the sha256 of each entry before it.
    """
    file = store.uri(path)
    try:
        found = ReleaseEntry.from_json(loads(content), file=file)
    except ValueError:
        raise broken_entry(file) from None
    if store.trust is None:
        return found
    at, signed = moment(found.at), signed_of(found, content, before)
    require(store, prefix, signed, RELEASED, at, where=file)
    by = {key.person for key in signers(store, prefix, signed, RELEASED, at)}
    return replace(found, by_name_alone=store.trust.has_approvers and found.by not in by)
