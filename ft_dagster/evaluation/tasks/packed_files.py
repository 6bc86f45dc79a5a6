"""Refuses archives and compressed files among a task's data: only what is read without being unpacked is
taken.
"""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

from ft_dagster.errors import UserError

_ARCHIVES = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08", b"Rar!\x1a\x07", b"7z\xbc\xaf\x27\x1c")
_COMPRESSED = {
    b"\x1f\x8b": ".gz",
    b"BZh": ".bz2",
    b"\xfd7zXZ\x00": ".xz",
    b"\x28\xb5\x2f\xfd": ".zst",
    b"\x04\x22\x4d\x18": ".lz4",
}
_BLOCK = 512  # bytes of a tar's first header


def refuse_packed(file: Path, *, task: Path, field: str) -> None:
    """Raises UserError for an archive, by its content, and for a compressed file by another name."""
    with file.open("rb") as content:
        start = content.read(_BLOCK)
    suffix = next((suffix for magic, suffix in _COMPRESSED.items() if start.startswith(magic)), None)
    if start.startswith(_ARCHIVES) or _begins_a_tar(start) or zipfile.is_zipfile(file):
        problem, fix = "an archive, where a file of rows is needed", "Unpack it, and name the files of it"
    elif suffix is not None and file.suffix != suffix:
        problem = "a compressed file whose name does not say so"
        fix = f"Name it {file.name}{suffix}, or decompress it"
    else:
        return
    raise UserError(problem, file=task, field=field, value=str(file), fix=fix)


def _begins_a_tar(start: bytes) -> bool:
    """Say whether the bytes begin a tar, by its checksum alone: to open one may take as much memory as its
    header says.
    """
    try:
        tarfile.TarInfo.frombuf(start, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True
