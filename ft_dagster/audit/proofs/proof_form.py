"""Defines the form of a proof: each field by its type, whole numbers and hashes of their length alone.

A place between two whole numbers, or a leaf whose parts are cut elsewhere, would let a proof pass that shows
nothing. `examples/check_proof.py` holds a proof to the same form.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ft_dagster.errors import UserError
from ft_dagster.files import read_text
from ft_dagster.provenance.manifest import first_wrong
from ft_dagster.schema_version import FIELD, refuse_newer
from ft_dagster.strict_json import loads

SCHEMA_VERSION = 2  # 1: of one row of several; absence of a row was not shown as a document
PRESENCE, ABSENCE = "presence", "absence"
MOST_BYTES = 16_000_000
_FIX = "Name what `ft-dagster audit prove` wrote"
_Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Salt = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
_MOST = 2**63 - 1
_Number = Annotated[int, Field(ge=0, le=_MOST)]


class _Form(BaseModel):
    """Checks fields by their types alone: a bool is no number. What else there is, is left as it is."""

    model_config = ConfigDict(strict=True, extra="ignore", defer_build=True)


class _Leaf(_Form):
    index: _Number
    lookup: _Hash
    record: _Hash
    facts_sha256: _Hash
    path: list[_Hash]


class _ShownLeaf(_Form):
    """Holds an identity and the leaves beside its place, or the one that it has."""

    identity: _Hash
    reading: dict[str, object] = {}
    leaves: list[_Leaf]


class _Row(_ShownLeaf):
    salt: _Salt
    facts: str
    leaves: Annotated[list[_Leaf], Field(min_length=1, max_length=1)]


class _Tree(_Form):
    size: _Number
    key: str
    root: _Hash


class _Manifests(_Form):
    training_mixture: str
    fine_tuned_model: str


class _Common(_Form):
    schema_version: Annotated[int, Field(ge=1)]
    tree: _Tree
    manifests: _Manifests
    through: list[str] = []


class _Presence(_Common, _Row):
    kind: Literal["presence"]
    times: _Number
    rows: Annotated[int, Field(ge=1, le=_MOST)] = 1
    also: list[_Row] = []


class _Absence(_Common, _ShownLeaf):
    kind: Literal["absence"]
    read_otherwise: list[_ShownLeaf] = []


_PROOF: TypeAdapter[_Presence | _Absence] = TypeAdapter(
    Annotated[_Presence | _Absence, Field(discriminator="kind")]
)


def proof_schema() -> dict[str, Any]:
    """Return the form of a proof as JSON Schema (draft 2020-12)."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_PROOF.json_schema()}


def read_proof(file: Path) -> Mapping[str, Any]:
    """Read a proof as it was written, its fields of their types. Raises UserError for any other file."""
    try:
        proof: Mapping[str, Any] = loads(read_text(file, most=MOST_BYTES), once=True)
        if type(proof.get(FIELD)) is int:
            refuse_newer(proof[FIELD], SCHEMA_VERSION, file=file)
        _PROOF.validate_python(proof)
    except ValidationError as error:
        field, said, value = first_wrong(error)
        name = field.removeprefix(f"{PRESENCE}.").removeprefix(f"{ABSENCE}.") or "kind"
        shown_value = None if isinstance(value, dict | list) else value
        raise UserError(f"not a proof: {name}: {said}", file=file, value=shown_value, fix=_FIX) from None
    except (ValueError, AttributeError) as error:
        said = f": {error}" if isinstance(error, ValueError) else ""
        raise UserError(f"not a proof{said}", file=file, fix=_FIX) from None
    return proof


def all_shown(proof: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what a proof shows of each row, or of each identity that is absent: itself of the first, then of
    the others.
    """
    others = "also" if proof["kind"] == PRESENCE else "read_otherwise"
    return [proof, *proof.get(others, [])]
