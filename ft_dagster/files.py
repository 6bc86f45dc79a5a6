"""Reads files that people name only where reading ends, and only so much of them; writes files that are there
whole or not at all, and that a power cut leaves where they are.
"""

from __future__ import annotations

import errno
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ft_dagster.errors import UserError

DRAFT = ".draft-"
"""What the names of files begin with that have no name of their own yet."""
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def is_full(error: BaseException) -> bool:
    """Say whether an error means that a disk takes no more, or no more of this user."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def special_kind(path: Path | str) -> str | None:
    """Say what a path is where reading it may never end (a FIFO, a socket, a device); None for all else."""
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return None
    return _KINDS.get(stat.S_IFMT(mode))


def what_is_there(path: Path, wanted: str) -> str:
    """Say why `path` is not the file that is wanted: another kind of thing, or nothing."""
    kind = special_kind(path) or ("a folder" if path.is_dir() else None)
    return f"no such {wanted}" if kind is None else f"{kind}, not a {wanted}"


def refuse_special_files(folder: Path) -> None:
    """Raise UserError for the first FIFO, socket or device right below `folder`."""
    for path in sorted(folder.iterdir()):
        kind = special_kind(path)
        if kind:
            raise UserError(
                f"{kind}, not a regular file", file=path, fix="Replace it by a file, or remove it"
            )


def expanded(path: str) -> Path:
    """Return a path with `~` as the home it stands for; as written where there is no such home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def read_text(file: Path, *, most: int) -> str:
    """Return the UTF-8 text of a regular file of at most `most` bytes. Raises UserError for any other."""
    kind = special_kind(file) or ("a folder" if os.path.isdir(file) else None)
    if kind:
        raise UserError(f"{kind}, not a regular file", file=file, fix="Put a text file there, or remove it")
    try:
        size = file.stat().st_size
        if size > most:
            problem = f"{size:,} bytes, more than the {most:,} that such a file may have"
            raise UserError(problem, file=file, fix="Check that it is the right file")
        return file.read_text("utf-8")
    except UnicodeDecodeError:
        raise UserError("not UTF-8 text", file=file, fix="Save the file as UTF-8") from None
    except FileNotFoundError:
        what = "a link to nothing" if file.is_symlink() else "no such file"
        raise UserError(what, file=file, fix="Restore it, or remove what names it") from None
    except OSError as error:
        fix = "Check its permissions and the disk"
        raise UserError(f"cannot be read: {error.strerror}", file=file, fix=fix) from None


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
