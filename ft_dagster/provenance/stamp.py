"""Tells that a file is as it was, without reading it."""

from __future__ import annotations

import os
from typing import NamedTuple


class Stamp(NamedTuple):
    """Holds what changes when a file is replaced, written to or moved. `mtime_ns` can be set back (`cp -p`,
    `touch`), `ctime_ns` cannot: it is the kernel's alone.
    """

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> Stamp:
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    @property
    def newest_ns(self) -> int:
        """Return when the file changed last, by either time."""
        return max(self.mtime_ns, self.ctime_ns)
