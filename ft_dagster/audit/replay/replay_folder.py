"""Makes the temporary folder of a replay, which goes with it; what a killed one left goes with the next.

Who works in a folder holds a lock on a file in it, which ends with the process, however that ends.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ft_dagster.launch.locks import EXCLUSIVE, lock, unlock

PREFIX = "ft-dagster-replay-"
LOCK, MADE = "lock", "made"


@contextmanager
def replay_folder() -> Iterator[Path]:
    """Yield a folder for one replay, not yet there. Those of this user that nobody works in are removed
    first.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        _remove_left(left)
    folder, held = _make()
    try:
        yield folder / MADE
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        unlock(held)


def _make() -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        with suppress(FileNotFoundError):  # who looked for what was left took and removed it in that moment
            held = lock(folder / LOCK, EXCLUSIVE)
            if held is not None:
                return folder, held


def _remove_left(folder: Path) -> None:
    with suppress(OSError):  # another's, removed meanwhile, or one in which nobody has a lock yet
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            return
        held = lock(folder / LOCK, EXCLUSIVE, create=False)
        if held is not None:
            shutil.rmtree(folder, ignore_errors=True)
            unlock(held)
