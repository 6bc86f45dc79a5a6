"""Artifacts: written under KEY/<attempt>/, committed by KEY/manifest.json, immutable after that.

An attempt has two folders: `payload/` (what the artifact's digest covers) and `evidence/` (logs,
cards, ledgers: hashed in the manifest, outside the digest).
"""

from __future__ import annotations

import logging
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.provenance.digest import FileDigest, hash_folder, sha256_file
from ft_dagster.provenance.manifest import predicate_of
from ft_dagster.store.blobs import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where a stage's artifact for one key lives: `<prefix>/<stage>/<key>`."""

    prefix: str  # tenants/<tenant>/<variant> or shared
    stage: str
    key: str

    @property
    def path(self) -> str:
        return f"{self.prefix}/{self.stage}/{self.key}"

    @property
    def manifest(self) -> str:
        return f"{self.path}/manifest.json"


@dataclass(frozen=True)
class Attempt:
    """A local folder to build in; it becomes visible only through `commit`."""

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


@dataclass(frozen=True)
class Artifact:
    """A committed artifact. `reused` says that it was there before this run asked for it."""

    place: Place
    predicate: dict[str, Any]
    reused: bool = True

    @property
    def digest(self) -> str:
        return str(self.predicate["digest"])

    @property
    def figures(self) -> dict[str, Any]:
        figures: dict[str, Any] = self.predicate["figures"]
        return figures

    @property
    def inputs(self) -> dict[str, str]:
        inputs: dict[str, str] = self.predicate["inputs"]
        return inputs

    @property
    def size(self) -> int:
        """Bytes of the payload."""
        return sum(file["size"] for file in self.predicate["payload"])

    @property
    def path(self) -> str:
        """The attempt's folder in the store."""
        return f"{self.place.path}/{self.predicate['attempt']}"

    def folder(self, store: Store, cache: Path) -> Path:
        """The attempt's folder on this machine (`payload/`, `evidence/`), downloaded where it must be.

        Raises UserError when a file is missing or has another size; `verify` does the full hash.
        """
        local = store.local(self.path)
        if local is None:
            local = cache / self.digest / str(self.predicate["attempt"])
        for part in ("payload", "evidence"):
            for file in self.predicate[part]:
                here = local / part / file["path"]
                if store.remote and not here.exists():
                    store.download(f"{self.path}/{part}/{file['path']}", here)
                if not here.exists() or here.stat().st_size != file["size"]:
                    raise _damaged(here, "is missing" if not here.exists() else "has another size")
        return local


def begin_attempt(store: Store, place: Place, work: Path) -> Attempt:
    """Open an attempt: in the store itself where that is a folder, else in `work`."""
    name = uuid.uuid4().hex[:12]
    inside = store.local(f"{place.path}/{name}")
    folder = inside if inside is not None else work / "attempts" / name
    for part in ("payload", "evidence"):
        (folder / part).mkdir(parents=True)
    return Attempt(place, name, folder, inside is not None)


def abandon_attempt(attempt: Attempt) -> None:
    """Remove what an attempt wrote; nothing ever saw it."""
    shutil.rmtree(attempt.folder, ignore_errors=True)


def commit_attempt(store: Store, attempt: Attempt, manifest: dict[str, Any]) -> Artifact:
    """Make an attempt the artifact of its key; `manifest` is a statement over its files.

    The manifest read back decides between two writers. If the key already had other content, that
    stands and this attempt is recorded as a divergence.
    """
    predicate = predicate_of(manifest)
    if not attempt.in_store:
        for part in ("payload", "evidence"):
            for file in predicate[part]:
                store.upload(
                    attempt.folder / part / file["path"],
                    f"{attempt.place.path}/{attempt.name}/{part}/{file['path']}",
                )
        shutil.rmtree(attempt.folder)
    if not store.exists(attempt.place.manifest):
        store.write_json(attempt.place.manifest, manifest)
    standing = predicate_of(store.read_json(attempt.place.manifest))
    if standing["digest"] != predicate["digest"]:
        log.warning("%s: another content stands; recorded as a divergence", attempt.place.path)
        store.write_json(f"{attempt.place.path}/divergences/{attempt.name}.json", manifest)
    return Artifact(attempt.place, standing, reused=standing["attempt"] != attempt.name)


def find_artifact(store: Store, place: Place) -> Artifact | None:
    """The committed artifact of a key, or None. Raises UserError for a manifest it cannot read."""
    try:
        manifest = store.read_json(place.manifest)
    except FileNotFoundError:
        return None
    except ValueError:
        raise UserError(
            "not JSON", file=store.uri(place.manifest), fix="Delete it; the stage is then made again"
        ) from None
    return Artifact(place, predicate_of(manifest, store.uri(place.manifest)))


def verify_artifact(store: Store, artifact: Artifact, cache: Path) -> None:
    """Hash every file of payload and evidence again. Raises UserError naming the first that differs."""
    folder = artifact.folder(store, cache)
    for part in ("payload", "evidence"):
        for file in artifact.predicate[part]:
            here = folder / part / file["path"]
            if sha256_file(here) != file["sha256"]:
                raise _damaged(here, "has other bytes than when it was made")


def files_of(attempt: Attempt) -> tuple[list[FileDigest], list[FileDigest]]:
    """(payload, evidence) of an attempt, hashed."""
    return hash_folder(attempt.payload), hash_folder(attempt.evidence)


def _damaged(file: Path, what: str) -> UserError:
    return UserError(
        f"a stored file {what}",
        file=file,
        fix="Restore it from a backup, or delete the manifest.json above it: the stage is then made again",
    )
