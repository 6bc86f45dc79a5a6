"""A signed history for attacks of who may write the store: it is put back after each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_dagster.audit.verify.verify import verify
from ft_dagster.errors import UserError
from ft_dagster.store import Store
from ft_dagster.store.blobs import as_stored
from tests.audit.histories import History

Attack = Callable[[Store], None]
NOBODY = "nobody whom trust.yaml trusts"


@dataclass
class Site:
    """A signed history, of which an audit saw all; and what stood there then."""

    made: History
    kept: dict[str, bytes]
    index: Path

    @property
    def known(self) -> Path:
        return self.made.settings.work_folder / "audit"

    def restore(self) -> None:
        store = self.made.store
        store.remove({file.path for file in store.walk()} - self.kept.keys())
        for path, content in self.kept.items():
            if not store.exists(path) or store.read(path) != content:
                store.write(path, content)
        shutil.rmtree(self.known)
        shutil.copytree(self.index, self.known)

    def said(self, *, cached: bool = False) -> list[str]:
        """What a check names, or why nothing is read, on a host that has the index and no other memory, or
        (`cached`) all that it read before.
        """
        if not cached:
            shutil.rmtree(self.made.settings.cache_folder, ignore_errors=True)
        try:
            return list(verify(self.made.audit()).problems)
        except UserError as error:
            return [str(error)]


def only(store: Store, begins: str, ends: str) -> str:
    [path] = (f.path for f in store.walk() if f.path.startswith(begins) and f.path.endswith(ends))
    return path


def rewritten(begins: str, ends: str, change: Callable[[dict[str, Any]], None]) -> Attack:
    def attack(store: Store) -> None:
        path = only(store, begins, ends)
        said = json.loads(store.read(path))
        change(said)
        store.write(path, as_stored(said))

    return attack


def flipped(begins: str, ends: str) -> Attack:
    def attack(store: Store) -> None:
        path = only(store, begins, ends)
        content = store.read(path)
        store.write(path, content[:-1] + bytes([content[-1] ^ 1]))

    return attack


def removed(begins: str, ends: str) -> Attack:
    return lambda store: store.remove([only(store, begins, ends)])


def signatures(store: Store) -> list[str]:
    found = sorted(f.path for f in store.walk() if "/signatures/" in f.path)
    assert len(found) > 3
    return found
