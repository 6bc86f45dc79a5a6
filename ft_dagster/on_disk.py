"""Writes files that are there whole or not at all, and that a power cut leaves where they are."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DRAFT = ".draft-"
"""What the names of files begin with that have no name of their own yet."""


@contextmanager
def draft_in(folder: Path, mode: int = 0o777) -> Iterator[Path]:
    """Give a path to write to in a folder, which is made with `mode` if it is not there. A draft that was not
    renamed is removed.
    """
    make_folder(folder, mode)
    draft = folder / f"{DRAFT}{uuid.uuid4().hex}"
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def put(draft: Path, target: Path) -> None:
    """Give a draft in the same folder its name, in place of what had it."""
    sync(draft)
    draft.replace(target)
    sync(target.parent)


def put_new(draft: Path, target: Path) -> None:
    """Give a draft in the same folder a name that nothing has. Raises FileExistsError, and OSError where the
    file system has no hard links.
    """
    sync(draft)
    os.link(draft, target)
    sync(target.parent)


def write_whole(target: Path, content: bytes) -> None:
    """Write a file, in place of what stands there."""
    with draft_in(target.parent) as draft:
        draft.write_bytes(content)
        put(draft, target)


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """Give a draft to be written, which becomes `target` unless something came there meanwhile; on a file
    system without hard links, in place of it. Raises FileExistsError.
    """
    with draft_in(target.parent) as draft:
        yield draft
        try:
            put_new(draft, target)
        except FileExistsError:
            raise
        except OSError:
            put(draft, target)


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Make a folder, with `mode`, and those above it where they are missing."""
    made = []
    for each in (folder, *folder.parents):
        if each.exists():
            break
        made.append(each)
    folder.mkdir(parents=True, exist_ok=True, mode=mode)
    for each in made:
        sync(each.parent)


def sync_below(folder: Path) -> None:
    """Have all that is below a folder on the disk, and its own name."""
    for path in (*folder.rglob("*"), folder, folder.parent):
        sync(path)


def sync(path: Path) -> None:
    """Have the content of a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that writes back by itself
            raise
    finally:
        os.close(descriptor)
