"""Finds folders in the work folder that nobody goes on in: those of programs, with their checkpoints and
optimizer states, and those of attempts whose process was killed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ft_dagster.lineage.retention import DAY, Rules
from ft_dagster.store.attempts import ATTEMPTS
from ft_dagster.store.make import is_left


@dataclass(frozen=True)
class IdleRun:
    """Describes a folder of a run that has stopped. `folder`: work/runs/<variant>/<stage>-<first 16 digits of
    the key>, or work/attempts/<lock of the key>-<attempt>. `written`: its newest file, seconds since 1970.
    """

    folder: Path
    bytes: int
    written: float


def idle_runs(
    work: Path, busy: Collection[str], is_committed: Callable[[str], bool], rules: Rules
) -> list[IdleRun]:
    """Return the folders in which nothing was written for as long as retention says, or for a day where what
    they were for is committed, or where nobody can go on with them; the largest first. `busy`: variants whose
    programs run or wait for devices on this host. `is_committed`: whether an artifact stands, by the first 16
    digits of its key.
    """
    found = []
    for variant in _folders(work / "runs"):
        rule = rules.for_path(f"tenants/{variant.name.replace('.', '/')}")
        if rule.hold or variant.name in busy:
            continue
        for folder in _folders(variant):
            days = 1.0 if is_committed(folder.name.rpartition("-")[2]) else rule.days
            with suppress(FileNotFoundError):  # somebody is removing it, or goes on there
                size, written = _size(folder)
                if written < rules.now - days * DAY:
                    found.append(IdleRun(folder, size, written))
    for folder in _folders(work / ATTEMPTS):
        with suppress(FileNotFoundError):
            if is_left(work, folder) and (idle := IdleRun(folder, *_size(folder))).written < rules.now - DAY:
                found.append(idle)
    return sorted(found, key=lambda run: (-run.bytes, str(run.folder)))


def remove_run(run: IdleRun) -> bool:
    """Remove a run's folder, and say whether it went; it stays where something was written there since it was
    listed.
    """
    try:
        if _size(run.folder)[1] != run.written:
            return False
        shutil.rmtree(run.folder)
    except FileNotFoundError:
        return False
    return True


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(each for each in folder.iterdir() if each.is_dir() and not each.is_symlink())
    except FileNotFoundError:
        return []


def _size(folder: Path) -> tuple[int, float]:
    """Return the bytes of all files below a folder, and when one of them, or a folder, was last written."""
    size, written = 0, folder.stat().st_mtime
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            found = path.lstat()
            size += 0 if path.is_dir() else found.st_size
            written = max(written, found.st_mtime)
    return size, written
