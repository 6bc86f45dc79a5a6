"""Reads trust.yaml, the trust root beside policy.yaml: whose signatures count. No tenant may write it."""

from __future__ import annotations

import os
import re
from collections import Counter
from datetime import UTC, date, datetime, time
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from ft_dagster.errors import UserError
from ft_dagster.provenance.signing import RELEASE, TRUST_FILE, Role, Trust, TrustedKey, load_signer
from ft_dagster.provenance.witnessed import Position
from ft_dagster.spec.model import SpecModel
from ft_dagster.spec.validation import validate
from ft_dagster.spec.yaml_files import read_yaml

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
SEE_DOCS = "See docs/signing.md for what the field takes"


class WitnessedSpec(SpecModel):
    """Declares the checkpoint of a witness up to which stands what a revoked key signed."""

    witnessed: int = Field(ge=1, description="Its number, as `ft-dagster trust checkpoints` lists it")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="Of its statement, as it is listed beside it")


def _which(value: object) -> str:
    """Return the tag of the type that `revoked` is held against, so that mistakes are that type's."""
    return "[checkpoint]" if isinstance(value, dict | WitnessedSpec) else "[bool]"


class TrustKeySpec(SpecModel):
    """Declares a key whose signatures count."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$", description="What messages call it")
    role: Role = Field(
        description="builder: signs what runs make and release; approver: a person's, signs what they "
        "approve; auditor: signs what stood before signatures were asked for"
    )
    public: str = Field(
        description="The public key, PEM: Ed25519, ECDSA on P-256 or P-384, RSA from 3072 bits"
    )
    begins: date = Field(description="The first day, in UTC, of what it may sign")
    ends: date | None = Field(None, description="The last day, in UTC; null: none is set")
    person: str | None = Field(
        None, min_length=1, description="Of an approver: the name that `release.approvers` lists"
    )
    revoked: Annotated[
        Annotated[bool, Tag("[bool]")] | Annotated[WitnessedSpec, Tag("[checkpoint]")], Discriminator(_which)
    ] = Field(
        False,
        description="true: nothing that it signed counts, whatever date it bears; {witnessed, sha256}: "
        "nothing but what a witness had seen by this checkpoint",
    )
    uri: str | None = Field(
        None, description="Of a key service that signs by it (awskms:, gcpkms:, azurekms:)"
    )

    @field_validator("begins", "ends", mode="before")
    @classmethod
    def _is_a_day(cls, value: object) -> object:
        """Take no number, which would be seconds since 1970, and no time of a day."""
        if type(value) is date or value is None or (isinstance(value, str) and _DAY.fullmatch(value)):
            return value
        raise ValueError("not a day: write one as 2027-01-31")

    @field_validator("public")
    @classmethod
    def _is_a_public_key(cls, value: str, info: ValidationInfo) -> str:
        assert TrustedKey("", "builder", value, datetime.now(UTC)).public
        return value

    @model_validator(mode="after")
    def _a_person_approves(self) -> TrustKeySpec:
        if (self.role == "approver") != (self.person is not None):
            raise ValueError(
                "an approver's key names its person"
                if self.role == "approver"
                else "only an approver has a person"
            )
        if self.ends is not None and self.ends < self.begins:
            raise ValueError("it ends before it begins")
        return self

    @property
    def key(self) -> TrustedKey:
        first = datetime.combine(self.begins, time.min, UTC)
        last = None if self.ends is None else datetime.combine(self.ends, time.max, UTC)
        said = self.revoked
        kept = Position(said.witnessed, said.sha256) if isinstance(said, WitnessedSpec) else None
        return TrustedKey(
            self.name, self.role, self.public, first, last, self.person, bool(said), self.uri, kept
        )


class ThresholdSpec(SpecModel):
    """Declares how many have to sign a kind of statement, with `unsigned: refused`."""

    release: int = Field(
        1, ge=1, le=16, description="An entry of a release log: each by a key, or a person, of their own"
    )


class TrustSpec(SpecModel):
    """Defines the fields of trust.yaml."""

    schema_version: Literal[1] = 1
    version: int = Field(ge=1, description="Raised with each change of this file")
    unsigned: Literal["accepted", "refused"] = Field(
        "accepted", description="What a manifest or an entry of a release log counts as that nobody signed"
    )
    witnesses: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (),
        description="Who is told, outside the store, how far each release log is: a folder, "
        "s3://bucket/prefix, git+REPOSITORY, https://host/path",
    )
    strict: bool = Field(False, description="Release nothing while a witness cannot be reached")
    threshold: ThresholdSpec = Field(
        default_factory=ThresholdSpec, description="How many have to sign, where it is more than one"
    )
    keys: tuple[TrustKeySpec, ...] = Field(min_length=1, description="Whose signatures count")

    @model_validator(mode="after")
    def _keys_are_told_apart(self) -> TrustSpec:
        for what, said in (
            ("the name", [key.name for key in self.keys]),
            ("one public part, of the id", [key.key.id for key in self.keys]),
        ):
            twice = next((value for value, times in Counter(said).items() if times > 1), None)
            if twice is not None:
                raise ValueError(f"two keys have {what} {twice}")
        if all(key.revoked for key in self.keys):
            raise ValueError("every key is revoked, so that nothing could count")
        could = len({k.person or k.name for k in self.keys if not k.revoked and k.role != "auditor"})
        if self.threshold.release > max(1, could):
            raise ValueError(f"a release needs {self.threshold.release} signatures, and {could} could sign")
        if self.threshold.release > 1 and self.unsigned != "refused":
            raise ValueError("`threshold` without `unsigned: refused`, with which alone it acts")
        if self.strict and not self.witnesses:
            raise ValueError("`strict` without `witnesses`, of which it speaks")
        kept = next((key.name for key in self.keys if isinstance(key.revoked, WitnessedSpec)), None)
        if kept is not None and not self.witnesses:
            raise ValueError(
                f"no witness is listed that could say what {kept} signed before: `revoked: true`"
            )
        return self


def load_trust(project: Path, signing_key: str | None) -> Trust | None:
    """Read the trust root of a project; None where it has none. `signing_key`: see `load_signer`. Raises
    UserError for all its mistakes.
    """
    found = find_trust(project)
    if found is None:
        if signing_key is not None:
            fix = f"Make {TRUST_FILE} beside policy.yaml, see `ft-dagster trust new-key`, or take the key out"
            file = project / TRUST_FILE
            raise UserError("a key that nobody trusts", file=file, field="signing_key", fix=fix)
        return None
    return _loaded(project, signing_key, (found.st_mtime_ns, found.st_size, found.st_ino))


def find_trust(project: Path) -> os.stat_result | None:
    """Look for the trust root of a project; None where it has none. Raises UserError for one of another name,
    and for a link that leads nowhere, which is no project without a trust root.
    """
    file = project / TRUST_FILE
    other = file.with_suffix(".yml")
    if os.path.lexists(other):
        raise UserError("is not read, so that no key in it counts", file=other, fix=f"Name it {TRUST_FILE}")
    if not os.path.lexists(file):
        return None
    try:
        return file.stat()
    except OSError as error:
        problem, fix = f"cannot be read: {error.strerror}", "Put the file there, or take it away"
        raise UserError(problem, file=file, fix=fix) from None


@lru_cache(maxsize=8)
def _loaded(project: Path, signing_key: str | None, stamp: tuple[int, int, int]) -> Trust:
    """Read the file as it was at `stamp`, once a process."""
    file = project / TRUST_FILE
    content = read_yaml(file)
    _refuse_private_keys(content, file)
    said = validate(TrustSpec, content, lambda field: file, SEE_DOCS)
    keys = tuple(each.key for each in said.keys)
    signer = None if signing_key is None else load_signer(signing_key, keys, project)
    needed = {RELEASE: said.threshold.release}
    return Trust(file, said.version, keys, said.unsigned, said.witnesses, said.strict, signer, needed)


def _refuse_private_keys(content: dict[str, Any], file: Path) -> None:
    """Raises UserError, which does not show it, for a private key in place of its public part."""
    keys = content.get("keys")
    for at, key in enumerate(keys if isinstance(keys, list) else ()):
        if isinstance(key, dict) and "PRIVATE KEY" in str(key.get("public")):
            fix = "Write its public part, and sign by a new key: whoever read this file may sign by this one"
            raise UserError("a private key", file=file, field=f"keys.{at}.public", fix=fix)
