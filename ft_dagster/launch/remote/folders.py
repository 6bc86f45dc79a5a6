"""A node's own disk: a folder for each attempt, which goes with it, and copies of inputs, by their hashes."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Self

from ft_dagster.cluster import Cluster
from ft_dagster.errors import UserError
from ft_dagster.launch.locks import EXCLUSIVE, lock, unlock
from ft_dagster.launch.remote.order import StoredInput
from ft_dagster.store.blobs import Store
from ft_dagster.store.cache import DRAFTS
from ft_dagster.store.transfer import Transfer, fetch_all

LOCK = ".lock"


class NodeDisk(NamedTuple):
    """Where a node works, as its launcher's settings say, and no order: `work` on its own disk, `shared` by
    several nodes. `cache_bytes`: of its copies, None: any amount.
    """

    work: Path
    shared: Path | None = None
    cache_bytes: float | None = None

    @classmethod
    def of(cls, cluster: Cluster) -> Self:
        return cls(cluster.work_folder, cluster.shared_folder, cluster.cache_bytes)

    @classmethod
    def parsed(cls, given: argparse.Namespace) -> Self:
        return cls(given.work, given.shared, given.cache_bytes)

    @property
    def cache(self) -> Path:
        return self.work / "cache"

    @property
    def arguments(self) -> list[str]:
        """As `add_disk` has them parsed."""
        shared = [] if self.shared is None else ["--shared", str(self.shared)]
        cache = [] if self.cache_bytes is None else ["--cache-bytes", f"{self.cache_bytes:.0f}"]
        return ["--work", str(self.work), *shared, *cache]


def add_disk(parser: argparse.ArgumentParser) -> None:
    """Have a node's program take a disk by its arguments."""
    parser.add_argument("--work", type=Path, required=True, help="a folder of this node's own disk")
    parser.add_argument("--shared", type=Path, help="a folder that all nodes of a training see")
    parser.add_argument("--cache-bytes", type=float, help="of copies of bases and data; left out: any amount")


@contextmanager
def own_folder(root: Path, name: str) -> Iterator[Path]:
    """A folder below `root` that is removed at the end; those of processes that were killed go before."""
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    sweep(root)
    held = lock(root / f"{name}{LOCK}", EXCLUSIVE)
    if held is None:
        raise FileExistsError(root / name)
    try:
        (root / name).mkdir(mode=0o700)
        yield root / name
    finally:
        _remove(root / name, held)


def sweep(root: Path) -> None:
    """Remove the folders that nobody holds."""
    for file in root.glob(f"*{LOCK}"):
        with suppress(FileNotFoundError):
            held = lock(file, EXCLUSIVE, create=False)
            if held is not None:
                _remove(file.with_name(file.name.removesuffix(LOCK)), held)


def _remove(folder: Path, held: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_name(f"{folder.name}{LOCK}").unlink(missing_ok=True)
    unlock(held)


def bring(
    store: Store, inputs: Iterable[StoredInput], cache: Path, target: Path, limit: float | None
) -> None:
    """Have each input below `target`, as a hard link to its one copy in `cache`, fetched where it is missing
    and held against its hash. Raises UserError, and FileNotFoundError for what another try sends again.
    """
    wanted = {each.sha256: each.stored for each in inputs}
    cache.mkdir(parents=True, exist_ok=True)
    missing = {sha256: stored for sha256, stored in wanted.items() if not (cache / sha256).exists()}
    if limit is not None and missing:
        needed = sum(int(store.fs.size(store.path(stored))) for stored in missing.values())
        make_room(cache, limit - needed, keep=wanted)
    files = [Transfer(cache / sha256, stored, sha256) for sha256, stored in missing.items()]
    _fetch(store, files, cache / DRAFTS)
    for each in inputs:
        link = target / each.path
        link.parent.mkdir(parents=True, exist_ok=True)
        os.link(cache / each.sha256, link)


def _fetch(store: Store, files: Sequence[Transfer], drafts: Path) -> None:
    """A damaged copy, which is named by the hash that it should have, goes: the next try sends it again."""
    try:
        fetch_all(store, files, drafts)
    except UserError:
        copies = [
            file for file in files if file.stored.endswith(f"/{file.sha256}") and not file.local.exists()
        ]
        damaged = [file.stored for file in copies if store.sha256(file.stored) != file.sha256]
        if not damaged:
            raise
        store.remove(damaged)
        raise FileNotFoundError(f"{store.uri(damaged[0])} had other bytes, and was removed") from None


def make_room(cache: Path, most: float, keep: Iterable[str] = ()) -> None:
    """Remove the oldest copies until they take `most` bytes; none that an attempt has a link to."""
    copies = sorted(
        (found.st_mtime, found.st_size, file)
        for file in cache.iterdir()
        if file.is_file() and (found := file.stat()).st_nlink == 1
    )
    total = sum(file.stat().st_size for file in cache.iterdir() if file.is_file())
    for _, size, file in copies:
        if total <= most:
            return
        if file.name not in keep:
            file.unlink(missing_ok=True)
            total -= size
