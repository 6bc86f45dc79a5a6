"""Keeps the erasure log of each tenant, and of what all share: who asked for an erasure, who approved it, and
what holds it.

`erasures/<tenant>/000001.json` (`_shared`), an entry a file, numbered without a gap, created exclusively, and
naming in `previous` the sha256 of the one before; `head.json`, written after each, counts them. An entry has
no text and no identity of a record: only HMACs under a refusal key that is not in the store.
"""

from __future__ import annotations

import hashlib
import random
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from typing import Any, Literal, NamedTuple, get_args

from ft_dagster.errors import UserError
from ft_dagster.lineage.log_files import (
    RESTORE,
    Head,
    advance_head,
    as_of_head,
    entry_missing,
    head_missing,
    other_before,
    other_than_head,
    read_head,
    stored_entries,
)
from ft_dagster.provenance.signing import ERASURE
from ft_dagster.schema_version import refuse_newer
from ft_dagster.store.blobs import Store, as_stored
from ft_dagster.store.numbered import numbered, numbers, to_read
from ft_dagster.store.signatures import moment, require, sign
from ft_dagster.strict_json import loads

FOLDER, SHARED_FOLDER, KIND = "erasures", "_shared", "erasure log"
SCHEMA_VERSION, TRIES = 1, 8
PURGE_VERSION = 2  # of an entry that says a purge: older versions would call it none
Action = Literal["request", "approve", "hold", "lift", "purge"]
REQUEST: Action = "request"
APPROVE: Action = "approve"
HOLD: Action = "hold"
LIFT: Action = "lift"
PURGE: Action = "purge"
Quarantine = Literal["at once", "when replaced"]  # when a version that learned a record is no longer served
AT_ONCE_QUARANTINE: Quarantine = "at once"
WHEN_REPLACED: Quarantine = "when replaced"
WORDS = ("request", "owner", "by", "reason", "at", "due", "key")
LISTS = ("refusals", "retrains", "approvers", "learned", "served")


@dataclass(frozen=True)
class ErasureEntry:
    """Is an entry of an erasure log. `request`: the id of the request that it is about; `at`: ISO 8601, UTC.

    Of a request alone: `due`, the day by which it has to be done; `refusals`, the HMAC-SHA256 of the
    identities (hex), by the refusal key of the id `key`; `records`: how many were asked for; `holders` and
    `retrains`: how many artifacts held one then, and the variants that had to train again; `approvers`: who
    alone may approve it, none: it needs no approval; `learned`: the digests of weights that learned from a
    record, and of mixtures with one to train on; `served`: those of these weights that were in production;
    `quarantine`: from when on these are not served. Of a purge alone, which comes when nothing is left:
    `holders`, how many artifacts were removed for it.
    """

    action: Action
    request: str
    owner: str
    by: str
    reason: str
    at: str = ""
    due: str = ""
    key: str = ""
    refusals: tuple[str, ...] = ()
    records: int = 0
    holders: int = 0
    retrains: tuple[str, ...] = ()
    approvers: tuple[str, ...] = ()
    learned: tuple[str, ...] = ()
    served: tuple[str, ...] = ()
    quarantine: Quarantine = WHEN_REPLACED
    previous: str | None = None
    schema_version: int = SCHEMA_VERSION

    @classmethod
    def from_json(cls, content: Any, *, file: str) -> ErasureEntry:
        """Read an entry. Raises UserError, naming the file: no entry, or one of a newer ft-dagster."""
        try:
            refuse_newer(content["schema_version"], PURGE_VERSION, file=file)
            lists = {name: tuple(map(str, content.get(name, ()))) for name in LISTS}
            found = cls(**{**content, **lists})
            if found.action not in get_args(Action) or found.quarantine not in get_args(Quarantine):
                raise ValueError("no action")
            if not all(isinstance(getattr(found, name), str) for name in WORDS):
                raise ValueError("not text")
            if found.action == REQUEST:
                date.fromisoformat(found.due)
        except (ValueError, KeyError, TypeError):
            raise UserError("not an entry of an erasure log", file=file, fix=RESTORE) from None
        return found


@dataclass(frozen=True)
class ErasureState:
    """Says how a request stands. `asked`: its entry; `approved`: by whom and when, None while it waits;
    `held`: the entry that holds it, None where nothing does; `purged`: the one that says that nothing of it
    is left, None where nobody saw that.
    """

    asked: ErasureEntry
    approved: ErasureEntry | None = None
    held: ErasureEntry | None = None
    purged: ErasureEntry | None = None

    @property
    def acts(self) -> bool:
        """Say whether its records are refused: it is approved, or needs no approval, and nothing holds it."""
        return self.held is None and (self.approved is not None or not self.asked.approvers)

    @property
    def said(self) -> str:
        if self.held is not None:
            return f"on hold: {self.held.reason}"
        if self.purged is not None:
            return f"purged on {self.purged.at[:10]}"
        return "approved" if self.acts else f"waits for approval by {' or '.join(self.asked.approvers)}"

    def quarantines(self, digests: Collection[str], today: date, *, served: str) -> bool:
        """Say whether a version of these weights and this mixture is in quarantine. `served`: its weights,
        where it is in production. Weights that were served when the request was made are so, unless `at
        once`, only after the day on which it is due.
        """
        if not self.acts or not set(self.asked.learned).intersection(digests):
            return False
        waits = served in self.asked.served and self.asked.quarantine == WHEN_REPLACED
        return not waits or self.days_left(today) < 0

    def days_left(self, today: date) -> int:
        """Return the days until it is due; below 0 where it is late."""
        return (date.fromisoformat(self.asked.due) - today).days


def folder_of(owner: str) -> str:
    return f"{FOLDER}/{owner or SHARED_FOLDER}"


def owners_with_erasures(store: Store) -> list[str]:
    """Return whose logs there are; "" of what all share."""
    return sorted("" if name == SHARED_FOLDER else name for name in store.names(FOLDER))


def read_erasures(store: Store, owner: str) -> list[ErasureEntry]:
    """Return all entries of an owner, oldest first. Raises UserError that names the entry: one that is
    missing, was changed, cannot be read, or bears no signature where it needs one.
    """
    return _read(store, owner).entries


class _Log(NamedTuple):
    """Holds all entries, oldest first, the content of the newest, and how many the head counts of them."""

    entries: list[ErasureEntry]
    newest: bytes | None
    counted: int


def _read(store: Store, owner: str) -> _Log:
    folder = folder_of(owner)
    head = read_head(store, folder, KIND)
    return as_of_head(store, folder, KIND, head, lambda head: _checked(store, owner, head))


def _checked(store: Store, owner: str, head: Head) -> _Log:
    """Return the log, whose head is this one. An entry that was written after it counts as well: no request
    is lost with its writer, and the next one writes the head for it.
    """
    folder = folder_of(owner)
    entries: list[ErasureEntry] = []
    newest: bytes | None = None
    for path, content, _ in stored_entries(store, folder, to_read(numbers(store, folder), head.entries)):
        file, previous = store.uri(path), None if newest is None else _sha256(newest)
        if content is None:
            raise entry_missing(KIND, file)
        entry = _entry(content, file)
        if entry.owner != owner:
            another = f"an entry of another owner's erasure log ({entry.owner or SHARED_FOLDER})"
            raise UserError(another, file=file, fix=RESTORE)
        if entry.previous != previous:
            raise other_before(KIND, file, len(entries))
        require(store, folder, content, ERASURE, moment(entry.at), where=file)
        entries.append(entry)
        newest = content
        if len(entries) == head.entries and _sha256(content) != head.sha256:
            raise other_than_head(KIND, file)
    if len(entries) > 1 and not head.entries:
        raise head_missing(KIND, store.uri(folder))
    return _Log(entries, newest, head.entries)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _entry(content: bytes, file: str) -> ErasureEntry:
    try:
        said = loads(content)
    except ValueError:
        raise UserError("not an entry of an erasure log", file=file, fix=RESTORE) from None
    return ErasureEntry.from_json(said, file=file)


def append(
    store: Store, owner: str, decide: Callable[[Sequence[ErasureEntry]], ErasureEntry]
) -> ErasureEntry:
    """Append what `decide` makes of the log, dated; asked again where another writer was faster. Raises
    UserError.
    """
    folder = folder_of(owner)
    for tried in range(TRIES):
        log = _read(store, owner)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        previous = None if log.newest is None else _sha256(log.newest)
        entry = replace(decide(log.entries), owner=owner, at=at, previous=previous)
        content, number = as_stored(asdict(entry)), len(log.entries) + 1
        sign(store, folder, content, ERASURE)
        if log.newest is not None and log.counted < len(log.entries):
            advance_head(store, folder, KIND, len(log.entries), log.newest)  # its writer was killed
        if store.create_exclusively(numbered(folder, number), content):
            advance_head(store, folder, KIND, number, content)
            return entry
        time.sleep(random.uniform(0, min(0.5, 0.01 * 2**tried)))
    fix = "Look who writes to this log, and run it again"
    raise UserError(f"others were faster {TRIES} times", file=store.uri(folder), fix=fix)


def new_request_id() -> str:
    return uuid.uuid4().hex[:12]


def states(entries: Iterable[ErasureEntry]) -> list[ErasureState]:
    """Return how each request of a log stands; the one that is due first comes first."""
    found: dict[str, ErasureState] = {}
    for entry in entries:
        state = found.get(entry.request)
        if entry.action == REQUEST:
            found[entry.request] = ErasureState(entry)
        elif state is not None and entry.action == APPROVE:
            found[entry.request] = replace(state, approved=entry)
        elif state is not None and entry.action == PURGE:
            found[entry.request] = replace(state, purged=entry)
        elif state is not None:
            found[entry.request] = replace(state, held=entry if entry.action == HOLD else None)
    return sorted(found.values(), key=lambda state: (state.asked.due, state.asked.at))


def state_of(entries: Iterable[ErasureEntry], request: str) -> ErasureState:
    """Return how a request stands. Raises UserError where there is none."""
    found = next((each for each in states(entries) if each.asked.request == request), None)
    if found is None:
        fix = "`ft-dagster erase status` lists them"
        raise UserError("no such request", field="REQUEST", value=request, fix=fix)
    return found


def approve(store: Store, owner: str, request: str, *, by: str, reason: str) -> ErasureEntry:
    """Approve a request. Raises UserError for who is none of its approvers, and while it is on hold."""

    def decide(entries: Sequence[ErasureEntry]) -> ErasureEntry:
        state = state_of(entries, request)
        allowed = state.asked.approvers
        if allowed and by not in allowed:
            problem, fix = f"{by} may not approve an erasure", f"Ask {' or '.join(allowed)}"
            raise UserError(problem, field="approvers", value=by, fix=fix)
        _refuse_held(state)
        return ErasureEntry(APPROVE, request, owner, by, reason)

    return append(store, owner, decide)


def hold(store: Store, owner: str, request: str, *, by: str, reason: str, lift: bool = False) -> ErasureEntry:
    """Stop a request by a legal hold, or `lift` that. Raises UserError for one that is held already, or not
    held.
    """

    def decide(entries: Sequence[ErasureEntry]) -> ErasureEntry:
        state = state_of(entries, request)
        if lift and state.held is None:
            fix = "`ft-dagster erase status` says how requests stand"
            raise UserError("nothing holds this request", field="REQUEST", value=request, fix=fix)
        if not lift:
            _refuse_held(state)
        return ErasureEntry(LIFT if lift else HOLD, request, owner, by, reason)

    return append(store, owner, decide)


def record_purge(store: Store, owner: str, request: str, *, by: str, removed: int) -> ErasureEntry:
    """Say in the log that nothing of a request is left there. `removed`: artifacts. Raises UserError for a
    request that is on hold, or waits for approval.
    """

    def decide(entries: Sequence[ErasureEntry]) -> ErasureEntry:
        refuse_waiting(state_of(entries, request))
        reason = "nothing that was looked through holds its records"
        return ErasureEntry(PURGE, request, owner, by, reason, holders=removed, schema_version=PURGE_VERSION)

    return append(store, owner, decide)


def refuse_waiting(state: ErasureState) -> None:
    """Raises UserError for a request that is on hold, or waits for approval."""
    _refuse_held(state)
    if not state.acts:
        fix = "`ft-dagster erase approve REQUEST --reason ...` approves it"
        raise UserError(f"this request {state.said}", field="REQUEST", value=state.asked.request, fix=fix)


def _refuse_held(state: ErasureState) -> None:
    if state.held is not None:
        problem = f"{state.held.by} holds this request since {state.held.at[:10]}: {state.held.reason}"
        fix = "`ft-dagster erase hold --lift REQUEST --reason ...` lifts the hold"
        raise UserError(problem, field="REQUEST", value=state.asked.request, fix=fix)
