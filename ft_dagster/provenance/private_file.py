"""A file that this user alone may read and write."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def make_private(file: Path) -> None:
    """Make the file, empty, where it is absent; and anew where others own it, may read or write it, or it is
    a link. Raises OSError.
    """
    with suppress(FileNotFoundError):
        found = file.lstat()
        if found.st_uid != os.getuid() or found.st_mode & 0o077 or file.is_symlink():
            file.unlink()
    os.close(os.open(file, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600))
