"""Removes an artifact, or keeps it: one of the two holds, on a folder as on S3, whoever is killed.

`KEY/claims/<attempt>/000001.json`, `000002.json`, ... say `kept` or `removed`, each created exclusively;
nothing comes after `removed`. Who is about to use an artifact that may be old keeps it first; who removes it
claims that first, unless it was kept of late. Then the manifest file becomes a tombstone, and after that the
files go, but those that an audit needs: each step may be taken again by anyone, and what is made again is
committed beside the tombstone. Claim and tombstone of a removal are signed; where signatures are asked for,
nobody finishes, by a key of their own, a removal that somebody without a key began.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Event, Thread
from typing import NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.provenance.signing import TOMBSTONE
from ft_dagster.stage_entries import ENTRIES
from ft_dagster.store.artifacts import TOMBSTONE_VERSION, Artifact, Place, Removed, stated
from ft_dagster.store.blobs import Store, as_stored
from ft_dagster.store.numbered import highest_number, numbered
from ft_dagster.store.remote_errors import unreachable
from ft_dagster.store.signatures import moment, require, sign
from ft_dagster.strict_json import loads

log = logging.getLogger(__name__)
KEPT, REMOVED = "kept", "removed"
# By these an audit tells which records a model learned from, read from where, on which base: they outlive
# what they speak of. By their path in the attempt's folder.
RECORDS = (
    "evidence/rows.parquet", "evidence/dropped.parquet", "evidence/tree.parquet", "evidence/ledger.json",
    "evidence/cuts.parquet",
)  # fmt: skip
DAY = 86_400.0  # seconds; what was written or kept since is never removed
FRESH = DAY / 2  # for so long an artifact or a claim is young enough to be used without a new claim
AGAIN = FRESH / 3  # how often what is in use is kept again: two that fail lose nothing
TRIES = 8


class _Claim(NamedTuple):
    number: int  # 0: nothing was claimed
    claim: str
    at: float
    why: str
    manifest: str = ""  # sha256 of that of what a removal is of; older claims do not say
    content: bytes = b""


def keep(store: Store, artifact: Artifact) -> bool:
    """Claim an artifact for use: for half a day from now, and up to a day, nobody removes it, nor what it was
    made from. False: its removal was claimed before. Raises UserError where others claim it without end.
    """
    if time.time() - _seconds(artifact.predicate["created"]) < FRESH:
        return True
    for _ in range(TRIES):
        last = _last_claim(store, artifact)
        if last.claim == REMOVED:
            _refuse_unsigned(store, artifact, last)
            return False
        if time.time() - last.at < FRESH or _create(store, artifact, last.number + 1, KEPT, ""):
            return True
    raise _contended(store, artifact)


@contextmanager
def kept_in_use(store: Store, artifacts: Sequence[Artifact]) -> Iterator[None]:
    """Keep artifacts from being removed while they are in use, however long, by whichever host.

    Raises UserError where the removal of one was claimed before.
    """
    for artifact in artifacts:
        if not keep(store, artifact):
            fix = "Run the variant from its first stage: it is made again"
            raise UserError("retention is removing this", file=store.uri(artifact.path), fix=fix)
    ended = Event()
    thread = Thread(target=_keep_again, args=(store, artifacts, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _keep_again(store: Store, artifacts: Sequence[Artifact], ended: Event) -> None:
    while not ended.wait(AGAIN):
        for artifact in artifacts:
            try:
                keep(store, artifact)
            except Exception as error:
                if not (isinstance(error, OSError | UserError) or unreachable(error)):
                    raise
                log.warning("%s: could not be kept from retention: %s", artifact.path, error)


def claim_removal(store: Store, artifact: Artifact, why: str, before: float) -> bool:
    """Decide that an artifact goes; False: it was kept after `before`, in seconds since 1970."""
    for _ in range(TRIES):
        last = _last_claim(store, artifact)
        if last.claim == REMOVED:
            _refuse_unsigned(store, artifact, last)
            return True
        if last.at >= before:
            return False
        if _create(store, artifact, last.number + 1, REMOVED, why):
            return True
    raise _contended(store, artifact)


def outlives(place: Place, name: str) -> bool:
    """Say whether a file of an artifact stays when retention removes it. `name`: in the attempt's folder."""
    entry = ENTRIES.get(place.stage)
    return name in RECORDS or (entry is not None and name == entry.outlives)


def finish_removal(store: Store, artifact: Artifact, files: Iterable[str] = ()) -> None:
    """Do what was claimed: the tombstone, unless it stands, then the files that do not outlive it. `files`:
    more of them, by their path under the key.

    May be called again, by several at once, and after any of it was done.
    """
    path = artifact.manifest_path
    content = store.read(path)
    if not isinstance(stated(store, artifact.place, content, artifact.generation), Removed):
        last = _last_claim(store, artifact)
        if last.claim != REMOVED:
            raise ValueError(f"{artifact.path}: nobody claimed its removal")
        _refuse_unsigned(store, artifact, last)
        tombstone = as_stored(_tombstone(content, last))
        sign(store, artifact.place.prefix, tombstone, TOMBSTONE)
        store.write(path, tombstone)
    attempt = artifact.predicate["attempt"]
    listed = {f"{attempt}/{name}" for name in artifact.files}.union(files)
    gone = (name for name in sorted(listed) if not outlives(artifact.place, name.removeprefix(f"{attempt}/")))
    store.remove(f"{artifact.place.path}/{name}" for name in gone)
    store.remove_empty(artifact.path)


def removal_claim(store: Store, artifact: Artifact) -> tuple[str, bytes] | None:
    """Return the file that claims an artifact's removal, with its bytes; None without such a claim."""
    last = _last_claim(store, artifact)
    path = _path(artifact, last.number)
    return (path, store.read(path)) if last.claim == REMOVED else None


def check_claim(store: Store, artifact: Artifact) -> None:
    """Raises UserError where the newest claim on an artifact that stands is none, or of a removal that bears
    no signature where signatures are asked for.
    """
    last = _last_claim(store, artifact)
    if last.claim == REMOVED:
        _refuse_unsigned(store, artifact, last)


def _refuse_unsigned(store: Store, artifact: Artifact, last: _Claim) -> None:
    """Raises UserError for the claim of a removal that nobody signed, or signed of another artifact, where
    signatures are asked for.
    """
    if store.trust is None or not store.trust.refuses:
        return
    where = store.uri(_path(artifact, last.number))
    require(store, artifact.place.prefix, last.content, TOMBSTONE, moment(_date(last.at)), where=where)
    if last.manifest != artifact.manifest:
        fix = "See who wrote it, and delete it: the artifact stands"
        raise UserError("a claim of another artifact's removal", file=where, fix=fix)


def check_tombstone(store: Store, removed: Removed) -> None:
    """Raises UserError unless the claim that a removal began with says the same: who deletes an artifact by
    hand and writes a tombstone over its manifest is found out.
    """
    last = _last_claim(store, removed.artifact)
    if (last.claim, _date(last.at), last.why) != (REMOVED, removed.at, removed.why):
        raise UserError(
            "a tombstone of a removal that nobody claimed"
            if last.claim != REMOVED
            else "a tombstone with another date or reason than its claim",
            file=store.uri(removed.artifact.manifest_path),
            fix="Restore the artifact's folder and its manifest from a backup",
        )


def _tombstone(manifest: bytes, claim: _Claim) -> dict[str, object]:
    removed = {"at": _date(claim.at), "why": claim.why}
    return {"schema_version": TOMBSTONE_VERSION, "removed": removed, "manifest": manifest.decode()}


def _last_claim(store: Store, artifact: Artifact) -> _Claim:
    number = highest_number(store, _folder(artifact))
    if number == 0:
        return _Claim(0, "", 0.0, "")
    path = _path(artifact, number)
    try:
        content = store.read(path)
        said = loads(content)
        claim, why, manifest = str(said["claim"]), str(said["why"]), str(said.get("manifest", ""))
        return _Claim(number, claim, _seconds(said["at"]), why, manifest, content)
    except (ValueError, KeyError, TypeError, AttributeError):
        fix = "Restore the file from a backup"
        raise UserError("not a claim on an artifact", file=store.uri(path), fix=fix) from None


def _create(store: Store, artifact: Artifact, number: int, claim: str, why: str) -> bool:
    said = {"schema_version": 1, "claim": claim, "at": _date(time.time()), "why": why}
    if claim == KEPT:
        return store.create_exclusively(_path(artifact, number), as_stored(said))
    content = as_stored({**said, "manifest": artifact.manifest})
    sign(store, artifact.place.prefix, content, TOMBSTONE)
    return store.create_exclusively(_path(artifact, number), content)


def _contended(store: Store, artifact: Artifact) -> UserError:
    return UserError(
        f"others were faster {TRIES} times to claim this artifact",
        file=store.uri(_folder(artifact)),
        fix="Run it again",
    )


def _folder(artifact: Artifact) -> str:
    return f"{artifact.place.path}/claims/{artifact.predicate['attempt']}"


def _path(artifact: Artifact, number: int) -> str:
    return numbered(_folder(artifact), number)


def _seconds(date: str) -> float:
    return datetime.fromisoformat(date).timestamp()


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
