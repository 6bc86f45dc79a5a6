"""Writes and finds checkpoints: a folder is one once its hash manifest is renamed into place; only what
verifies is used.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ft_dagster.program import SCHEMA_VERSION, write_json
from ft_dagster.provenance.digest import hash_folder, sha256_file
from ft_dagster.schema_version import is_readable
from ft_dagster.strict_json import dumps

MANIFEST = "checkpoint.json"
OWN_HASH = "sha256"  # field of the manifest: of all its others; older ones have none
PREFIX = "checkpoint-"
MAX_SAVING_SHARE = 0.05  # of a training's time that checkpoints by time may take


@dataclass(frozen=True)
class Checkpoint:
    """Is a complete checkpoint, as its manifest states it; `verify` says whether the files still agree."""

    folder: Path
    step: int
    recipe: str
    validation_loss: float | None
    files: tuple[tuple[str, int, str], ...]
    torch: str | None = None  # which wrote it; older ones do not say
    computed_on: str | None = None  # as of `figures.computed_on`; older ones do not say

    @property
    def size(self) -> int:
        """Return the bytes on disk."""
        return sum(size for _, size, _ in self.files)

    @property
    def rank(self) -> tuple[float, int]:
        """Return a sort key, lower is better: by validation loss, then the earlier; without a loss, after all
        with one.
        """
        loss = self.validation_loss
        return (math.inf if loss is None or not math.isfinite(loss) else loss, self.step)

    def as_dict(self) -> dict[str, object]:
        return {
            "step": self.step,
            "validation_loss": self.validation_loss,
            "bytes": self.size,
            "folder": self.folder.name,
        }


class CheckpointTimer:
    """Tells when a checkpoint is due by time: so many minutes after the one before, later where saving takes
    long; never where `minutes` is None. `last_seconds`: what writing the last one took.
    """

    def __init__(self, minutes: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = math.inf if minutes is None else 60 * minutes
        self._clock, self._last = clock, clock()
        self.last_seconds = 0.0

    def due(self) -> bool:
        """Say whether to write a checkpoint after this step."""
        return self._clock() - self._last >= max(self._seconds, self.last_seconds / MAX_SAVING_SHARE)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Time each checkpoint that is written within this context, by time or not."""
        began = self._clock()
        yield
        self._last = self._clock()
        self.last_seconds = self._last - began


def folder_of(root: Path, step: int) -> Path:
    return root / f"{PREFIX}{step}"


def commit(
    folder: Path, step: int, recipe: str, validation_loss: float | None, computed_on: str | None = None
) -> None:
    """Make the written folder a checkpoint: hash every file, then rename the manifest into place, which says
    its own hash. `computed_on`: the device, in words.
    """
    content = {
        "schema_version": SCHEMA_VERSION,
        "step": step,
        "recipe": recipe,
        "torch": _torch(),
        "validation_loss": validation_loss,
        "files": [list(file) for file in hash_folder(folder)],
        **({} if computed_on is None else {"computed_on": computed_on}),
    }
    stored = json.loads(dumps(content))  # a loss that is no number is null there
    write_json(folder / MANIFEST, {**stored, OWN_HASH: _own_hash(stored)})


def complete(root: Path) -> list[Checkpoint]:
    """Return all folders with a readable manifest, oldest first; their files are not verified."""
    found = [_read(folder) for folder in root.glob(f"{PREFIX}*")]
    return sorted((c for c in found if c is not None), key=lambda checkpoint: checkpoint.step)


def unusable(folder: Path) -> str | None:
    """Return what keeps the checkpoint of a folder from use, in words; None if nothing does."""
    checkpoint = _read(folder)
    return "incomplete" if checkpoint is None else of_another_torch(checkpoint) or damage(checkpoint)


def of_another_torch(checkpoint: Checkpoint) -> str | None:
    """Return that another torch wrote it, in words: who goes on from it ends in a model that neither of the
    two makes alone.
    """
    if checkpoint.torch in (None, _torch()):
        return None
    return (
        f"written by torch {checkpoint.torch}, and this is {_torch()}; the one that wrote it goes on from it"
    )


@cache
def _torch() -> str:
    """Return torch's version, which names its build (`2.9.0+cu128`), without loading it."""
    return version("torch")


def damage(checkpoint: Checkpoint) -> str | None:
    """Return the first file that is missing or differs from its hash, in words; None if all agree."""
    for path, size, digest in checkpoint.files:
        file = checkpoint.folder / path
        try:
            if not file.is_file():
                return f"{path} is missing"
            if file.stat().st_size != size or sha256_file(file) != digest:
                return f"{path} is damaged"
        except OSError as error:  # a bad block
            return f"{path} cannot be read ({error.strerror})"
    return None


def newest_good(root: Path) -> Checkpoint | None:
    """Return the newest checkpoint that verifies, of whichever recipe."""
    return next((found for found in reversed(complete(root)) if unusable(found.folder) is None), None)


def usable(
    root: Path,
    recipe: str,
    say: Callable[[str], None],
    *,
    first: Callable[[Checkpoint], tuple[float, int]] = lambda checkpoint: (0, checkpoint.step),
) -> Iterator[Checkpoint]:
    """Yield the checkpoints of this recipe that verify, the lowest by `first` first, by default the oldest;
    what is passed over is said. Each is hashed when it is come to, so that whoever takes one hashes no
    others.
    """
    found = []
    for folder in sorted(root.glob(f"{PREFIX}*")):
        checkpoint = _read(folder)
        if checkpoint is None:
            say(f"{folder.name}: incomplete, passed over")
        elif checkpoint.recipe != recipe:
            say(f"{folder.name}: made by another recipe (other data, settings or seed), passed over")
        elif problem := of_another_torch(checkpoint):
            say(f"{folder.name}: {problem}, passed over")
        else:
            found.append(checkpoint)
    for checkpoint in sorted(found, key=first):
        if problem := damage(checkpoint):
            say(f"{checkpoint.folder.name}: {problem}, passed over")
        else:
            yield checkpoint


def newest_first(checkpoint: Checkpoint) -> tuple[float, int]:
    """Sort the newest checkpoint first in `usable`."""
    return (0, -checkpoint.step)


def best_first(checkpoint: Checkpoint) -> tuple[float, int]:
    """Sort the best checkpoint by validation loss first in `usable`."""
    return checkpoint.rank


def prune(
    root: Path,
    recipe: str,
    keep_best: int,
    keep_last: int,
    *,
    exportable: Collection[int],
    always: Collection[int] = (),
) -> None:
    """Remove this recipe's checkpoints except the best by validation loss and the last of those at the steps
    `exportable`, the newest of all, from which a training goes on, and those at the steps `always`.
    """
    mine = [each for each in complete(root) if each.recipe == recipe and not of_another_torch(each)]
    choice = [checkpoint for checkpoint in mine if checkpoint.step in exportable]
    judged = sorted((c for c in choice if c.validation_loss is not None), key=lambda c: c.rank)
    kept = {*always, *(c.step for c in [*judged[:keep_best], *choice[-keep_last:], *mine[-1:]])}
    for checkpoint in mine:
        if checkpoint.step not in kept:
            discard(checkpoint.folder)


def discard(folder: Path) -> None:
    """Remove a checkpoint, its manifest first: half of one is never taken for a whole."""
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def discard_all(root: Path, recipe: str) -> None:
    """Remove those of this recipe, and what never became one."""
    for checkpoint in complete(root):
        if checkpoint.recipe == recipe:
            discard(checkpoint.folder)
    discard_unfinished(root)


def discard_unfinished(root: Path) -> None:
    """Remove the folders that never became checkpoints: on a full disk they take the room of the result."""
    for folder in root.glob(f"{PREFIX}*"):
        if not (folder / MANIFEST).exists():
            discard(folder)


def _read(folder: Path) -> Checkpoint | None:
    try:
        content = json.loads((folder / MANIFEST).read_text("utf-8"))
        own = content.pop(OWN_HASH, None)
        if not is_readable(content["schema_version"], SCHEMA_VERSION) or own not in (
            None,
            _own_hash(content),
        ):
            return None
        files = tuple((str(path), int(size), str(digest)) for path, size, digest in content["files"])
        loss = content["validation_loss"]
        step, recipe = int(content["step"]), str(content["recipe"])
        return Checkpoint(folder, step, recipe, loss, files, content.get("torch"), content.get("computed_on"))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _own_hash(content: Mapping[str, Any]) -> str:
    """Return the sha256 of what a manifest says, as JSON with its names in order and no spaces."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
