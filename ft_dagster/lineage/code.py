"""The package's own source, kept once in the store so that a manifest can name what ran."""

from __future__ import annotations

import gzip
import io
import tarfile
from functools import cache
from pathlib import Path

from ft_dagster.lineage.digest import hash_folder, payload_digest
from ft_dagster.store.blobs import Store

PACKAGE = Path(__file__).resolve().parents[1]


@cache
def source_digest() -> str:
    """Digest of every file of the installed package but compiled ones."""
    return payload_digest([file for file in hash_folder(PACKAGE) if "__pycache__" not in file.path])


def keep_source(store: Store) -> str:
    """Put the package's source under shared/code/ unless it is there; returns its digest."""
    digest = source_digest()
    path = f"shared/code/{digest}.tar.gz"
    if not store.exists(path):
        store.write(path, _archive())
    return digest


def _archive() -> bytes:
    """A tar of the package without dates, owners or modes, so equal source gives equal bytes."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for file in hash_folder(PACKAGE):
            if "__pycache__" in file.path:
                continue
            entry = tarfile.TarInfo(f"ft_dagster/{file.path}")
            entry.size = file.size
            with (PACKAGE / file.path).open("rb") as content:
                tar.addfile(entry, content)
    return gzip.compress(raw.getvalue(), mtime=0)
