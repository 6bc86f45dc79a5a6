"""A disk whose power can be cut: what was not synced until then is not on it afterwards.

It is an ext4 file system in a file. The kernel holds what is written to it in memory until somebody syncs it
(its journal is written once an hour), so a copy of that file is the disk as a power cut leaves it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

OPTIONS = "loop,commit=3600,noauto_da_alloc,noatime"
"""Of mount: nothing is written out by the hour's clock, nor because a file took the name of another."""


class PowerCutDisk:
    """A disk of `megabytes` at `mount`; `image` is the file that it lies in."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        folder.mkdir(parents=True)
        self._folder, self.mount, self.image = folder, folder / "disk", folder / "image"
        self.mount.mkdir()
        with self.image.open("wb") as image:
            image.truncate(megabytes << 20)
        _run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(self.image))
        self._attach(self.image)

    def _attach(self, image: Path) -> None:
        _run("mount", "-o", OPTIONS, str(image), str(self.mount))

    @contextmanager
    def after_cut(self) -> Iterator[Path]:
        """Give the disk as it would come up again if the power were cut now; it stays as it is itself. Who
        writes to it has to wait meanwhile.
        """
        copy, place = self._copy("copy"), self._folder / "after-cut"
        place.mkdir()
        _run("mount", "-o", "loop", str(copy), str(place))
        try:
            yield place
        finally:
            _run("umount", str(place))
            place.rmdir()
            copy.unlink()

    def cut(self) -> None:
        """Cut the power, and mount what is left in the same place. Nothing may run on the disk any more."""
        left = self._copy("left")
        self.remove()
        left.replace(self.image)
        self._attach(self.image)

    def _copy(self, name: str) -> Path:
        target = self._folder / name
        _run("cp", "--sparse=always", str(self.image), str(target))
        return target

    def remove(self) -> None:
        _run("umount", str(self.mount))


@cache
def why_not_here() -> str | None:
    """Say what this machine lacks for such a disk; None where it can have one."""
    if os.geteuid() != 0:
        return "only root mounts a disk"
    if not Path("/dev/loop-control").exists():
        return "no loop devices"
    missing = [name for name in ("mkfs.ext4", "mount", "umount") if not _found(name)]
    return f"no {', '.join(missing)}" if missing else None


def _found(program: str) -> bool:
    return any(Path(folder, program).exists() for folder in ("/usr/sbin", "/sbin", "/usr/bin", "/bin"))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
