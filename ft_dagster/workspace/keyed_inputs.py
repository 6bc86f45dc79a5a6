"""Computes a stage's key from one frozen object, its inputs: `build` sees this object and nothing else of the
world. What is missing in the key is marked.

How a field of such an object enters the key:

    Artifact            its digest, under the field's name
    File, Digest        its digest, under the field's name
    VariantSpec         each field that it still has (see spec.narrow), under the field's name
    another dataclass   field by field, as `outer.inner`
    None                not at all
    anything else       as plain JSON, under the field's name

A field marked `recorded()` enters no key. It may shape what is said beside the payload (a forecast, a log),
or what is known today: prices, neighbours and finished trainings, by which a plan may come out otherwise on
another day; what stands under the key is kept. Each is listed in `tests/stages/test_keys.py` with its reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from ft_dagster.provenance.digest import sha256_file, stage_key
from ft_dagster.spec.narrow import shown
from ft_dagster.store import Artifact

RECORDED = "recorded"


class Digest(str):
    """Is the sha256 of something that is no artifact of its own."""

    __slots__ = ()


@dataclass(frozen=True)
class File:
    """Names a file by its content; where it lies on this host enters no key."""

    path: Path
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Self:
        return cls(path, sha256_file(path))


class KeyParts(NamedTuple):
    """Holds what a key covers: digests by name, and plain JSON by name. `artifacts`: those of the inputs that
    are any, by name.
    """

    inputs: dict[str, str]
    spec: dict[str, object]
    artifacts: dict[str, Artifact]

    @property
    def manifests(self) -> dict[str, str]:
        """Return the sha256 of the manifest of each input that is an artifact; recorded, in no key."""
        return {name: artifact.manifest for name, artifact in self.artifacts.items()}

    def key(self, stage: str, version: int) -> str:
        return stage_key(stage, version, self.inputs, self.spec)


def recorded(**options: Any) -> Any:
    """Declare a field of a stage's inputs that enters no key."""
    return field(metadata={RECORDED: True}, **options)


def key_parts(inputs: Any) -> KeyParts:
    """Return the key parts of a stage's inputs, a dataclass."""
    parts = KeyParts({}, {}, {})
    _add_all(parts, "", inputs)
    return parts


def _add_all(parts: KeyParts, within: str, inputs: Any) -> None:
    for each in fields(inputs):
        value = getattr(inputs, each.name)
        if value is not None and RECORDED not in each.metadata:
            _add(parts, within + each.name, value)


def _add(parts: KeyParts, name: str, value: Any) -> None:
    if isinstance(value, Artifact):
        parts.inputs[name] = value.digest
        parts.artifacts[name] = value
    elif isinstance(value, File):
        parts.inputs[name] = value.sha256
    elif isinstance(value, Digest):
        parts.inputs[name] = str(value)
    elif is_dataclass(value):
        _add_all(parts, f"{name}.", value)
    elif isinstance(value, BaseModel):
        parts.spec[name] = shown(value)
    else:
        parts.spec[name] = to_jsonable_python(value)
