"""Lists the statements of a store, those that bear no signature that counts, and signs what stood before
signatures were asked for.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.lineage import erasures
from ft_dagster.lineage.log import entry_path, read_log
from ft_dagster.provenance.signing import (
    AMENDMENT,
    ERASURE,
    MANIFEST,
    RELEASE,
    TOMBSTONE,
    TRUST_FILE,
    Signer,
    Trust,
)
from ft_dagster.store.amendments import FOLDER, read
from ft_dagster.store.artifacts import Artifact, Removed
from ft_dagster.store.blobs import Store, StoredFile
from ft_dagster.store.contents import contents_of
from ft_dagster.store.numbered import numbered
from ft_dagster.store.release_chain import signed_of
from ft_dagster.store.signatures import moment, sign, signers

_ENTRY = re.compile(r"(?P<prefix>tenants/[^/]+/[^/]+)/releases/[0-9]{6}\.json")

_AMENDMENT = re.compile(rf"(?P<prefix>.+)/[a-z_]+/[0-9a-f]{{64}}/{FOLDER}/[0-9]{{6}}\.json")


class Statement(NamedTuple):
    """Is a file that is signed. `content`: of it, what is signed; `prefix`: the part of the store that it
    lies in. `at`: when it says that it was made.
    """

    path: str
    prefix: str
    content: bytes
    kind: str
    at: datetime


def without_refusal(store: Store) -> Trust:
    """Have a store read what nobody signed; return its trust root. Raises UserError where it has none."""
    if store.trust is None:
        fix = "Make a key and the file by `ft-dagster trust new-key NAME --role builder`"
        raise UserError("nobody's signature counts: there is no trust.yaml", file=store.url, fix=fix)
    store.trust = replace(store.trust, unsigned="accepted")
    return store.trust


def statements(store: Store, tenant: str | None = None) -> Iterator[Statement]:
    """Yield each manifest, tombstone, amendment and entry of a release log or of an erasure log; of a tenant,
    or of all and what they share. Raises UserError for one that cannot be read.
    """
    contents = contents_of(store)
    for keyed in contents.keyed.values():
        if not _is_of(keyed.place.prefix, tenant):
            continue
        if keyed.damaged is not None:
            raise keyed.damaged
        found: list[Artifact | Removed] = [
            *keyed.removed,
            *([] if keyed.artifact is None else [keyed.artifact]),
        ]
        yield from (_of_artifact(store, one) for one in found)
    for part in beside_artifacts(store, contents.records, tenant):
        yield from part


def beside_artifacts(
    store: Store, files: Collection[StoredFile], tenant: str | None
) -> Iterator[Iterator[Statement]]:
    """Yield the statements that are no artifact's: amendments, and entries of logs, a log at a time. Each
    raises UserError as `statements`. `files`: of the store.
    """
    yield _amendments(store, files, tenant)
    entries = (_ENTRY.fullmatch(file.path) for file in files)
    logs = {entry["prefix"] for entry in entries if entry is not None}
    yield from (_of_log(store, prefix) for prefix in sorted(logs) if _is_of(prefix, tenant))
    owners = erasures.owners_with_erasures(store)
    yield from (_of_erasures(store, owner) for owner in owners if tenant in (None, owner))


def unsigned(store: Store, tenant: str | None = None) -> Iterator[Statement]:
    """Yield the statements that bear no signature that counts, or too few."""
    yield from (one for one in statements(store, tenant) if not is_signed(store, one))


def is_signed(store: Store, one: Statement) -> bool:
    """Say whether a statement bears the signatures that count, as many as it needs."""
    by = signers(store, one.prefix, one.content, one.kind, one.at)
    return store.trust is not None and not store.trust.lacks(one.kind, by)


def sign_history(store: Store, tenant: str | None = None) -> Iterator[Statement]:
    """Sign each statement that bears no signature that counts, and yield it. Raises UserError where no
    auditor's key signs here.
    """
    signer = refuse_without_auditor(store)
    for one in unsigned(store, tenant):
        sign(store, one.prefix, one.content, one.kind)
        if signer.key not in signers(store, one.prefix, one.content, one.kind, one.at):
            fix = f"See from when to when {signer.key.name} may sign, in {TRUST_FILE}"
            problem = "the signature does not count"
            raise UserError(problem, file=store.uri(one.path), value=one.at.isoformat(), fix=fix)
        yield one


def refuse_without_auditor(store: Store) -> Signer:
    """Have a store read what nobody signed; return who signs here. Raises UserError for no auditor."""
    trust = without_refusal(store)
    if trust.signer is None or trust.signer.key.role != "auditor":
        raise UserError(
            "only an auditor vouches for what was there before",
            file=trust.file,
            field="signing_key",
            value=None if trust.signer is None else trust.signer.key.name,
            fix="Run it where `signing_key` is an auditor's key",
        )
    return trust.signer


def _of_artifact(store: Store, one: Artifact | Removed) -> Statement:
    made = one if isinstance(one, Artifact) else one.artifact
    kind, at = (MANIFEST, made.predicate["created"]) if isinstance(one, Artifact) else (TOMBSTONE, one.at)
    path = made.manifest_path
    return Statement(path, made.place.prefix, store.read(path), kind, moment(at))


def _amendments(store: Store, files: Iterable[StoredFile], tenant: str | None) -> Iterator[Statement]:
    for path in (file.path for file in files):
        named = _AMENDMENT.fullmatch(path)
        if named is not None and _is_of(named["prefix"], tenant):
            content = store.read(path)
            at = moment(read(store, named["prefix"], path, content).at)
            yield Statement(path, named["prefix"], content, AMENDMENT, at)


def _of_log(store: Store, prefix: str) -> Iterator[Statement]:
    log = read_log(store, prefix)
    for number, entry in enumerate(log.entries, 1):
        path = entry_path(prefix, number)
        signed = signed_of(entry.schema_version, store.read(path), log.hashes[: number - 1])
        yield Statement(path, prefix, signed, RELEASE, moment(entry.at))


def _of_erasures(store: Store, owner: str) -> Iterator[Statement]:
    folder = erasures.folder_of(owner)
    for number, entry in enumerate(erasures.read_erasures(store, owner), 1):
        path = numbered(folder, number)
        yield Statement(path, folder, store.read(path), ERASURE, moment(entry.at))


def _is_of(prefix: str, tenant: str | None) -> bool:
    return tenant is None or prefix.startswith(f"tenants/{tenant}/")
