"""Tells witnesses outside the store how far each release log is, and refuses a log that is behind what one of
them saw: whoever may write the store alone can then neither cut a log nor go on from an older copy of it.

A witness is a folder, a bucket, a branch of a git repository or an HTTP endpoint with numbered files,
`checkpoints/000012.json`, each created exclusively: the newest has every log that was told of, under an HMAC
of its place, with its number of entries and the sha256 of the newest. Their Merkle root is in a statement
that is signed, and that names the statement before it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ft_dagster.errors import UserError
from ft_dagster.files import draft_in, put_new, write_whole
from ft_dagster.provenance.merkle import MerkleTree, leaf_hash
from ft_dagster.provenance.private_file import make_private
from ft_dagster.provenance.signing import CHECKPOINT, TRUST_FILE, Signer, Trust, TrustedKey, envelope_content
from ft_dagster.provenance.witnessed import Listed, Logs, Position, Seen
from ft_dagster.store.blobs import as_stored
from ft_dagster.store.numbered import Listing, highest_number, numbered
from ft_dagster.store.remote_errors import refused, unreachable
from ft_dagster.store.signatures import moment
from ft_dagster.store.witness_errors import asked, no_answer
from ft_dagster.strict_json import loads

log = logging.getLogger(__name__)
FOLDER = "checkpoints"
BEFORE = datetime.min.replace(tzinfo=UTC)
KEY_FILE = "witness.key"
KEY_BYTES = 32
TRIES = 50  # of a number that others were faster to take
NO_CHECKPOINT = (  # raised by what is none
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
    OverflowError,
    FileNotFoundError,
    IsADirectoryError,
)
WHO = "See who wrote it, and restore the witness from a backup"
COPY_KEY = f"Copy {KEY_FILE} from the host that began with it, or from a backup, to this keys folder"
LATER = "`ft-dagster trust witness` tells it later"


@dataclass(frozen=True)
class Checkpoint:
    """Is what a witness knows. `number`: of the file, 0 where there is none; `sha256`: of its statement,
    which is signed in `envelope`; `previous`: that of the statement before it. `at`: when it says that it was
    written. `key`: by which key it knows logs.
    """

    number: int = 0
    sha256: str = ""
    previous: str | None = None
    at: datetime = BEFORE
    key: str = ""
    logs: Mapping[str, Seen] = field(default_factory=dict)
    envelope: Mapping[str, Any] = field(default_factory=dict)


class Place(Listing, Protocol):
    """Keeps the files of a witness: a folder or a bucket, a git repository, an HTTP endpoint."""

    url: str

    def uri(self, relative: str) -> str:
        """Return where a person finds a file."""
        ...

    def read(self, relative: str) -> bytes:
        """Raises FileNotFoundError."""
        ...

    def create_exclusively(self, relative: str, content: bytes) -> bool:
        """Write what is not there yet, whole; whether it was this call that wrote it."""
        ...


@dataclass(frozen=True)
class Witnesses:
    """Tells the witnesses of a trust root. `key_file`: of the HMAC under which they know a log, one for all
    hosts of the project. `waiting`: the folder of this host in which it keeps what could not be told. `read`:
    what old checkpoints had, by the sha256 of their statements.
    """

    trust: Trust
    places: tuple[Place, ...]
    key_file: Path
    waiting: Path
    read: dict[str, Mapping[str, Seen]] = field(default_factory=dict, compare=False, repr=False)

    def name_of(self, prefix: str) -> str:
        """Return the 64 hexadecimal digits under which witnesses know the log of a part of the store. Raises
        UserError where the key is not here.
        """
        return hmac.new(self._key(), prefix.encode(), hashlib.sha256).hexdigest()

    def newest(self, place: Place) -> Checkpoint:
        """Read what a witness knows. Raises UserError where nobody whom the trust root lists signed it, be
        they revoked since: it only holds logs to what was seen; where it knows less than this host saw there;
        and where it did not go on from that.
        """
        number, seen = highest_number(place, FOLDER), self._seen(place)
        if number < seen.number:
            file = self._seen_file(place)
            fix = f"Mount or restore it; to begin it anew, delete {file} and run `ft-dagster trust witness`"
            gone = "it is not there, or they were deleted"
            problem = f"{number} checkpoints, and this host saw {seen.number}: {gone}"
            raise UserError(problem, file=place.url, fix=fix)
        if not number:
            return Checkpoint()
        path = numbered(FOLDER, number)
        try:
            found = _read(place.read(path))
        except NO_CHECKPOINT:
            found = Checkpoint()
        if found.number != number or not self._signers(found):
            problem = f"nobody whom {TRUST_FILE} lists signed this checkpoint"
            raise UserError(problem, file=place.uri(path), fix=WHO)
        self._refuse_other_key(found, place.url)
        self._refuse_other_history(place, found, seen)
        self._note(place, found)
        return found

    def seen_at(self, position: Position) -> Mapping[str, Seen]:
        """Return how far each log was at a checkpoint, by its name; nothing, and a warning, where no witness
        has it now nor this host kept it. Its hash says that it is the one that is meant, whoever signed it.
        Raises UserError where it knows logs by another key.
        """
        if position.sha256 not in self.read:
            self.read[position.sha256] = self._seen_at(position)
        return self.read[position.sha256]

    def _seen_at(self, position: Position) -> Mapping[str, Seen]:
        copy = self.waiting / f"{position.sha256}.checkpoint"
        path = numbered(FOLDER, position.number)
        reads: list[Callable[[], bytes]] = [copy.read_bytes]
        reads += [partial(place.read, path) for place in self.places]
        for read in reads:
            try:
                content = read()
                found = _read(content)
            except Exception as error:
                away = unreachable(error) or refused(error) is not None
                if not away and not isinstance(error, (*NO_CHECKPOINT, OSError)):
                    raise
                continue
            if (found.number, found.sha256) == position:
                self._refuse_other_key(found, str(copy))
                if not copy.exists():
                    write_whole(copy, content)
                return found.logs
        said = f"checkpoint {position.number} ({position.sha256[:12]})"
        log.warning(
            "no witness shows %s: nothing that was signed by a key revoked from there on stands", said
        )
        return {}

    def checkpoints(self, last: int) -> Iterator[Listed]:
        """Yield the newest checkpoints of each witness, the last first. Raises UserError as `newest`, and for
        one that is not the one that the next was written after.
        """
        for place in self.places:
            for found in asked(place.url, self.trust, partial(self._newest_of, place, last)):
                by = " and ".join(key.name for key in self._signers(found)) or "nobody"
                yield Listed(place.url, Position(found.number, found.sha256), found.at, by, len(found.logs))

    def _newest_of(self, place: Place, last: int) -> list[Checkpoint]:
        newest = self.newest(place)
        return [*self._back_from(place, newest, last)] if newest.number else []

    def _back_from(self, place: Place, newest: Checkpoint, last: int) -> Iterator[Checkpoint]:
        """Yield the newest `last` checkpoints, the last first. Raises UserError for one that the next was not
        written after, or that says more of a log than the next.
        """
        yield newest
        after = newest
        for number in range(newest.number - 1, max(newest.number - last, 0), -1):
            path = numbered(FOLDER, number)
            try:
                found = _read(place.read(path))
            except NO_CHECKPOINT:
                found = Checkpoint()
            if found.number != number or found.sha256 != after.previous:
                problem = f"not the checkpoint that checkpoint {number + 1} was written after"
                raise UserError(problem, file=place.uri(path), fix=WHO)
            if any(_says_less(after.logs.get(name), seen) for name, seen in found.logs.items()):
                problem = f"it says less of a log than checkpoint {number} before it, or something else"
                raise UserError(problem, file=place.uri(numbered(FOLDER, number + 1)), fix=WHO)
            yield found
            after = found

    def refuse_behind(self, logs: Logs, *, begins: bool = False) -> None:
        """Raises UserError for a release log that has less than a witness saw, or something else there; where
        this process could tell none of them; for a witness that was told nothing, unless it `begins` now;
        where they are strict, also where one cannot be reached.
        """
        self._signer()
        for place in self.places:
            self._reached(place, partial(self._refuse_behind, place, logs, begins=begins))

    def tell(self, logs: Mapping[str, Seen]) -> dict[str, bool]:
        """Tell each witness how far these logs are now, by prefix, and what could not be told before; what
        cannot be told now is kept for the next time. Return which of them was reached, by its address. Raises
        UserError where one has to be.
        """
        self._make_key()
        own = {self.name_of(prefix): seen for prefix, seen in logs.items()}
        for name, seen in own.items():
            write_whole(self._waits(name), as_stored(seen._asdict()))
        waiting = self._kept() | own  # another process may have told them meanwhile
        told = {each.url: self._reached(each, partial(self._add, each, waiting)) for each in self.places}
        if all(told.values()):
            for name, _ in waiting.items() & self._kept().items():  # what came since waits on
                self._waits(name).unlink(missing_ok=True)
        return told

    def proofs(self, prefix: str) -> dict[str, dict[str, Any]]:
        """Return by witness what proves how far it knows a log, without the others: the envelope of its
        newest statement, the leaf, and its siblings up to the root (see `merkle.root_of`). None of one that
        was not told of it.
        """
        known = {place.url: self._asked(place) for place in self.places}
        return {
            url: {"envelope": one.envelope, **_proof(one.logs, name)}
            for url, one in known.items()
            if one.number and (name := self.name_of(prefix)) in one.logs
        }

    def faults(self, logs: Logs, unread: Iterable[str] = ()) -> list[str]:
        """Return what does not hold of the release logs, a line each: one that is behind a witness or beyond
        what it was told, and how many a witness knows that are not there. `unread`: logs that are there, and
        cannot be read.
        """
        found = list[str]()
        for place in self.places:
            try:
                known = self._asked(place).logs
                found += [f"{file}: {what}" for file, what in self._behind(place, known, logs)]
                found += [f"{file}: {what}" for file, what in self._beyond(place, known, logs)]
                names = {self.name_of(prefix) for prefix in (*logs, *unread)} if known else set()
                if gone := len(known.keys() - names):
                    what = "release log that it saw is" if gone == 1 else "release logs that it saw are"
                    found.append(f"{place.url}: by this witness, {gone} {what} not in the store")
            except UserError as error:
                found.append(str(error))
        return found

    def _refuse_behind(self, place: Place, logs: Logs, *, begins: bool) -> None:
        known = self.newest(place)
        if not (known.number or begins):
            fix = "Mount it; or begin it by `ft-dagster trust witness`"
            problem = "this witness was told nothing yet: it is new, or not there"
            raise UserError(problem, file=self.trust.file, field="witnesses", value=place.url, fix=fix)
        for file, what in self._behind(place, known.logs, logs):
            fix = "Restore the log's folder from a backup, or see which copy of the store is the right one"
            raise UserError(what, file=file, fix=fix)

    def _behind(self, place: Place, known: Mapping[str, Seen], logs: Logs) -> Iterator[tuple[str, str]]:
        """Yield the place of each log that is behind what a witness knows, and what is wrong with it."""
        for prefix, (hashes, file) in logs.items() if known else ():
            seen = known.get(self.name_of(prefix), Seen(0, ""))
            if len(hashes) < seen.entries:
                yield file, f"{_entries(hashes)}, and the witness {place.url} saw {seen.entries}: it was cut"
            elif seen.entries and hashes[seen.entries - 1] != seen.sha256:
                yield file, f"entry {seen.entries} is not the one that the witness {place.url} saw: a fork"

    def _beyond(self, place: Place, known: Mapping[str, Seen], logs: Logs) -> Iterator[tuple[str, str]]:
        """Yield the place of each log of which a witness was not told all, and how much it was told."""
        for prefix, (hashes, file) in logs.items():
            told = known[name].entries if known and (name := self.name_of(prefix)) in known else 0
            if len(hashes) > told:
                says = f"the witness {place.url} was told of {told}"
                yield file, f"{_entries(hashes)}, and {says}: `ft-dagster trust witness` tells it the rest"

    def _signers(self, found: Checkpoint) -> tuple[TrustedKey, ...]:
        """Return who signed a checkpoint, those that are revoked too."""
        stored = [as_stored(found.envelope)]
        statement = envelope_content(found.envelope)
        return self.trust.signers(statement, CHECKPOINT, found.at, stored, revoked=True)

    def _refuse_other_key(self, found: Checkpoint, where: str) -> None:
        if found.key != self._key_id():
            problem = "the witness knows logs by another key"
            raise UserError(problem, file=self.key_file, value=where, fix=COPY_KEY)

    def _refuse_other_history(self, place: Place, newest: Checkpoint, seen: Position) -> None:
        """Raises UserError where the newest checkpoint does not go on from the one that this host saw."""
        if not seen.number:
            return
        *_, found = self._back_from(place, newest, newest.number - seen.number + 1)
        if seen.sha256 and found.sha256 != seen.sha256:
            problem = "not the checkpoint that this host saw by this number"
            raise UserError(problem, file=place.uri(numbered(FOLDER, seen.number)), fix=WHO)

    def _seen_file(self, place: Place) -> Path:
        return self.waiting / f"{hashlib.sha256(place.url.encode()).hexdigest()[:16]}.seen"

    def _seen(self, place: Place) -> Position:
        """Return the newest checkpoint that this host saw at a witness; its hash is "" in what older versions
        noted.
        """
        file = self._seen_file(place)
        try:
            number, *sha256 = file.read_text().split()
            return Position(int(number), *(sha256[:1] or [""]))
        except FileNotFoundError:
            return Position(0, "")
        except ValueError:
            fix = "Delete it, and run `ft-dagster audit verify --all`: this host forgets what it saw there"
            raise UserError("not what was seen at a witness", file=file, fix=fix) from None

    def _note(self, place: Place, found: Checkpoint) -> None:
        """Note what this host saw, where it is newer than what it noted."""
        seen = self._seen(place)
        if (found.number, found.sha256) != seen and found.number >= seen.number:
            write_whole(self._seen_file(place), f"{found.number} {found.sha256}\n".encode())

    def _add(self, place: Place, added: Mapping[str, Seen]) -> None:
        """Write the witness' next checkpoint, unless it knows all of it; the first one in any case, so that a
        store without a release begins it too.
        """
        for _ in range(TRIES):
            known = self.newest(place)
            new = {name: seen for name, seen in added.items() if _is_news(known.logs.get(name), seen)}
            if known.number and not new:
                return
            if self._create(place, known, {**known.logs, **new}):
                return
        fix = "Look who writes there"
        raise UserError(f"others were faster {TRIES} times", file=place.uri(FOLDER), fix=fix)

    def _create(self, place: Place, before: Checkpoint, logs: Mapping[str, Seen]) -> bool:
        number = before.number + 1
        statement = {
            "schema_version": 1,
            "number": number,
            "at": datetime.now(UTC).isoformat(),
            "previous": before.sha256 or None,
            "key": self._key_id(),
            "size": len(logs),
            "root": _root(logs),
        }
        signed = as_stored(statement)
        envelope = json.loads(self._signer().envelope(signed, CHECKPOINT))
        content = {"schema_version": 1, "envelope": envelope, "logs": dict(logs)}
        if not place.create_exclusively(numbered(FOLDER, number), as_stored(content)):
            return False
        self._note(place, Checkpoint(number, hashlib.sha256(signed).hexdigest()))
        return True

    def _reached(self, place: Place, do: Callable[[], None]) -> bool:
        """Say whether a witness could be asked or told. Raises UserError where it has to be."""
        try:
            do()
        except Exception as error:
            said = no_answer(place.url, self.trust, error)
            if said is None:
                raise
            if not unreachable(error) or self.trust.strict:
                raise said from error
            log.warning("the witness %s could not be reached; %s", place.url, LATER)
            return False
        return True

    def _asked(self, place: Place) -> Checkpoint:
        """Read what a witness knows, as `newest`. Raises UserError, which names it, also where it is away."""
        return asked(place.url, self.trust, partial(self.newest, place))

    def _signer(self) -> Signer:
        if self.trust.signer is None:
            fix = "Name a key in `signing_key` (ft_dagster.yaml, or FT_DAGSTER_SIGNING_KEY)"
            problem = "witnesses take only what is signed, and this process has no key"
            raise UserError(problem, file=self.trust.file, field="witnesses", fix=fix)
        return self.trust.signer

    def _waits(self, name: str) -> Path:
        return self.waiting / f"{name}.json"

    def _kept(self) -> dict[str, Seen]:
        """Return what is to be told, by the name of the log; a file that was cut off is passed over."""
        found = dict[str, Seen]()
        for file in sorted(self.waiting.glob("*.json")):
            try:
                found[file.stem] = Seen(**loads(file.read_bytes()))
            except (ValueError, TypeError):
                log.warning("%s cannot be read; %s", file, LATER)
        return found

    def _make_key(self) -> None:
        """Make the key where no witness was told of anything yet; of two processes one does."""
        if self.key_file.exists() or any(map(self._was_told, self.places)):
            return
        with draft_in(self.key_file.parent, 0o700) as draft, suppress(FileExistsError):
            make_private(draft)
            draft.write_bytes(os.urandom(KEY_BYTES))
            put_new(draft, self.key_file)

    def _was_told(self, place: Place) -> bool:
        try:
            return asked(place.url, self.trust, partial(highest_number, place, FOLDER)) > 0
        except UserError as error:
            if not unreachable(error):
                raise
            return False

    def _key(self) -> bytes:
        try:
            key = self.key_file.read_bytes()
        except OSError as error:
            problem = f"the key under which witnesses know logs cannot be read: {error.strerror}"
            raise UserError(problem, file=self.key_file, fix=COPY_KEY) from None
        if len(key) != KEY_BYTES:
            raise UserError(f"not a key of {KEY_BYTES} bytes", file=self.key_file, fix=COPY_KEY)
        return key

    def _key_id(self) -> str:
        return hashlib.sha256(b"witness" + self._key()).hexdigest()[:16]


def _read(content: bytes) -> Checkpoint:
    """Read a checkpoint's file. Raises one of NO_CHECKPOINT for what is none, or whose logs are not those of
    its statement.
    """
    said = loads(content)
    statement = envelope_content(said["envelope"])
    facts = loads(statement)
    logs = {str(name): Seen(int(entries), str(sha)) for name, (entries, sha) in said["logs"].items()}
    if facts["root"] != _root(logs):
        raise ValueError("another root")
    sha256 = hashlib.sha256(statement).hexdigest()
    at, key = moment(facts["at"]), str(facts["key"])
    return Checkpoint(facts["number"], sha256, facts["previous"], at, key, logs, said["envelope"])


def _entries(hashes: Sequence[str]) -> str:
    return f"{len(hashes)} {'entry' if len(hashes) == 1 else 'entries'}"


def _is_news(known: Seen | None, seen: Seen) -> bool:
    """Say whether a witness is to be told; where others went on from there meanwhile, it knows more."""
    return known is None or known.entries < seen.entries


def _says_less(after: Seen | None, before: Seen) -> bool:
    """Say whether a later checkpoint has less of a log than one before it, or another entry there."""
    if after is None or after.entries < before.entries:
        return True
    return after.entries == before.entries and after.sha256 != before.sha256


def _root(logs: Mapping[str, Seen]) -> str:
    return _tree(logs).root.hex()


def _tree(logs: Mapping[str, Seen]) -> MerkleTree:
    return MerkleTree(b"".join(leaf_hash(leaf.encode()) for leaf in _leaves(logs)))


def _leaves(logs: Mapping[str, Seen]) -> list[str]:
    """Return what is hashed of each log, in the order of their names."""
    return [f"{name}:{logs[name].entries}:{logs[name].sha256}" for name in sorted(logs)]


def _proof(logs: Mapping[str, Seen], name: str) -> dict[str, Any]:
    at, leaves = sorted(logs).index(name), _leaves(logs)
    path = [each.hex() for each in _tree(logs).path(at)]
    return {"leaf": leaves[at], "index": at, "size": len(leaves), "path": path}
