"""The manifest beside each artifact: an in-toto Statement v1 whose predicate says what made it."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.provenance.digest import FileDigest, payload_digest
from ft_dagster.schema_version import refuse_newer

SCHEMA_VERSION = 1
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:ft-dagster:manifest:v1"
LIBRARIES = (
    "ft-dagster", "dagster", "torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes",
    "deepspeed", "datasets", "lm-eval", "tokenizers", "safetensors", "pyarrow",
)  # fmt: skip


@dataclass(frozen=True)
class Origin:
    """What an artifact is made from. `inputs`: name -> digest; `spec`: the part of the declaration that its
    key covers; `code`: digest of the package's source.
    """

    stage: str
    stage_version: int
    key: str
    inputs: dict[str, str]
    spec: dict[str, Any]
    code: str
    variant: str | None = None
    seed: int | None = None


def manifest_of(
    origin: Origin,
    *,
    attempt: str,
    payload: list[FileDigest],
    evidence: list[FileDigest],
    figures: dict[str, Any],
) -> dict[str, Any]:
    """The manifest of an artifact of these files, made in this environment."""
    return {
        "_type": STATEMENT,
        "subject": [{"name": file.path, "digest": {"sha256": file.sha256}} for file in payload],
        "predicateType": PREDICATE,
        "predicate": {
            "schema_version": SCHEMA_VERSION,
            "stage": origin.stage,
            "stage_version": origin.stage_version,
            "key": origin.key,
            "variant": origin.variant,
            "attempt": attempt,
            "digest": payload_digest(payload),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "inputs": origin.inputs,
            "spec": origin.spec,
            "seed": origin.seed,
            "code": {"package": "ft-dagster", "sha256": origin.code},
            "environment": local_environment(),
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
    refuse_newer(found, SCHEMA_VERSION, file=where)
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
