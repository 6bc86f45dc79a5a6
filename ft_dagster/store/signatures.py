"""Keeps the signatures of statements beside them, and refuses a statement that bears none where the trust
root does.

Each is an envelope of its own: `<prefix>/signatures/<sha256 of the statement>.<id of the key>.json`. It is
written before the statement, so that none stands unsigned. It does not lie in the folder of an attempt, in
which older versions refuse what the manifest does not list.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

from ft_dagster.errors import UserError
from ft_dagster.provenance.signing import MANIFEST, TOMBSTONE, TRUST_FILE, TrustedKey
from ft_dagster.store.blobs import Store
from ft_dagster.store.witnessed_files import had_seen
from ft_dagster.strict_json import loads

FOLDER = "signatures"


def sign(store: Store, prefix: str, content: bytes, kind: str) -> None:
    """Write the signature of a statement that is about to be written; nothing where this process has no key
    and none is needed. Raises UserError.
    """
    refuse_without_key(store, kind)
    signer = None if store.trust is None else store.trust.signer
    if signer is not None:
        path = _path(prefix, content, signer.key)
        try:
            store.write(path, signer.envelope(content, kind))
        except IsADirectoryError:
            problem, fix = "a folder stands where a signature has to be", "See who made it, and remove it"
            raise UserError(problem, file=store.uri(path), fix=fix) from None


def refuse_without_key(store: Store, kind: str = MANIFEST) -> None:
    """Raises UserError where nothing that this process writes would count: for who is about to work long."""
    trust = store.trust
    if trust is not None and trust.signs(kind) and trust.signer is not None:
        trust.signer.check_now()
    if trust is not None and trust.refuses and not trust.signs(kind):
        has = "no key" if trust.signer is None else f"the key of an {trust.signer.key.role}"
        raise UserError(
            f"what is made here would not count: it needs a builder's signature, and this process has {has}",
            file=trust.file,
            field="unsigned",
            value=trust.unsigned,
            fix="Name a builder's key in `signing_key` (ft_dagster.yaml, or FT_DAGSTER_SIGNING_KEY)",
        )


def signers(store: Store, prefix: str, content: bytes, kind: str, at: datetime) -> tuple[TrustedKey, ...]:
    """Return the trusted keys that signed a statement in the store. `at`: when it says it was made."""
    trust = store.trust
    if trust is None:
        return ()
    name = kind, hashlib.sha256(content).hexdigest()
    if (prefix, *name) in trust.known:
        return trust.known[prefix, *name]

    def standing(envelopes: Iterable[bytes]) -> tuple[TrustedKey, ...]:
        by = trust.signers(content, kind, at, envelopes)
        return tuple(key for key in by if key.kept is None or had_seen(store, key.kept, prefix, *name))

    paths = [_path(prefix, content, key) for key in trust.counting()]
    found = standing(store.recall(paths).values())
    if trust.lacks(kind, found):  # of this host's memory: read what lies there
        there = _there(store, paths)
        found = standing(there.values())
        if trust.lacks(kind, found):
            return found  # an auditor, or somebody else, may sign it later
        store.remember(there)
    trust.known[prefix, *name] = found
    return found


def look_again(store: Store) -> None:
    """Have signatures, and all else that is small, read where they should lie, whatever this process or this
    host read and verified before: for a check of what is there now.
    """
    store.read_there()
    if store.trust is not None:
        store.trust = replace(store.trust, known={})


def _there(store: Store, paths: Sequence[str]) -> dict[str, bytes]:
    """Return what lies there; what stands in the way of a file counts as none."""
    in_the_way = (IsADirectoryError, NotADirectoryError)
    try:
        read = zip(paths, store.read_each(paths), strict=True)
        return {path: one for path, one in read if one is not None}
    except in_the_way:
        found = dict[str, bytes]()
        for path in paths:  # one in the way takes nothing from a signature beside it
            with suppress(FileNotFoundError, *in_the_way):
                found[path] = store.read(path)
        return found


def require(store: Store, prefix: str, content: bytes, kind: str, at: datetime, *, where: str) -> None:
    """Raises UserError for a statement that does not bear the signatures that count, where it needs them."""
    trust = store.trust
    if trust is None or not trust.refuses:
        return
    by = signers(store, prefix, content, kind, at)
    if lacking := trust.lacks(kind, by):
        needed = lacking + len(by)
        few = f"{len(by)} of the {needed} signatures that it needs by {TRUST_FILE}"
        raise UserError(
            few if by else f"nobody whom {TRUST_FILE} trusts signed this",
            file=where,
            fix="See who wrote it, and delete it or restore it from a backup; where it stood there before "
            "signatures were asked for, an auditor signs it by `ft-dagster trust sign`",
        )


def of_statement(content: bytes) -> tuple[str, datetime]:
    """Return what the content of a manifest file is, a manifest or a tombstone, and when it says it was made.
    Raises ValueError and LookupError for what is neither.
    """
    said = loads(content)
    if "removed" in said:
        return TOMBSTONE, moment(said["removed"]["at"])
    return MANIFEST, moment(said["predicate"]["created"])


def moment(said: object) -> datetime:
    """Return the moment that a statement says it was made; the beginning of time where it is none."""
    try:
        found = datetime.fromisoformat(str(said))
        return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)


def _path(prefix: str, content: bytes, key: TrustedKey) -> str:
    return f"{prefix}/{FOLDER}/{hashlib.sha256(content).hexdigest()}.{key.id}.json"
