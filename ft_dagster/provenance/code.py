"""Reads the package's own source: its digest, which manifests name, and an archive of it to be kept."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from ft_dagster.errors import UserError
from ft_dagster.provenance.digest import FileDigest, files_below, payload_digest

PACKAGE = Path(__file__).resolve().parents[1]
COMPRESSION = 6  # of gzip's 9, which takes twice as long for a hundredth less


@cache
def source_digest() -> str:
    """Return the digest of every file of the installed package except compiled ones."""
    return _digest(_contents())


@cache
def source_archive() -> bytes:
    """Make a tar of the package without dates, owners or modes, so that equal source gives equal bytes.

    Made once a process, which may write to several stores. Raises UserError where the package changed since
    this process took its digest: what it runs is then not what would be kept.
    """
    raw, contents = io.BytesIO(), _contents()
    if _digest(contents) != source_digest():
        fix = "Run it again"
        raise UserError("the code of ft_dagster changed while this process ran", file=PACKAGE, fix=fix)
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, content in contents.items():
            entry = tarfile.TarInfo(f"ft_dagster/{path}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return gzip.compress(raw.getvalue(), COMPRESSION, mtime=0)


def _contents() -> dict[str, bytes]:
    """Read the package's files by their path in it, in order."""
    return {path: (PACKAGE / path).read_bytes() for path in files_below(PACKAGE) if "__pycache__" not in path}


def _digest(contents: Mapping[str, bytes]) -> str:
    """Return the digest that a payload of these files would have."""
    return payload_digest(
        [
            FileDigest(path, len(content), hashlib.sha256(content).hexdigest())
            for path, content in contents.items()
        ]
    )
