"""Makes and reads the manifest beside each artifact: an in-toto Statement v1 whose predicate says what made
it.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ft_dagster.errors import UserError
from ft_dagster.provenance.digest import FileDigest, payload_digest, stage_key
from ft_dagster.schema_version import refuse_newer

SCHEMA_VERSION = 1
_HASH = re.compile(r"[0-9a-f]{64}")
_ATTEMPT = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]*")
RESTORE = "Restore the file from a backup"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:ft-dagster:manifest:v1"
LIBRARIES = (
    "ft-dagster", "dagster", "torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes",
    "deepspeed", "datasets", "lm-eval", "tokenizers", "safetensors", "pyarrow", "duckdb",
)  # fmt: skip


@dataclass(frozen=True)
class Origin:
    """Says what an artifact is made from. `inputs`: name -> digest; `spec`: the part of the declaration that
    its key covers; `code`: digest of the package's source; `manifests`: sha256 of the manifest of each input
    that is an artifact, in no key, so that what lies beside a payload is bound too.
    """

    stage: str
    stage_version: int
    key: str
    inputs: dict[str, str]
    spec: Mapping[str, object]
    code: str
    variant: str | None = None
    seed: int | None = None
    manifests: dict[str, str] = field(default_factory=dict)


def manifest_of(
    origin: Origin,
    *,
    attempt: str,
    payload: list[FileDigest],
    evidence: list[FileDigest],
    figures: Mapping[str, object],
) -> dict[str, object]:
    """Make the manifest of an artifact of these files, made in this environment."""
    return {
        "_type": STATEMENT,
        "subject": _subject(payload),
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
            "input_manifests": origin.manifests,
            "spec": origin.spec,
            "seed": origin.seed,
            "code": {"package": "ft-dagster", "sha256": origin.code},
            "environment": local_environment(),
            "figures": figures,
            "payload": [file._asdict() for file in payload],
            "evidence": [file._asdict() for file in evidence],
        },
    }


def predicate_of(manifest: Any, where: object = None) -> dict[str, Any]:
    """Return the predicate of a manifest this version can read; a newer schema raises UserError."""
    predicate: Any = manifest.get("predicate") if isinstance(manifest, dict) else None
    found = predicate.get("schema_version") if isinstance(predicate, dict) else None
    if not isinstance(found, int) or manifest.get("predicateType") != PREDICATE:
        raise UserError("not a manifest of this project", file=where, fix="Restore the file from a backup")
    refuse_newer(found, SCHEMA_VERSION, file=where)
    known: dict[str, Any] = predicate
    return known


def check_subject(manifest: Mapping[str, Any], where: object) -> None:
    """Raises UserError unless the statement is about the payload's files: other tools read that alone."""
    files = [FileDigest(**file) for file in manifest["predicate"]["payload"]]
    if manifest.get("subject") != _subject(files):
        raise UserError(
            "a manifest that does not hold: its subject is not its list of files",
            file=where,
            fix="Restore the file from a backup",
        )


def _subject(payload: Sequence[FileDigest]) -> list[dict[str, object]]:
    return [{"name": file.path, "digest": {"sha256": file.sha256}} for file in payload]


def _is_moment(text: str) -> str:
    if datetime.fromisoformat(text).utcoffset() is None:
        raise ValueError("a moment without its time zone")
    return text


class _Part(BaseModel):
    """Checks fields of a manifest by their types; what else it has is left as it is."""

    model_config = ConfigDict(strict=True, extra="ignore", defer_build=True)


class _File(_Part):
    model_config = ConfigDict(extra="forbid", defer_build=True)

    path: str
    size: int
    sha256: str


class _Code(_Part):
    sha256: Annotated[str, Field(pattern=f"^{_HASH.pattern}$")]


class _Environment(_Part):
    python: str
    platform: str
    libraries: dict[str, str]


class _Predicate(_Part):
    """Checks the predicate of `manifest_of`; version 0.1 had no `input_manifests`."""

    stage: str
    stage_version: int
    key: str
    variant: str | None
    attempt: str
    digest: str
    created: Annotated[str, AfterValidator(_is_moment)]
    inputs: dict[str, str]
    input_manifests: dict[str, str] = {}
    spec: dict[str, object]
    seed: int | None
    code: _Code
    environment: _Environment
    figures: dict[str, object]
    payload: list[_File]
    evidence: list[_File]


def check_predicate(predicate: Mapping[str, Any], prefix: str, stage: str, key: str, where: object) -> None:
    """Hold a manifest against itself and the place it was found in. Raises UserError.

    Each field is of its type; its digest is that of its list of files; paths stay inside the attempt's
    folder, which is a plain name; its key is that of what it says it was made from, and the place that of its
    key, stage and variant.
    """
    try:
        _Predicate.model_validate(predicate)
    except ValidationError as error:
        raise wrong_field(error, where) from None
    try:
        wrong = _inconsistency(predicate, prefix, stage, key)
    except ValueError as error:  # of a text or a number that no JSON has
        wrong = str(error)
    if wrong:
        raise UserError(f"a manifest that does not hold: {wrong}", file=where, fix=RESTORE)


def wrong_field(error: ValidationError, where: object, *above: str) -> UserError:
    """Return the error that names the first field of a manifest that is absent or of another type. `above`:
    the fields around it.
    """
    name, said, value = first_wrong(error, *above)
    return UserError(
        f"a manifest that does not hold: {said}", file=where, field=name, value=value, fix=RESTORE
    )


def first_wrong(error: ValidationError, *above: str) -> tuple[str, str, Any]:
    """Return (name, what is wrong, value) of the first field that a form does not take; the value is None
    where it is absent.
    """
    first = error.errors(include_url=False, include_context=False)[0]
    absent = first["type"] == "missing"
    wanted = first["msg"].splitlines()[0].partition(" or instance of ")[0]  # which would be a class of ours
    said = "a field is absent" if absent else f"a field of another type ({wanted})"
    return ".".join(map(str, (*above, *first["loc"]))), said, None if absent else first["input"]


def _inconsistency(predicate: Mapping[str, Any], prefix: str, stage: str, key: str) -> str | None:
    files = {part: [FileDigest(**file) for file in predicate[part]] for part in ("payload", "evidence")}
    wrong = next((why for part in files.values() if (why := _wrong_list(part))), None)
    if wrong:
        return wrong
    if not _ATTEMPT.fullmatch(predicate["attempt"]):
        return f"{predicate['attempt']!r} is no name of a folder"
    if predicate["digest"] != payload_digest(files["payload"]):
        return "its digest is not that of its files"
    if (predicate["stage"], predicate["key"]) != (stage, key):
        return f"it is of {predicate['stage']} {str(predicate['key'])[:12]}, and lies elsewhere"
    if key != stage_key(stage, predicate["stage_version"], predicate["inputs"], predicate["spec"]):
        return "its key is not that of what it was made from"
    if predicate["variant"] != variant_of(prefix):
        return f"it is of {predicate['variant']}, and lies under {prefix}"
    return None


def _wrong_list(files: list[FileDigest]) -> str | None:
    for path, size, sha256 in files:
        parts = PurePosixPath(path)
        if (
            parts.is_absolute()
            or ".." in parts.parts
            or not parts.parts
            or str(parts) != path
            or "\0" in path
        ):
            return f"{path!r} is no path inside an artifact"
        if type(size) is not int or size < 0 or not _HASH.fullmatch(sha256):
            return f"{path!r} has no size or no sha256"
    return "a file is listed twice" if len({file.path for file in files}) < len(files) else None


def variant_of(prefix: str) -> str | None:
    """Return whose part of a store a prefix is: `tenants/acme/support` is acme.support's; None for a shared
    one.
    """
    owner, *names = prefix.split("/")
    return ".".join(names) if owner == "tenants" else None


@cache
def local_environment() -> dict[str, Any]:
    """Return interpreter, platform and library versions: recorded, never part of a key."""
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
