"""The package's own source: its digest, which manifests name, and an archive of it to be kept."""

from __future__ import annotations

import gzip
import io
import tarfile
from functools import cache
from pathlib import Path

from ft_dagster.errors import UserError
from ft_dagster.provenance.digest import FileDigest, hash_folder, payload_digest

PACKAGE = Path(__file__).resolve().parents[1]
COMPRESSION = 6  # of gzip's 9, which takes twice as long for a hundredth less


@cache
def source_digest() -> str:
    """Digest of every file of the installed package but compiled ones."""
    return payload_digest(_files())


def _files() -> list[FileDigest]:
    return [file for file in hash_folder(PACKAGE) if "__pycache__" not in file.path]


@cache
def source_archive() -> bytes:
    """A tar of the package without dates, owners or modes, so equal source gives equal bytes.

    Made once a process, which may write to several stores. Raises UserError where the package changed since
    this process took its digest: what it runs is then not what would be kept.
    """
    raw, files = io.BytesIO(), _files()
    if payload_digest(files) != source_digest():
        fix = "Run it again"
        raise UserError("the code of ft_dagster changed while this process ran", file=PACKAGE, fix=fix)
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for file in files:
            entry = tarfile.TarInfo(f"ft_dagster/{file.path}")
            entry.size = file.size
            with (PACKAGE / file.path).open("rb") as content:
                tar.addfile(entry, content)
    return gzip.compress(raw.getvalue(), COMPRESSION, mtime=0)
