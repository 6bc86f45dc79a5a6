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
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from ft_dagster.errors import UserError
from ft_dagster.lineage.entry import RELEASE, ReleaseEntry, broken_entry
from ft_dagster.lineage.log_files import (
    RESTORE,
    Head,
    StoredEntry,
    advance_head,
    as_of_head,
    entry_missing,
    head_missing,
    other_before,
    other_than_head,
    read_head,
    stored_entries,
    write_head,
)
from ft_dagster.provenance.manifest import variant_of
from ft_dagster.provenance.signing import RELEASE as RELEASED
from ft_dagster.provenance.signing import TrustedKey
from ft_dagster.provenance.witnessed import Seen
from ft_dagster.store.blobs import Store, as_stored
from ft_dagster.store.numbered import numbered, numbers, to_read
from ft_dagster.store.release_chain import CHAINED, FOLDER, link_after, signed_of
from ft_dagster.store.signatures import moment, require, sign, signers
from ft_dagster.strict_json import loads

KIND = "release log"
UNCOUNTED = "without its head, so that it does not count: its writer was killed, or somebody put it there"


@dataclass(frozen=True)
class ReleaseLog:
    """Holds all entries, oldest first, the sha256 of the file of each, and what the next one is to name as
    `previous`. `uncounted`: files that stand after the head, as far as they were looked for.
    """

    entries: list[ReleaseEntry]
    hashes: list[str]
    link: str | None
    uncounted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Waiting:
    """Holds an entry that keys signed (`by`), and that counts once as many more have as it `lacks`."""

    path: str
    content: bytes
    entry: ReleaseEntry
    by: tuple[TrustedKey, ...]
    lacks: int

    @property
    def words(self) -> str:
        entry, more = self.entry, f"{self.lacks} more signature{'' if self.lacks == 1 else 's'}"
        action = f"{entry.action}{' (forced)' if entry.forced else ''}"
        return f"{action} of version {entry.version} by {entry.by} waits for {more}"


def read_log(store: Store, prefix: str) -> ReleaseLog:
    """Read every entry from the store. Raises UserError that names the entry: one that is missing, was
    changed, or cannot be read.
    """
    return _whole(store, prefix, read_head(store, folder_of(prefix), KIND))


def recalled_log(store: Store, prefix: str) -> ReleaseLog:
    """Read the log as `read_log` does; of a remote store only the head, and what of it this host did not read
    before.

    The head names the newest entry by its hash, and each entry the one before it: so none that is remembered
    is another than was there when the head was written. Where they do not fit, all are read.
    """
    head = read_head(store, folder_of(prefix), KIND)
    if head.entries and store.remote:
        with suppress(UserError):
            wanted = range(1, head.entries + 1)
            known = stored_entries(store, folder_of(prefix), wanted, recalled=True)
            return _checked(store, prefix, head, known)
    return _whole(store, prefix, head)


def _whole(store: Store, prefix: str, head: Head) -> ReleaseLog:
    """Return the log by a head, or by the one that another writer put in its place while this was read."""
    folder = folder_of(prefix)

    def read(head: Head) -> ReleaseLog:
        wanted = to_read(numbers(store, folder), head.entries)
        return _checked(store, prefix, head, stored_entries(store, folder, wanted))

    return as_of_head(store, folder, KIND, head, read, unsettled=lambda log: log.uncounted)


def _checked(store: Store, prefix: str, head: Head, contents: Iterable[StoredEntry]) -> ReleaseLog:
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
            raise entry_missing(KIND, store.uri(path))
        if not head.entries and _parsed(store, path, content).schema_version >= CHAINED:
            uncounted.append(store.uri(path))  # the first one before its head
            continue
        entry = _with_signers(store, prefix, path, content, hashes)
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
        raise head_missing(KIND, store.uri(folder_of(prefix)))
    if head.entries and hashes[head.entries - 1] != head.sha256:
        raise other_than_head(KIND, store.uri(entry_path(prefix, head.entries)))
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
    created = store.create_exclusively(entry_path(prefix, number), content)
    if waits := waiting(store, prefix, log):
        fix = f"Have it signed by `ft-dagster trust countersign {entry.variant}`, or delete the file"
        raise UserError(waits.words, file=store.uri(waits.path), fix=fix)
    if not created:
        return None
    _mark(store, prefix, number, content)
    return _with_signers(store, prefix, entry_path(prefix, number), content, log.hashes)


def waiting(store: Store, prefix: str, log: ReleaseLog) -> Waiting | None:
    """Return the entry after a log that some have signed, and more have to; None where there is none."""
    trust, number = store.trust, len(log.entries) + 1
    if trust is None or not trust.refuses or trust.needs(RELEASED) < 2:
        return None
    path = entry_path(prefix, number)
    (content,) = store.read_each([path])
    if content is None or marked(store, prefix) >= number:
        return None
    entry = _parsed(store, path, content)
    by = signers(store, prefix, content, RELEASED, moment(entry.at))
    lacks = trust.lacks(RELEASED, by)
    return Waiting(path, content, entry, by, lacks) if by and lacks else None


def countersign(store: Store, prefix: str, seen: Waiting) -> int:
    """Sign the entry that waits after a log, and write the head where nobody more has to; return how many
    have to. Raises UserError where it is not the one that was `seen`, does not fit, or this key signed it.
    """
    log = read_log(store, prefix)
    waits, file, trust = waiting(store, prefix, log), store.uri(seen.path), store.trust
    if waits is None or waits.content != seen.content or trust is None:
        raise UserError("another entry than was shown", file=file, fix="Look at it again")
    if waits.entry.variant != variant_of(prefix):
        raise UserError(f"an entry of another variant ({waits.entry.variant})", file=file, fix=RESTORE)
    _check_versions(waits.entry, log.entries, file)
    _check_link(waits.entry, log.entries, log.hashes, file)
    own = None if trust.signer is None else trust.signer.key
    if own is not None and not own.counts_on(moment(waits.entry.at)):
        fix = "Sign by a key that was valid then, or have the entry deleted and made again"
        raise UserError(f"the key {own.name} does not count on what was made then", file=file, fix=fix)
    if own is not None and trust.lacks(RELEASED, [*waits.by, own]) == waits.lacks:
        fix = "Have somebody else sign it, by a key of their own"
        raise UserError(f"{own.person or own.name} signed this already", file=file, fix=fix)
    if store.witnesses is not None:
        store.witnesses.refuse_behind({prefix: (log.hashes, store.uri(folder_of(prefix)))})
    sign(store, prefix, waits.content, RELEASED)
    left = waiting(store, prefix, log)
    if left is None:
        _mark(store, prefix, len(log.entries) + 1, waits.content)
    return 0 if left is None else left.lacks


def uncounted_words(store: Store, prefix: str, log: ReleaseLog) -> list[str]:
    """Say of each file after a log why it does not count."""
    waits = waiting(store, prefix, log)
    said = {} if waits is None else {store.uri(waits.path): waits.words}
    return [f"{file}: {said.get(file, f'an entry {UNCOUNTED}')}" for file in log.uncounted]


def adopt(store: Store, prefix: str, log: ReleaseLog, entry: ReleaseEntry) -> ReleaseEntry | None:
    """Write the head for what stands after `log`, where it says what `entry` would, whoever wrote it; None
    where nothing stands there. Raises UserError where it says something else. For who waited for its writer.
    """
    number = len(log.entries) + 1
    path = entry_path(prefix, number)
    (content,) = store.read_each([path])
    if content is None or marked(store, prefix) >= number:
        return None
    found = _with_signers(store, prefix, path, content, log.hashes)
    same = replace(entry, at=found.at, entry=found.entry, run_id=found.run_id, previous=log.link)
    if same != found:
        said = f"{found.action} of version {found.version} by {found.by}"
        fix = "Ask for the same again to have it counted; or see who wrote it, and delete the file"
        raise UserError(f"an entry ({said}) {UNCOUNTED}", file=store.uri(path), fix=fix)
    _mark(store, prefix, number, content)
    return found


def _mark(store: Store, prefix: str, number: int, content: bytes) -> None:
    """Write the head, unless others went on from there meanwhile, and tell the witnesses."""
    advance_head(store, folder_of(prefix), KIND, number, content)
    if store.witnesses is not None:
        store.witnesses.tell({prefix: Seen(number, hashlib.sha256(content).hexdigest())})


def marked(store: Store, prefix: str) -> int:
    """Return how many entries the head holds; 0 without one. Raises UserError for what is none."""
    return read_head(store, folder_of(prefix), KIND).entries


def mark_newest(store: Store, prefix: str, number: int, content: bytes) -> None:
    """Write the log's head: how many entries there are, and the newest one's content."""
    write_head(store, folder_of(prefix), number, content)


def folder_of(prefix: str) -> str:
    return f"{prefix}/{FOLDER}"


def entry_path(prefix: str, number: int) -> str:
    return numbered(folder_of(prefix), number)


def _link(entries: Sequence[ReleaseEntry], hashes: Sequence[str]) -> str | None:
    return link_after(entries[-1].schema_version, hashes) if entries else None


def _check_link(
    entry: ReleaseEntry, before: Sequence[ReleaseEntry], hashes: Sequence[str], file: str
) -> None:
    chained = bool(before) and before[-1].schema_version >= CHAINED
    if entry.schema_version < CHAINED:
        if chained:
            raise UserError("an entry that names none before it, after one that does", file=file, fix=RESTORE)
        return
    if entry.previous != _link(before, hashes):
        raise other_before(KIND, file, len(before), chained=chained)


def _check_versions(entry: ReleaseEntry, before: Sequence[ReleaseEntry], file: str) -> None:
    """Check that a release is of a new version; all else, and production, is of one that was released."""
    versions = {past.version for past in before if past.action == RELEASE}
    is_release = entry.action == RELEASE
    serves_known = entry.production in {None, *versions, *([entry.version] if is_release else [])}
    if (entry.version in versions) == is_release or not serves_known:
        raise UserError("an entry about a version that it cannot be about", file=file, fix=RESTORE)


def _parsed(store: Store, path: str, content: bytes) -> ReleaseEntry:
    file = store.uri(path)
    try:
        return ReleaseEntry.from_json(loads(content), file=file)
    except ValueError:
        raise broken_entry(file) from None


def _with_signers(
    store: Store, prefix: str, path: str, content: bytes, before: Sequence[str]
) -> ReleaseEntry:
    """Return an entry, with who signed it, and whether who it names did. Raises UserError for one that bears
    no signature where it needs one, or too few. `before`: the sha256 of each entry before it.
    """
    found = _parsed(store, path, content)
    if store.trust is None:
        return found
    at, signed = moment(found.at), signed_of(found.schema_version, content, before)
    require(store, prefix, signed, RELEASED, at, where=store.uri(path))
    keys = signers(store, prefix, signed, RELEASED, at)
    by_name_alone = store.trust.has_approvers and found.by not in {key.person for key in keys}
    return replace(found, by_name_alone=by_name_alone, signed_by=tuple(key.name for key in keys))
