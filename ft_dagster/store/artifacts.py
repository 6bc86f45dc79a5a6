"""Writes artifacts under KEY/<attempt>/ and commits them by KEY/manifest.json; nothing changes them after
that.

An attempt has two folders: `payload/` (what the artifact's digest covers) and `evidence/` (logs,
cards, ledgers: hashed in the manifest, outside the digest).

Where retention removed an artifact, its manifest file says so and holds the manifest as it was (a tombstone,
see `removal`); what is made again under the key is committed by KEY/manifest-2.json, and so on.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.files import is_full
from ft_dagster.provenance.digest import FileDigest, files_below
from ft_dagster.provenance.hash_cache import cached_digests
from ft_dagster.provenance.manifest import check_predicate, check_subject, predicate_of
from ft_dagster.provenance.signing import MANIFEST, TOMBSTONE
from ft_dagster.schema_version import refuse_newer
from ft_dagster.store.amendments import amended_files, amendments
from ft_dagster.store.blobs import Store
from ft_dagster.store.cache import DRAFTS, held, hold, make_room
from ft_dagster.store.signatures import moment, require
from ft_dagster.store.transfer import OTHER_BYTES, Transfer, each_at_once, fetch_all, persist
from ft_dagster.strict_json import loads

PARTS = ("payload", "evidence")
TOMBSTONE_VERSION = 1
ERASURE = "it held records of erasure "  # begins why an artifact was removed for a request
MOST_CHECKED = 64  # manifests that one store object keeps parsed


@dataclass(frozen=True)
class Place:
    """Says where a stage's artifact for one key lives: `<prefix>/<stage>/<key>`."""

    prefix: str  # tenants/<tenant>/<variant> or shared
    stage: str
    key: str

    @property
    def path(self) -> str:
        return f"{self.prefix}/{self.stage}/{self.key}"

    @property
    def manifest(self) -> str:
        return self.manifest_of(1)

    def manifest_of(self, generation: int) -> str:
        """Return the path of the manifest for what was made under the key for the first, second, ... time."""
        return f"{self.path}/manifest.json" if generation == 1 else f"{self.path}/manifest-{generation}.json"


@dataclass(frozen=True)
class Artifact:
    """Stands for a committed artifact. `reused`: it was there before this run asked for it. `manifest`:
    sha256 of the manifest's file, which binds what the digest does not cover. `generation`: 2 for what was
    made after a first one was removed.
    """

    place: Place
    predicate: dict[str, Any]
    reused: bool = True
    manifest: str = ""
    generation: int = 1

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
    def input_manifests(self) -> dict[str, str]:
        """Return the sha256 of each input's manifest, by the input's name; version 0.1 recorded none."""
        return self.predicate.get("input_manifests") or {}

    @property
    def spec(self) -> dict[str, Any]:
        """Return the fields of the declaration that the artifact was made from, as its key has them."""
        spec: dict[str, Any] = self.predicate["spec"]
        return spec

    @property
    def size(self) -> int:
        """Return the bytes of the payload."""
        return sum(file["size"] for file in self.predicate["payload"])

    @property
    def path(self) -> str:
        """Return the attempt's folder in the store."""
        return f"{self.place.path}/{self.predicate['attempt']}"

    @property
    def files(self) -> dict[str, FileDigest]:
        """Return each file of payload and evidence by its path in the attempt's folder."""
        listed = ((part, FileDigest(**file)) for part in PARTS for file in self.predicate[part])
        return {f"{part}/{file.path}": file for part, file in listed}

    def as_amended(self, store: Store) -> Artifact | None:
        """Return the same artifact with the bytes of evidence that amendments gave it and that lie there;
        None where none did. For who found other bytes than the manifest lists. Raises UserError for an
        amendment that is none.
        """
        found = [*amendments(store, self.place.prefix, self.place.path).values()]
        if not found:
            return None
        files = amended_files(store, self.path, self.files, found, self.manifest)
        evidence = [
            files[f"evidence/{one['path']}"]._asdict() if f"evidence/{one['path']}" in files else one
            for one in self.predicate["evidence"]
        ]
        return replace(self, predicate={**self.predicate, "evidence": evidence}) if files else None

    @property
    def manifest_path(self) -> str:
        return self.place.manifest_of(self.generation)

    def folder(self, store: Store, cache: Path) -> Path:
        """Return the attempt's folder on this machine (`payload/`, `evidence/`), downloaded where it must be.
        A copy of a remote store stays while this process lives: where that is long, see `held` and `read`.

        Its files are those of the manifest, by their bytes: hashed, or remembered where nothing touched them
        (see `provenance.hash_cache`). Raises UserError for one that is missing, another, unlisted or a link,
        and for an artifact that was removed meanwhile.
        """
        if store.remote:
            hold(cache, *self._copy)
        return self._filled(store, cache)

    @contextmanager
    def held(self, store: Store, cache: Path) -> Iterator[Path]:
        """Yield the folder as `folder` returns it, with a copy that stays until this ends. Raises UserError,
        see `folder`.
        """
        with held(cache, *self._copy) if store.remote else nullcontext():
            yield self._filled(store, cache)

    def read(self, store: Store, name: str) -> bytes:
        """Read one small file, such as `payload/base.json`, from the store itself: no copy of it is kept.
        Raises UserError for one that is missing or another, and for an artifact that was removed meanwhile.
        """
        try:
            return _read(store, self, name)
        except UserError:
            refuse_removed(store, self.place, self.digest, self.generation)
            raise

    @property
    def _copy(self) -> tuple[str, str]:
        """Return the names under which the cache knows the copy: digest and attempt."""
        return self.digest, str(self.predicate["attempt"])

    def _filled(self, store: Store, cache: Path) -> Path:
        """Return the folder of an artifact that the caller holds, filled and checked."""
        local = store.local(self.path)
        try:
            if local is None:
                return _cached(store, self, cache)
            _check_folder(self.files, local, cache)
        except UserError:
            refuse_removed(store, self.place, self.digest, self.generation)
            amended = self.as_amended(store)
            if amended is None or amended == self:
                raise
            return amended._filled(store, cache)
        return local


@dataclass(frozen=True)
class Removed:
    """Stands for an artifact whose files retention, or an erasure, removed. `at`: ISO 8601, UTC. `artifact`:
    what its manifest says. `original`: the bytes of that manifest as it was committed, whose sha256 is
    `artifact.manifest`.
    """

    artifact: Artifact
    at: str
    why: str
    original: bytes

    @property
    def erased(self) -> bool:
        """Say whether it was removed for a request for an erasure."""
        return self.why.startswith(ERASURE)

    @property
    def by(self) -> str:
        return "by an erasure" if self.erased else "by retention"

    def error(self, store: Store) -> UserError:
        """Return the error for a caller who needs the removed artifact."""
        return UserError(
            f"removed {self.by} on {self.at[:10]} ({self.why})",
            file=store.uri(self.artifact.path),
            fix="Run the variant: it is made again"
            if self.erased
            else "Restore its folder and its manifest from a backup, or run the variant: it is made again",
        )


def find_artifact(store: Store, place: Place) -> Artifact | None:
    """Return the committed artifact of a key, or None. Raises UserError for a manifest that it cannot read,
    or that does not hold against itself or its place.
    """
    return next((one for one in generations(store, place) if isinstance(one, Artifact)), None)


def generations(store: Store, place: Place) -> Iterator[Artifact | Removed]:
    """Yield all that was ever committed under a key: first what was removed, and last what stands, if
    anything does.

    Raises UserError, see `find_artifact`.
    """
    for generation in count(1):
        try:
            content = store.read(place.manifest_of(generation))
        except FileNotFoundError:
            return
        found = stated(store, place, content, generation)
        yield found
        if isinstance(found, Artifact):
            return


def refuse_removed(store: Store, place: Place, digest: str, generation: int | None = None) -> None:
    """Raises UserError where the artifact of this digest was removed from under the key, and says when.
    `generation`: of the one that is meant; None: any.
    """
    for found in generations(store, place):
        if (
            isinstance(found, Removed)
            and found.artifact.digest == digest
            and generation in (None, found.artifact.generation)
        ):
            raise found.error(store)


def stated(store: Store, place: Place, content: bytes, generation: int = 1) -> Artifact | Removed:
    """Parse the content of a manifest file into the artifact, or the removed one, that it states. Raises
    UserError, see `find_artifact`.
    """
    if store.checked is None:
        return _stated(store, place, content, generation)
    known, checked = (place, content, generation), store.checked
    found: Artifact | Removed | None = checked.get(known)
    if found is None:
        if len(checked) >= MOST_CHECKED:
            checked.clear()
        found = checked[known] = _stated(store, place, content, generation)
    return found


def _stated(store: Store, place: Place, content: bytes, generation: int) -> Artifact | Removed:
    where = store.uri(place.manifest_of(generation))
    manifest = _json(content, where)
    if not isinstance(manifest, dict) or "removed" not in manifest:
        artifact = _artifact(place, manifest, content, where, generation)
        created = moment(artifact.predicate["created"])
        require(store, place.prefix, content, MANIFEST, created, where=where)
        return artifact
    try:
        refuse_newer(manifest["schema_version"], TOMBSTONE_VERSION, file=where)
        said, original = manifest["removed"], str(manifest["manifest"]).encode()
        at, why = str(said["at"]), str(said["why"])
    except (KeyError, TypeError):
        raise UserError(
            "not a record of a removal", file=where, fix="Restore the file from a backup"
        ) from None
    made = _artifact(place, _json(original, where), original, where, generation)
    require(store, place.prefix, content, TOMBSTONE, moment(at), where=where)
    return Removed(made, at, why, original)


def _json(content: bytes, where: str) -> Any:
    try:
        return loads(content)
    except ValueError:
        raise UserError("not JSON", file=where, fix="Delete it; the stage is then made again") from None


def _artifact(place: Place, manifest: Any, content: bytes, where: str, generation: int) -> Artifact:
    predicate = predicate_of(manifest, where)
    check_predicate(predicate, place.prefix, place.stage, place.key, where)
    check_subject(manifest, where)
    return Artifact(place, predicate, manifest=hashlib.sha256(content).hexdigest(), generation=generation)


def verify_artifact(store: Store, artifact: Artifact, cache: Path) -> None:
    """Hash every file of payload and evidence again, as the store has it. Raises UserError naming the first
    that differs, is missing, is a link, or is not listed by the manifest, and for an artifact that was
    removed meanwhile.
    """
    place = artifact.place
    where = store.uri(artifact.manifest_path)
    check_predicate(artifact.predicate, place.prefix, place.stage, place.key, where)
    try:
        _verify_files(store, artifact, cache)
    except UserError:
        refuse_removed(store, place, artifact.digest, artifact.generation)
        amended = artifact.as_amended(store)
        if amended is None:
            raise
        _verify_files(store, amended, cache)


def _verify_files(store: Store, artifact: Artifact, cache: Path) -> None:
    folder = store.local(artifact.path)
    if folder is not None:
        _check_folder(artifact.files, folder, cache, fresh=True)
        return
    _check_names(artifact.files, store.files_below(artifact.path), store.uri(artifact.path))
    files = transfers(artifact, Path())
    found = each_at_once(lambda file: persist(lambda: store.sha256(file.stored)), files)
    for file, sha256 in zip(files, found, strict=True):
        if sha256 != file.sha256:
            raise _damaged(store.uri(file.stored), OTHER_BYTES)


def _read(store: Store, artifact: Artifact, name: str) -> bytes:
    """Raises UserError, see `Artifact.read`."""
    path, listed = f"{artifact.path}/{name}", artifact.files.get(name)
    try:
        content = persist(lambda: store.read(path))
    except FileNotFoundError:
        raise _damaged(store.uri(path), "is missing") from None
    if listed is None or hashlib.sha256(content).hexdigest() != listed.sha256:
        raise _damaged(store.uri(path), OTHER_BYTES)
    return content


def _cached(store: Store, artifact: Artifact, cache: Path) -> Path:
    """Return a remote artifact's folder in the cache, held by the caller. One that is not as it should be is
    fetched anew. Raises UserError, also where the disk is full of what is in use.
    """
    folder = cache.joinpath(*artifact._copy)
    try:
        _fetch(store, artifact, folder, cache)
        _check_folder(artifact.files, folder, cache)
    except UserError:
        folder.unlink() if folder.is_symlink() else shutil.rmtree(folder, ignore_errors=True)
        _fetch(store, artifact, folder, cache)
        _check_folder(artifact.files, folder, cache)
    return folder


def _fetch(store: Store, artifact: Artifact, folder: Path, cache: Path) -> None:
    """Download what is absent, each file whole or not at all. Raises UserError for other bytes there, and for
    a full disk.
    """
    there = files_below(folder)
    absent = [
        file for file in transfers(artifact, folder) if str(file.local.relative_to(folder)) not in there
    ]
    needed = sum(artifact.files[str(file.local.relative_to(folder))].size for file in absent)
    if needed and store.cache_bytes is not None:
        make_room(cache, store.cache_bytes, needed)
    try:
        fetch_all(store, absent, cache / DRAFTS)
    except FileNotFoundError:
        gone = next((file.stored for file in absent if not store.exists(file.stored)), artifact.path)
        raise _damaged(store.uri(gone), "is missing") from None
    except OSError as error:
        if not is_full(error):
            raise
        make_room(cache, 0, 0)
        _fetch_again(store, absent, cache)


def _fetch_again(store: Store, absent: list[Transfer], cache: Path) -> None:
    """Fetch absent files once all the room that can be made is there. Raises UserError where that is too
    little.
    """
    try:
        fetch_all(store, [file for file in absent if not file.local.exists()], cache / DRAFTS)
    except OSError as error:
        if not is_full(error):
            raise
        raise UserError(
            "the disk of the cache is full of what is in use",
            file=cache,
            fix="Free some space, or put `work` on a larger disk, and run it again",
        ) from error


def transfers(artifact: Artifact, folder: Path) -> list[Transfer]:
    """Return an artifact's files, each in the store and below a folder of this host."""
    return [
        Transfer(folder / name, f"{artifact.path}/{name}", file.sha256)
        for name, file in artifact.files.items()
    ]


def _check_folder(files: dict[str, FileDigest], folder: Path, cache: Path, *, fresh: bool = False) -> None:
    """Raises UserError unless `folder` holds these files and no others."""
    there = files_below(folder)
    _check_names(files, {name: found.st_size for name, found in there.items()}, str(folder))
    found = cached_digests([folder / name for name in files], cache, fresh=fresh)
    for (name, file), sha256 in zip(files.items(), found, strict=True):
        if sha256 != file.sha256:
            raise _damaged(folder / name, OTHER_BYTES)


def _check_names(files: dict[str, FileDigest], there: dict[str, int], folder: str) -> None:
    for name, file in files.items():
        if there.get(name) != file.size:
            raise _damaged(f"{folder}/{name}", "has another size" if name in there else "is missing")
    unlisted = next((name for name in there if name not in files), None)
    if unlisted is not None:
        raise UserError(
            "a file that the manifest beside it does not list",
            file=f"{folder}/{unlisted}",
            fix="Remove it: nobody judged it",
        )


def _damaged(file: object, what: str) -> UserError:
    return UserError(
        f"a stored file {what}",
        file=file,
        fix="Restore it from a backup, or delete the manifest.json above it: the stage is then made again",
    )
