"""Reads files that people name only where reading ends, and only so much of them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ft_dagster.errors import UserError

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


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
