"""The manifest beside each artifact: an in-toto Statement v1 whose predicate says what made it."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.provenance.digest import FileDigest, payload_digest

SCHEMA_VERSION = 1
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:ft-dagster:manifest:v1"
LIBRARIES = (
    "ft-dagster", "dagster", "torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes",
    "deepspeed", "datasets", "lm-eval", "tokenizers", "safetensors", "pyarrow",
)  # fmt: skip


def statement(
    *,
    stage: str,
    stage_version: int,
    key: str,
    attempt: str,
    payload: list[FileDigest],
    evidence: list[FileDigest],
    inputs: dict[str, str],
    spec: dict[str, Any],
    figures: dict[str, Any],
    code: str,
    variant: str | None = None,
    seed: int | None = None,
    environment: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Build a manifest. `inputs` maps names to digests; `code` is the digest of the package's source."""
    return {
        "_type": STATEMENT,
        "subject": [{"name": file.path, "digest": {"sha256": file.sha256}} for file in payload],
        "predicateType": PREDICATE,
        "predicate": {
            "schema_version": SCHEMA_VERSION,
            "stage": stage,
            "stage_version": stage_version,
            "key": key,
            "variant": variant,
            "attempt": attempt,
            "digest": payload_digest(payload),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "inputs": inputs,
            "spec": spec,
            "seed": seed,
            "code": {"package": "ft-dagster", "sha256": code},
            "environment": environment or local_environment(),
            "figures": figures,
            "payload": [file._asdict() for file in payload],
            "evidence": [file._asdict() for file in evidence],
        },
    }


def predicate_of(manifest: dict[str, Any], where: object = None) -> dict[str, Any]:
    """The predicate of a manifest this version can read; a newer schema raises UserError."""
    predicate: dict[str, Any] = manifest.get("predicate", {})
    found = predicate.get("schema_version")
    if manifest.get("predicateType") != PREDICATE or not isinstance(found, int):
        raise UserError("not a manifest of this project", file=where, fix="Restore the file from a backup")
    if found > SCHEMA_VERSION:
        raise UserError(
            "written by a newer ft-dagster",
            file=where,
            field="schema_version",
            value=found,
            fix=f"Upgrade ft-dagster (this one reads up to {SCHEMA_VERSION})",
        )
    return predicate


@cache
def local_environment() -> dict[str, Any]:
    """Interpreter, platform and library versions: recorded, never part of a key."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: found for name in LIBRARIES if (found := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
