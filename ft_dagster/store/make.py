"""Make a stage's artifact once: found by its key, or built, hashed and committed under a host lock."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ft_dagster.errors import UserError
from ft_dagster.files import is_full
from ft_dagster.provenance.code import source_archive, source_digest
from ft_dagster.provenance.digest import stage_key
from ft_dagster.provenance.manifest import Origin, manifest_of, variant_of
from ft_dagster.stage_entries import version_of
from ft_dagster.store.artifacts import Artifact, Place, find_artifact
from ft_dagster.store.attempts import (
    Attempt,
    abandon_attempt,
    begin_attempt,
    commit_attempt,
    files_of,
    lock_name,
)
from ft_dagster.store.blobs import Store
from ft_dagster.store.exclusive import name_of
from ft_dagster.store.removal import finish_removal, keep, kept_in_use
from ft_dagster.store.signatures import refuse_without_key

LOCKS = "locks"  # in the work folder


@dataclass(frozen=True)
class Recipe:
    """Says what a stage's artifact is made from: all that its key covers, and for whom it is."""

    stage: str
    prefix: str
    inputs: dict[str, str] = field(default_factory=dict)  # name -> digest
    spec: Mapping[str, object] = field(default_factory=dict)
    variant: str | None = None
    seed: int | None = None
    manifests: dict[str, str] = field(default_factory=dict)  # name of an input -> sha256 of its manifest
    artifacts: tuple[Artifact, ...] = ()  # the inputs that are any

    @property
    def place(self) -> Place:
        version = version_of(self.stage)
        return Place(self.prefix, self.stage, stage_key(self.stage, version, self.inputs, self.spec))


Claiming = Callable[[], AbstractContextManager[Callable[[], None]]]


def _nobody_hears() -> None:
    pass


@contextmanager
def unclaimed() -> Iterator[Callable[[], None]]:
    """Claim nothing: of two hosts that build the same key at once both work, and one commits."""
    yield lambda: None


def make_artifact(
    store: Store,
    work: Path,
    recipe: Recipe,
    build: Callable[[Attempt], Mapping[str, object]],
    claiming: Claiming = unclaimed,
    *,
    waits: Callable[[], None] = _nobody_hears,
) -> Artifact:
    """Return the artifact of `recipe`: the committed one, else what `build` writes into an attempt.

    `build` fills `attempt.payload` and `attempt.evidence` and returns the manifest's figures. When it
    raises, nothing of the attempt stays. Two runs of this host never build the same key at once. What is
    being removed is made again; what it is made from is kept meanwhile. `claiming` waits for other hosts, and
    gives what raises where the attempt may not be committed any more. `waits`: called where another process
    of this host, or of one that shares the work folder, builds the key.
    """
    standing = find_artifact(store, recipe.place)
    if standing and keep(store, standing):
        return standing
    with host_lock(work, recipe.place.path, waits), claiming() as may_commit:
        standing = _kept(store, recipe.place)
        if standing is not None:
            return standing
        with kept_in_use(store, recipe.artifacts):
            return _build(store, work, recipe, build, may_commit)


def _kept(store: Store, place: Place) -> Artifact | None:
    """Return what stands under a key and stays there; a removal that was claimed is finished first."""
    standing = find_artifact(store, place)
    if standing is None or keep(store, standing):
        return standing
    finish_removal(store, standing)
    return None


def _build(
    store: Store,
    work: Path,
    recipe: Recipe,
    build: Callable[[Attempt], Mapping[str, object]],
    may_commit: Callable[[], None],
) -> Artifact:
    """Build and commit an artifact. Until its manifest is written an attempt may be removed; after that
    nothing is, for it may stand.
    """
    refuse_without_key(store)
    attempt = begin_attempt(store, recipe.place, work)
    with _a_full_disk_is_said(attempt):
        try:
            code = keep_source(store)  # what is there now: it may change while this is built
            manifest = _manifest(recipe, attempt, code, build(attempt))
        except BaseException:
            abandon_attempt(attempt)
            raise
        return commit_attempt(store, attempt, manifest, may_commit)


def _manifest(
    recipe: Recipe, attempt: Attempt, code: str, figures: Mapping[str, object]
) -> dict[str, object]:
    payload, evidence = files_of(attempt)
    origin = Origin(
        recipe.stage,
        version_of(recipe.stage),
        recipe.place.key,
        recipe.inputs,
        recipe.spec,
        code=code,
        variant=recipe.variant or variant_of(recipe.prefix),
        seed=recipe.seed,
        manifests=recipe.manifests,
    )
    return manifest_of(origin, attempt=attempt.name, payload=payload, evidence=evidence, figures=figures)


@contextmanager
def _a_full_disk_is_said(attempt: Attempt) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise UserError(
            "the disk is full; nothing was kept of this attempt",
            file=attempt.folder,
            fix="Free some space and run it again",
        ) from error


def keep_source(store: Store) -> str:
    """Put the package's source under shared/code/ unless it is there; returns its digest."""
    digest = source_digest()
    path = f"shared/code/{digest}.tar.gz"
    if not store.exists(path):
        store.write(path, source_archive())
    return digest


@contextmanager
def host_lock(work: Path, name: str, waits: Callable[[], None] = _nobody_hears) -> Iterator[None]:
    """Hold a lock of this host by name; it ends with the process, however that ends. `waits`: called where
    another process holds it.
    """
    path = _lock_file(work, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waits()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def work_id(work: Path) -> str:
    """Return the name of a work folder, given at its first use: locks of two folders do not know of each
    other. A copy of its files has a name of its own.
    """
    path = work / LOCKS / "id"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        return f"{name_of(file)}-{os.fstat(file.fileno()).st_ino}"


def is_being_made(work: Path, place: Place) -> bool:
    """Say whether a process of this host builds under a key."""
    return _is_held(_lock_file(work, place.path))


def is_left(work: Path, attempt: Path) -> bool:
    """Say whether no process of this host builds in the folder of an attempt, in the work folder."""
    return not _is_held(work / LOCKS / attempt.name.partition("-")[0])


def _is_held(lock: Path) -> bool:
    try:
        with lock.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _lock_file(work: Path, name: str) -> Path:
    return work / LOCKS / lock_name(name)
