"""Builds artifacts in attempts, and commits each by its manifest, which makes it visible."""

from __future__ import annotations

import hashlib
import logging
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from ft_dagster.errors import UserError
from ft_dagster.files import sync_below
from ft_dagster.provenance.digest import FileDigest, hash_folder
from ft_dagster.provenance.manifest import predicate_of
from ft_dagster.provenance.signing import MANIFEST
from ft_dagster.store.artifacts import Artifact, Place, find_artifact, stated, transfers
from ft_dagster.store.blobs import Store, as_stored
from ft_dagster.store.signatures import sign
from ft_dagster.store.transfer import send_all

log = logging.getLogger(__name__)
ATTEMPTS = "attempts"  # in the work folder


@dataclass(frozen=True)
class Attempt:
    """Is a local folder to build in; only `commit` makes it visible."""

    place: Place
    name: str
    folder: Path
    in_store: bool

    @property
    def payload(self) -> Path:
        return self.folder / "payload"

    @property
    def evidence(self) -> Path:
        return self.folder / "evidence"


def _nobody_asks() -> None:
    pass


def lock_name(name: str) -> str:
    """Return what the file of a lock of this host is called."""
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def begin_attempt(store: Store, place: Place, work: Path) -> Attempt:
    """Open an attempt: in the store itself where that is a folder, else in `work`, without what a process
    that was killed left there of the same key. Who builds holds the lock of the key.
    """
    name, lock = uuid.uuid4().hex[:12], lock_name(place.path)
    inside = store.local(f"{place.path}/{name}")
    folder = inside if inside is not None else work / ATTEMPTS / f"{lock}-{name}"
    for left in (work / ATTEMPTS).glob(f"{lock}-*"):
        shutil.rmtree(left, ignore_errors=True)
    for part in ("payload", "evidence"):
        (folder / part).mkdir(parents=True)
    return Attempt(place, name, folder, inside is not None)


def abandon_attempt(attempt: Attempt) -> None:
    """Remove what an attempt wrote; nothing ever saw it."""
    shutil.rmtree(attempt.folder, ignore_errors=True)


def commit_attempt(
    store: Store,
    attempt: Attempt,
    manifest: Mapping[str, object],
    may_commit: Callable[[], None] = _nobody_asks,
) -> Artifact:
    """Make an attempt the artifact of its key; `manifest` is a statement over its files. `may_commit` is
    called before files are sent and before the manifest is written, and raises where neither may happen.

    Of two writers one creates the manifest, and the other gets what stands; other content is recorded as a
    divergence. Whatever is raised here, the manifest may stand: nothing of the attempt in the store may be
    removed any more.
    """
    may_commit()
    if attempt.in_store:
        sync_below(attempt.folder)
    else:
        _upload(store, attempt, manifest)
    note_digest(store, Artifact(attempt.place, predicate_of(manifest)))
    may_commit()
    _create_manifest(store, attempt.place, as_stored(manifest))
    standing = find_artifact(store, attempt.place)
    if standing is None:
        raise _vanished(store, attempt.place)
    if standing.digest != predicate_of(manifest)["digest"]:
        log.warning("%s: another content stands; recorded as a divergence", attempt.place.path)
        store.write_json(f"{attempt.place.path}/divergences/{attempt.name}.json", manifest)
    return replace(standing, reused=standing.predicate["attempt"] != attempt.name)


def digests_folder(prefix: str, stage: str, digest: str) -> str:
    """Return the folder that notes the keys of a stage's artifacts of one digest, a file each."""
    return f"{prefix}/digests/{stage}/{digest}"


def note_digest(store: Store, artifact: Artifact) -> None:
    """Note the key under which an artifact lies, or will, for whoever knows only its digest; the note may be
    absent and proves nothing.
    """
    place = artifact.place
    store.write(f"{digests_folder(place.prefix, place.stage, artifact.digest)}/{place.key}", b"")


def _create_manifest(store: Store, place: Place, content: bytes) -> None:
    """Commit after what was removed under the key; nothing where an artifact stands."""
    sign(store, place.prefix, content, MANIFEST)
    for generation in count(1):
        path = place.manifest_of(generation)
        if store.create_exclusively(path, content):
            return
        try:
            standing = stated(store, place, store.read(path), generation)
        except FileNotFoundError:
            raise _vanished(store, place) from None
        if isinstance(standing, Artifact):
            return


def _vanished(store: Store, place: Place) -> UserError:
    return UserError(
        "a manifest that was just there is gone",
        file=store.uri(place.manifest),
        fix="Look who deletes files in the store, and run it again",
    )


def _upload(store: Store, attempt: Attempt, manifest: Mapping[str, object]) -> None:
    """Bring an attempt's files into the store, and read them back; the local ones go."""
    try:
        made = Artifact(attempt.place, predicate_of(manifest))
        send_all(store, transfers(made, attempt.folder))
    finally:
        abandon_attempt(attempt)


def files_of(attempt: Attempt) -> tuple[list[FileDigest], list[FileDigest]]:
    """Hash the files of an attempt: (payload, evidence)."""
    return hash_folder(attempt.payload), hash_folder(attempt.evidence)
