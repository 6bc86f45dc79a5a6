"""Computes digests: of a file, of a payload (the digest of an artifact), and of a stage's inputs (its
key).
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import rfc8785

from ft_dagster.errors import UserError

EXACT = 2**53  # below it each whole number is a float of its own


class FileDigest(NamedTuple):
    """Describes one file of a payload: POSIX path inside it, size in bytes, sha256 in hex."""

    path: str
    size: int
    sha256: str


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Return the sha256 of the canonical JSON (RFC 8785) of `value`."""
    try:
        plain = _plain(value)
        content = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    except (_Unusual, RecursionError, UnicodeEncodeError):
        content = rfc8785.dumps(value)
    return hashlib.sha256(content).hexdigest()


class _Unusual(Exception):
    """Signals a value of which `json` and RFC 8785 may write other text."""


def _plain(value: Any) -> Any:
    """Return the value with whole numbers for floats that are whole: then `json`, which is faster by ten,
    writes what RFC 8785 asks for. Raises _Unusual where that is not so.
    """
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if kind is dict:
        if not all(type(name) is str and name.isascii() for name in value):
            raise _Unusual
        return {name: _plain(each) for name, each in value.items()}
    if kind is list or kind is tuple:
        return [_plain(each) for each in value]
    if kind is int and -EXACT < value < EXACT:
        return value
    if kind is float:
        if value.is_integer() and -EXACT < value < EXACT:
            return int(value)
        if 1e-4 <= abs(value) < EXACT:
            return value
    raise _Unusual


def files_below(folder: Path) -> dict[str, os.stat_result]:
    """Return every file below `folder`, sorted, as POSIX path -> its status; an absent folder has none.

    Raises UserError for what may be another file tomorrow (a link, of a file or a folder, the folder itself
    among them), and for what no file is (a FIFO, a socket, a device).
    """
    if folder.is_symlink():
        raise no_file(folder, "a link")
    return dict(sorted(_below(folder, ""))) if folder.is_dir() else {}


def _below(folder: Path, within: str) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            found = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                yield from _below(folder / entry.name, f"{within}{entry.name}/")
            elif stat.S_ISREG(found.st_mode):
                yield within + entry.name, found
            else:
                raise no_file(folder / entry.name, "a link" if entry.is_symlink() else "a special file")


def no_file(path: Path, what: str) -> UserError:
    """Return the refusal of `what` (a link, a special file) at a path."""
    fix = "Put a copy of the file there, or remove it"
    return UserError(f"{what}, where files alone belong", file=path, fix=fix)


def hash_folder(folder: Path) -> list[FileDigest]:
    """Hash every file below `folder`, sorted by path; an absent folder has none. Raises UserError for a
    link.
    """
    files = files_below(folder).items()
    return [FileDigest(path, found.st_size, sha256_file(folder / path)) for path, found in files]


def payload_digest(files: list[FileDigest]) -> str:
    """Return the digest of an artifact: sha256 over its sorted (path, size, sha256)."""
    return sha256_json([[file.path, file.size, file.sha256] for file in sorted(files)])


def stage_key(stage: str, version: int, inputs: dict[str, str], spec: Mapping[str, object]) -> str:
    """Return the key of a stage: the sha256 of its inputs, the part of the spec it reads, and its version."""
    return sha256_json({"stage": stage, "stage_version": version, "inputs": inputs, "spec": spec})
