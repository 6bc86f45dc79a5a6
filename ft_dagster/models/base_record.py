"""Reads base.json, by which an artifact names a base: where its files lie, and the digest of each.

Files of all earlier versions are read: `derived` and `parent` are absent where a base is a named source as it
is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ft_dagster.errors import UserError
from ft_dagster.provenance.digest import FileDigest
from ft_dagster.provenance.manifest import RESTORE, first_wrong
from ft_dagster.schema_version import FIELD, refuse_newer
from ft_dagster.store.artifacts import Artifact
from ft_dagster.store.blobs import Store
from ft_dagster.strict_json import loads

FILE = "base.json"
SCHEMA_VERSION = 1
Mode = Literal["fold", "stack", "whole"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


class DerivedFolder(_Part):
    """Says what a folder was made from that lies in the payload. `origin`, `folded`: digests of artifacts."""

    origin: str = Field(alias="from")
    folded: str | None = None
    new_tokens: tuple[str, ...] = ()
    new_token_ids: tuple[int, ...] = ()


class ParentRecord(_Part):
    """Names the release that a base starts from; `export`, `weights` and `base` are digests."""

    variant: str
    export: str
    weights: str
    base: str
    mode: Mode


class BaseRecord(_Part):
    """Is what base.json says. `reference`: the declared source; `revision`: a hub's commit. `parameters`: as
    stored, tied weights once. `weights_bytes`: of the tensors. `tokenizer`: a digest over its files.
    """

    reference: str
    revision: str | None = None
    files: tuple[FileDigest, ...] = ()
    architecture: str | None = None
    parameters: int | None = None
    weights_bytes: int | None = None
    dtype: str | None = None
    chat_template: bool | None = None
    tokenizer: str | None = None
    derived: DerivedFolder | None = None
    parent: ParentRecord | None = None

    @classmethod
    def parse(cls, content: bytes, file: object = None) -> BaseRecord:
        """Return what the content of a base.json says. Raises UserError, naming `file`, for one that is none
        or is of a newer version.
        """
        try:
            found = dict(loads(content))
        except (ValueError, TypeError):
            raise UserError("not the record of a base", file=file, fix=RESTORE) from None
        refuse_newer(found.get(FIELD, SCHEMA_VERSION), SCHEMA_VERSION, file=file)
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            name, wrong, value = first_wrong(error)
            problem = f"not the record of a base: {wrong}"
            raise UserError(problem, file=file, field=name, value=value, fix=RESTORE) from None

    @classmethod
    def read(cls, payload: Path) -> BaseRecord:
        """Return what the base.json in a payload's folder says. Raises UserError, see `parse`."""
        return cls.parse((payload / FILE).read_bytes(), payload / FILE)

    @classmethod
    def stored(cls, store: Store, base: Artifact) -> BaseRecord:
        """Return what a base_model artifact says, without a copy of it. Raises UserError, see `parse`."""
        name = f"payload/{FILE}"
        return cls.parse(base.read(store, name), store.uri(f"{base.path}/{name}"))
