"""Holds files that a program answers for: opened once, hashed, and read through the very files that were
hashed.

Libraries want names. They get those of a folder of links to the open files (`/proc/self/fd/N`): whoever puts
another file, or another folder, under the name of one that is held changes nothing of what is read. Who
writes into a held file, moves it or puts it back moves its time of change (ctime), which nobody can set.
Without Linux' /proc the links lead to the names, and a file is held by its times alone.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.provenance.digest import FileDigest, files_below, payload_digest
from ft_dagster.provenance.stamp import Stamp

FOLDER = "held"  # below a program's output
_DESCRIPTORS = Path("/proc/self/fd")
CLOCK_STEP_NS = 20_000_000  # a change time counts in steps of 1 to 10 ms
SETTLING_TRIES = 100
_AGAIN = "Run it again, with nothing else writing there"


class HeldTree(NamedTuple):
    """Holds the files of one folder: where they are read, and what they are."""

    folder: Path
    files: list[FileDigest]

    @property
    def digest(self) -> str:
        """Return the digest that these files have as a payload."""
        return payload_digest(self.files)

    @property
    def sha256s(self) -> dict[str, str]:
        return {file.path: file.sha256 for file in self.files}


@dataclass
class HeldFiles:
    """Open files below the links of `folder`; see `held_files`."""

    folder: Path
    _open: dict[Path, tuple[int, Stamp]] = field(default_factory=dict)  # by the file's own name
    _sources: dict[Path, Path] = field(default_factory=dict)  # by the link, or the folder of links

    def tree(self, name: str, source: Path, files: Mapping[str, str] | None = None) -> HeldTree:
        """Hold `files` (path below `source` -> sha256) and nothing else of it; None: every file there is.

        Raises UserError for the first that is not there or has other bytes, without `files` also for a link.
        """
        inside = dict.fromkeys(files_below(source)) if files is None else files
        found = [
            FileDigest(path, *self._link(self.folder / name / path, source / path, sha256))
            for path, sha256 in sorted(inside.items())
        ]
        self._sources[self.folder / name] = source
        return HeldTree(self.folder / name, found)

    def file(self, name: str, source: Path, sha256: str) -> Path:
        """Hold one file. Raises UserError unless it has these bytes."""
        self._link(self.folder / name, source, sha256)
        return self.folder / name

    def copy(self, name: str, source: Path, sha256: str) -> Path:
        """Copy a file, for a library that opens what is behind a link. Raises UserError unless it has these
        bytes.
        """
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        self._hash(target, source, sha256)
        self._sources[target] = source
        return target

    def watch(self, source: Path) -> None:
        """Hold a file that is read under its own name: for `check` alone."""
        self._opened(source)

    def check(self) -> None:
        """Raises UserError for a file that was written to, replaced or moved since it was hashed."""
        for source, (descriptor, stamp) in self._open.items():
            if Stamp.of(os.fstat(descriptor)) != stamp or not _still_named(source, stamp):
                raise UserError("was changed while it was read", file=source, fix=_AGAIN)

    def source_of(self, file: object) -> object:
        """Return the file or folder that a link stands for, for errors to name; anything else as it is."""
        if not isinstance(file, str | Path):
            return file
        path = Path(file)
        for link in (path, *path.parents):
            if link in self._sources:
                return self._sources[link] / path.relative_to(link)
        return file

    def close(self) -> None:
        for descriptor, _ in self._open.values():
            os.close(descriptor)
        self._open.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _link(self, link: Path, source: Path, sha256: str | None) -> tuple[int, str]:
        """Link to a file that is read through `link` from now on; return (size, sha256)."""
        size, found = self._hash(source, source, sha256)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(_readable(self._open[source][0], source))
        self._sources[link] = source
        return size, found

    def _hash(self, file: Path, named: Path, sha256: str | None) -> tuple[int, str]:
        descriptor, stamp = self._opened(file)
        with _readable(descriptor, file).open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        if sha256 is not None and found != sha256:
            raise UserError(
                f"has other bytes than when it was recorded: expected {sha256[:12]}",
                file=named,
                value=found[:12],
                fix="Restore the file from a backup, or make again what recorded it",
            )
        return stamp.size, found

    def _opened(self, file: Path) -> tuple[int, Stamp]:
        if file not in self._open:
            try:
                descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                fix = "Restore the file from a backup, or make again what recorded it"
                raise UserError(f"cannot be read: {error.strerror}", file=file, fix=fix) from None
            found = os.fstat(descriptor)
            self._open[file] = descriptor, Stamp.of(found)
            if not stat.S_ISREG(found.st_mode):
                raise UserError("not a regular file", file=file, fix="Put a file there")
            self._open[file] = descriptor, _settled(descriptor, file)
        return self._open[file]


@contextmanager
def held_files(folder: Path) -> Iterator[HeldFiles]:
    """Yield a holder of files below `folder`, which is emptied first and removed at the end; errors name
    their sources.

    Raises UserError at the end for one that changed meanwhile: what was computed from it does not count.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    held = HeldFiles(folder)
    try:
        yield held
        held.check()
    except UserError as error:
        named = held.source_of(error.file)
        error.file = None if named is None else str(named)
        raise
    finally:
        held.close()


def descriptors_below(folder: Path) -> list[int]:
    """Return the open files that the links below a folder lead to: a program that is given them reads the
    same.
    """
    links = (Path(os.readlink(link)) for link in folder.rglob("*") if link.is_symlink())
    return [int(link.name) for link in links if link.parent == _DESCRIPTORS]


def _settled(descriptor: int, file: Path) -> Stamp:
    """Return a file's stamp, once every later write to it, through a memory map too, moves its times.

    A page that is written back moves them at the next write, and at no other until it is written back again:
    so a stamp is taken only where nothing was written since the write-back began. Raises UserError for a file
    that somebody does not stop writing to.
    """
    for _ in range(SETTLING_TRIES):
        began = time.time_ns()
        with suppress(OSError):  # a file system that has nothing to write back
            os.fsync(descriptor)
        stamp = Stamp.of(os.fstat(descriptor))
        if not began - CLOCK_STEP_NS <= stamp.ctime_ns <= time.time_ns():
            return stamp
        time.sleep(CLOCK_STEP_NS / 1e9)
    raise UserError("is being written to while it is read", file=file, fix=_AGAIN)


def _readable(descriptor: int, source: Path) -> Path:
    """Return the path under which an open file can be opened once more."""
    return _DESCRIPTORS / str(descriptor) if _DESCRIPTORS.is_dir() else source.absolute()


def _still_named(source: Path, stamp: Stamp) -> bool:
    """Say whether the file's name still leads to it, where it was read by that name."""
    if _DESCRIPTORS.is_dir():
        return True
    try:
        return Stamp.of(source.stat()) == stamp
    except OSError:
        return False
