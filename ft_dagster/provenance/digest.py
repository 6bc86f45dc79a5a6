"""Digests: of a file, of a payload (the digest of an artifact), and of a stage's inputs (its key)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import rfc8785


class FileDigest(NamedTuple):
    """One file of a payload: POSIX path inside it, size in bytes, sha256 in hex."""

    path: str
    size: int
    sha256: str


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """sha256 of the canonical JSON (RFC 8785) of `value`."""
    return hashlib.sha256(rfc8785.dumps(value)).hexdigest()


def hash_folder(folder: Path) -> list[FileDigest]:
    """Every file below `folder`, sorted by path; an absent folder has none."""
    files = sorted(
        (p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.relative_to(folder).as_posix()
    )
    return [FileDigest(p.relative_to(folder).as_posix(), p.stat().st_size, sha256_file(p)) for p in files]


def payload_digest(files: list[FileDigest]) -> str:
    """The digest of an artifact: sha256 over its sorted (path, size, sha256)."""
    return sha256_json([[file.path, file.size, file.sha256] for file in sorted(files)])


def stage_key(stage: str, version: int, inputs: dict[str, str], spec: dict[str, Any]) -> str:
    """The key of a stage: what it is made from, the part of the spec it reads, and what it means."""
    return sha256_json({"stage": stage, "stage_version": version, "inputs": inputs, "spec": spec})
