"""Records what a source was when it was declared: its files by digest, its objects by ETag, its hub
commit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

from ft_dagster.data.sources.hub import pin_revision
from ft_dagster.data.sources.locations import (
    NOWHERE,
    DataFile,
    DeclaredAt,
    data_files,
    is_hub,
    is_s3,
    s3_errors,
)
from ft_dagster.data.sources.transform import transformation_digest
from ft_dagster.data.sources.upstream import is_asset
from ft_dagster.errors import UserError
from ft_dagster.provenance.hash_cache import cached_sha256
from ft_dagster.roots import Roots
from ft_dagster.spec.data import SourceSpec, TenantSource

FUNCTION = "function"  # of an entry that is no file of rows


class SourceFile(TypedDict, total=False):
    """Identifies a file of a source, a data set of the hub, or the function that transforms the rows."""

    path: str
    size: int
    sha256: str
    etag: str
    function: bool
    repo: str
    revision: str


Fingerprint = list[SourceFile]


class Frozen(NamedTuple):
    """Holds the fingerprint of each source as declared; `cache` remembers the hashes of unchanged files.
    `erased`: says of a record, by its identity, when its erasure was asked for, None of others.
    """

    fingerprints: Sequence[Fingerprint]
    cache: Path | None = None
    erased: Callable[[bytes], str | None] | None = None


def fingerprint(
    source: SourceSpec, project: Path, asked: DeclaredAt = NOWHERE, cache: Path | None = None
) -> Fingerprint:
    """Return what a source's rows are made of: its files, and last the function that transforms them, {path,
    size: 0, sha256, function}. Raises UserError for what is not there.
    """
    return [*_of_files(source, project, asked, cache), *_of_function(source, project, asked)]


def _of_files(source: SourceSpec, project: Path, asked: DeclaredAt, cache: Path | None) -> Fingerprint:
    """Return one entry a file: {path, size, sha256}, of s3:// {path, size, etag}; a hub data set: {repo,
    revision}; an asset:// {path, size, sha256} of its snapshot, whatever its data version.

    Paths are relative to the project where they are inside; sizes in bytes. `cache` is a folder that
    remembers the hashes of unchanged files. Raises UserError for a source that is not there.
    """
    if is_hub(source, project):
        asked.check_hub(source.path)
        field = f"{asked.field}.path"
        commit = pin_revision(
            source.path, source.revision, "dataset", file=asked.file, field=field, bound=asked.lists_hub
        )
        return [{"repo": source.path, "revision": commit}]
    files = data_files(source, project, asked)
    with s3_errors(source.path, asked):
        return [_remote(file) if is_s3(source.path) else _local(file, cache) for file in files]


def _of_function(source: SourceSpec, project: Path, asked: DeclaredAt) -> Fingerprint:
    """Return the fingerprint of the function that transforms a source's rows; empty where there is none."""
    if not isinstance(source, TenantSource) or source.transform is None:
        return []
    digest = transformation_digest(source.transform, project, asked)
    return [{"path": source.transform, "size": 0, "sha256": digest, "function": True}]


def fingerprint_sources(
    sources: Sequence[SourceSpec],
    project: Path,
    *,
    declared_in: object = None,
    field: str = "data.sources",
    cache: Path | None = None,
    roots: Roots | None = None,
) -> list[Fingerprint]:
    """Return the fingerprint of each source, in order; errors name `field[i]`. `roots`: see DeclaredAt."""
    return [
        fingerprint(source, project, DeclaredAt(declared_in, f"{field}[{i}]", roots), cache)
        for i, source in enumerate(sources)
    ]


def pinned(source: SourceSpec, frozen: Fingerprint | None) -> SourceSpec:
    """Return the source at the commit, or the snapshot, that its fingerprint recorded."""
    if frozen and "revision" in frozen[0]:
        return source.model_copy(update={"revision": frozen[0]["revision"]})
    if frozen and is_asset(source.path):
        return source.model_copy(update={"revision": frozen[0]["sha256"]})
    return source


def check_unchanged(
    source: SourceSpec, project: Path, frozen: Fingerprint | None, asked: DeclaredAt, cache: Path | None
) -> None:
    """Raise UserError where a source is no longer what its fingerprint says."""
    if frozen is None:
        return
    now = fingerprint(pinned(source, frozen), project, asked, cache)
    if now != frozen:
        changed = [entry for entry in (*now, *frozen) if (entry in now) != (entry in frozen)]
        raise UserError(
            "the source changed after it was declared",
            file=changed[0].get("path", source.path),
            field=asked.field,
            fix="Run the variant again from its declaration",
        )


def _local(file: DataFile, cache: Path | None) -> SourceFile:
    path = Path(file.path)
    return {"path": file.name, "size": path.stat().st_size, "sha256": cached_sha256(path, cache)}


def _remote(file: DataFile) -> SourceFile:
    """Return the entry of a remote file; an object without an ETag (some servers) is named by its bytes
    instead.
    """
    info = file.fs.info(file.path)
    etag = str(info.get("ETag") or "").strip('"')
    if not etag:
        with file.fs.open(file.path, "rb") as content:
            etag = "sha256:" + hashlib.file_digest(content, "sha256").hexdigest()
    return {"path": file.name, "size": int(info["size"]), "etag": etag}
