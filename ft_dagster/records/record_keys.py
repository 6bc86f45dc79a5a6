"""Keeps the keys of record trees: one file a tenant, and one for what all tenants share; made on first use.

A tree is ordered by the HMAC-SHA256 of each record's identity under its owner's key, and the index knows
records by that alone: who has no key can look nothing up by a guessed text. Rotating puts a new key before
the old ones, which stay: trees that stand are ordered by them. Losing a key loses no record and no proof of
presence; what is lost is to show that a record is absent from the trees that were ordered by it without
reading all of their rows.

Beside them lie the refusal keys of owners of whom an erasure was asked, by which `refusals` knows records.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.files import draft_in, put, put_new
from ft_dagster.schema_version import refuse_newer
from ft_dagster.strict_json import dumps, loads

SCHEMA_VERSION = 1
KEY_BYTES = 32
SECOND = timedelta(seconds=1)
BLOCK = 64  # bytes, of sha256
SHARED_OWNER = ""  # of what all tenants share
LOCK = ".lock"
REFUSALS = "refusals"  # the folder of the refusal keys, in that of the others
BACKUP = "FT_DAGSTER_RECORD_KEYS"  # in a pod's environment: the backup that its keys are taken from
_OTHERS = 0o077
RESTORE = "Restore it from a backup (`ft-dagster audit key restore FILE`)"


@dataclass(frozen=True)
class RecordKey:
    """Holds one key. `id`: its name in trees, the first 16 hexadecimal digits of a hash of it."""

    secret: bytes
    made: str

    @property
    def id(self) -> str:
        return hashlib.sha256(b"ft_dagster record key\0" + self.secret).hexdigest()[:16]

    def lookup(self, identity: bytes) -> bytes:
        """Return the HMAC-SHA256 of an identity, by which its record is found and ordered."""
        return self.lookups([identity])[0]

    def lookups(self, identities: Iterable[bytes]) -> list[bytes]:
        """Return the HMAC-SHA256 of each identity."""
        (inner, outer), sha256 = self._pads, hashlib.sha256
        return [sha256(outer + sha256(inner + one).digest()).digest() for one in identities]

    @cached_property
    def _pads(self) -> tuple[bytes, bytes]:
        """Return the inner and outer pads of RFC 2104: made once, or they would cost more than the hashes."""
        block = self.secret.ljust(BLOCK, b"\0")
        return bytes(byte ^ 0x36 for byte in block), bytes(byte ^ 0x5C for byte in block)


@dataclass(frozen=True)
class OwnerKeys:
    """Holds the keys of a tenant, or of what is shared (`owner` is then empty), newest first; at least
    one.
    """

    owner: str
    keys: tuple[RecordKey, ...]

    @property
    def current(self) -> RecordKey:
        return self.keys[0]

    @property
    def ids(self) -> str:
        """Return the ids of all of them, newest first, with a comma between two."""
        return ",".join(key.id for key in self.keys)

    def of_id(self, id: str) -> RecordKey | None:
        """Return the key that a tree names; None where it is lost, or another host's."""
        return next((key for key in self.keys if key.id == id), None)


class EvidenceKeys(NamedTuple):
    """Holds the keys by which new evidence is written: the owner's, which orders its tree, and that of what
    all tenants share. Of what is shared both are one.
    """

    own: RecordKey
    shared: RecordKey


def keys_of(folder: Path, owner: str) -> OwnerKeys:
    """Return the keys of an owner; the first is made where there is none, but in a pod, whose keys are those
    of a backup. Raises UserError for a file that others may read, or that is none, and for a backup without
    them.
    """
    file, backup = _file(folder, owner), os.environ.get(BACKUP)
    if backup is None:
        _create(file, [_new_key()])
    elif not os.path.lexists(file):
        restore(folder, Path(backup))
        if not os.path.lexists(file):
            named = f"--tenant {owner}" if owner else "--shared"
            fix = f"Make the pod's Secret of what `ft-dagster audit key backup keys.json {named}` writes"
            raise UserError(f"no record key of {owner or 'what all share'}", file=Path(backup), fix=fix)
    return _read(file, owner)


def read_keys(file: Path) -> OwnerKeys:
    """Read the keys of one file. Raises UserError as `keys_of`."""
    return _read(file, file.stem)


def owners(folder: Path) -> list[str]:
    """Return the owners that have keys here, in order; what is shared comes first."""
    shared = [SHARED_OWNER] if _file(folder, SHARED_OWNER).is_file() else []
    return [*shared, *sorted(file.stem for file in (folder / "tenants").glob("*.json"))]


def ids_here(folder: Path, owner: str) -> set[str]:
    """Return the ids of an owner's keys that are here; makes none. Raises UserError as `keys_of`."""
    file = _file(folder, owner)
    return {key.id for key in _read(file, owner).keys} if os.path.lexists(file) else set()


def rotate(folder: Path, owner: str) -> OwnerKeys:
    """Put a new key before those of an owner. Raises UserError as `keys_of`."""
    with _alone(folder):
        before = keys_of(folder, owner).keys
        keys = (_new_key(after=before[0]), *before)
        _write(_file(folder, owner), keys)
    return OwnerKeys(owner, keys)


def back_up(folder: Path, target: Path, whose: Sequence[str] | None = None) -> int:
    """Write keys into one new file of this user alone, refusal keys too; how many owners it has. `whose`: of
    these owners, who get one where they have none; None: all that are here. Raises UserError.
    """
    refusing = owners(folder / REFUSALS)
    chosen = sorted({*owners(folder), *refusing}) if whose is None else whose
    content = {owner: [_as_json(key) for key in keys_of(folder, owner).keys] for owner in chosen}
    kept = [owner for owner in refusing if owner in content]
    refused = {owner: [_as_json(key) for key in keys_of(folder / REFUSALS, owner).keys] for owner in kept}
    try:
        os.stat(target.parent)
        with _draft(target, {"owners": content, REFUSALS: refused}) as draft:
            put_new(draft, target)
    except OSError as error:
        fix = "Name a file that is not there, in a folder that is"
        raise UserError(f"cannot be written: {error.strerror}", file=target, fix=fix) from None
    return len(content)


def restore(folder: Path, source: Path) -> int:
    """Add the keys of a backup to those that are here, the newest first, refusal keys too; how many were
    new. So a key that another host rotated is no longer used here, either. Raises UserError.
    """
    added = 0
    backup = _backup(source)
    with _alone(folder):
        for (kind, owner), given in backup.items():
            file = _file(folder / kind, owner)
            if not given:
                continue
            there = () if _create(file, given) else _read(file, owner).keys
            new = [key for key in given if key.secret not in {known.secret for known in there}]
            newest_first = sorted([*there, *new], key=lambda key: key.made, reverse=True)
            if there and newest_first != list(there):  # earlier versions left a rotated key behind the old
                _write(file, newest_first)
            added += len(new)
    return added


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Exclude other writers of key files; the lock ends with the process."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _backup(source: Path) -> dict[tuple[str, str], list[RecordKey]]:
    """Return (folder in that of the keys, owner) -> keys; backups of older versions have no refusal keys."""
    try:
        content = loads(source.read_bytes())
        refuse_newer(content["schema_version"], SCHEMA_VERSION, file=source)
        parts = {"": content["owners"], REFUSALS: content.get(REFUSALS, {})}
        found = {
            (kind, str(owner)): [_from_json(key) for key in keys]
            for kind, part in parts.items()
            for owner, keys in part.items()
        }
    except OSError as error:
        fix = "Name what `audit key backup` wrote"
        raise UserError(f"cannot be read: {error.strerror}", file=source, fix=fix) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem, fix = f"not a backup of keys{_other(error)}", "Name what `audit key backup` wrote"
        raise UserError(problem, file=source, fix=fix) from None
    if any("/" in owner or owner.startswith(".") for _, owner in found):
        raise UserError("not a backup of keys: an owner is no tenant", file=source, fix="Name another file")
    return found


def _file(folder: Path, owner: str) -> Path:
    return folder / "tenants" / f"{owner}.json" if owner else folder / "shared.json"


def _new_key(*, after: RecordKey | None = None) -> RecordKey:
    """Make a key. `after`: the one that it stands before; its date is later, whatever the clock says."""
    made = datetime.now(UTC)
    if after is not None:
        with suppress(ValueError, TypeError):  # of a date that is none
            made = max(made, datetime.fromisoformat(after.made) + SECOND)
    return RecordKey(secrets.token_bytes(KEY_BYTES), made.isoformat(timespec="seconds"))


def _read(file: Path, owner: str) -> OwnerKeys:
    try:
        found = file.lstat()
        if found.st_uid != os.getuid() or found.st_mode & _OTHERS or file.is_symlink():
            fix = f"Make it yours alone: chmod 600 {file}; rotate the key if others may have read it"
            raise UserError("others may read this key, or it is a link", file=file, fix=fix)
        content = loads(file.read_bytes())
        refuse_newer(content["schema_version"], SCHEMA_VERSION, file=file)
        keys = tuple(_from_json(key) for key in content["keys"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"not a file of keys{_other(error)}", file=file, fix=RESTORE) from None
    if not keys:
        raise UserError("a file of keys without one", file=file, fix=RESTORE)
    return OwnerKeys(owner, keys)


class _OtherKey(ValueError):
    """Signals a key that is not the one that its id names: it was altered."""


def _other(error: Exception) -> str:
    return f": {error}" if isinstance(error, _OtherKey) else ""


def _from_json(key: Any) -> RecordKey:
    secret = bytes.fromhex(key["key"])
    if len(secret) != KEY_BYTES:
        raise ValueError("not a key")
    found = RecordKey(secret, str(key["made"]))
    if key.get("id", found.id) != found.id:
        raise _OtherKey(f"the key {str(key['id'])[:16]} is another than it was")
    return found


def _as_json(key: RecordKey) -> dict[str, str]:
    return {"id": key.id, "made": key.made, "key": key.secret.hex()}


def _create(file: Path, keys: Sequence[RecordKey]) -> bool:
    """Write a file of keys unless one stands, or another process is faster: False."""
    if os.path.lexists(file):
        return False
    with _draft(file, _stored(keys)) as draft:
        try:
            put_new(draft, file)
        except FileExistsError:
            return False
    return True


def _write(file: Path, keys: Sequence[RecordKey]) -> None:
    with _draft(file, _stored(keys)) as draft:
        put(draft, file)


def _stored(keys: Sequence[RecordKey]) -> dict[str, Any]:
    return {"keys": [_as_json(key) for key in keys]}


@contextmanager
def _draft(target: Path, content: Mapping[str, Any]) -> Iterator[Path]:
    """Write a file of this user alone beside where it belongs."""
    with draft_in(target.parent, mode=0o700) as draft:
        descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            out.write(dumps({"schema_version": SCHEMA_VERSION, **content}, indent=1) + "\n")
        yield draft
