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
another day; what stands under the key is kept. Each is listed with its reason in
`tests/stages/keyed_fields.py`.

Each part of a key is of one kind, by which `versions.now` tells whether it would be another today:

    declared    follows from YAML, task files and policy: computed anew
    artifact    an `Artifact`: followed through `lineage.graph`
    host        `Host[...]`: a fact of the machine, or of this version of the package; as the manifest has it,
                and never a cause
    derived     `Derived[...]`: follows from the other parts; computed anew as far as no file is opened for it
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, Self, TypeVar, get_type_hints

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from ft_dagster.provenance.digest import sha256_file, stage_key
from ft_dagster.spec import VariantSpec
from ft_dagster.spec.narrow import shown
from ft_dagster.store import Artifact

RECORDED = "recorded"
Kind = Literal["declared", "artifact", "host", "derived"]


class Unopened(Exception):
    """Signals that a part of a key follows from bytes that whoever only looks does not open."""


class _Unknown:
    """Stands for the value of a part that nobody looked at."""


UNKNOWN: Final[Any] = _Unknown()


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


Fields = Callable[[VariantSpec, str], tuple[str, ...]]


def _no_fields(spec: VariantSpec, name: str) -> tuple[str, ...]:
    return ()


class Part(NamedTuple):
    """Holds a part of a key. `value`: as the inputs have it. `words`: a sentence for where it is other, with
    {stage} for the stage; "" where that is no cause by itself. `fields`: the declared fields that it follows
    from, by the declaration and the name within the part, where it is not named as they are.
    """

    kind: Kind
    value: Any
    words: str = ""
    fields: Fields = _no_fields


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

    def others(self, artifact: Artifact) -> set[str]:
        """Return the names of those that are others than in the key of an artifact."""
        then, now = {**artifact.spec, **artifact.inputs}, {**self.spec, **self.inputs}
        return {path[0] for path in differing(then, now)}

    def key(self, stage: str, version: int) -> str:
        return stage_key(stage, version, self.inputs, self.spec)


T = TypeVar("T")
Host = Annotated[T, Part("host", None)]
Derived = Annotated[T, Part("derived", None)]


def recorded(**options: Any) -> Any:
    """Declare a field of a stage's inputs that enters no key."""
    return field(metadata={RECORDED: True}, **options)


def declared_as(*names: str) -> Part:
    """Mark a part that follows from these declared fields."""
    return Part("declared", None, fields=lambda spec, name: names)


def told_by(fields: Fields) -> Part:
    """Mark a part that follows from the declared fields that a function tells."""
    return Part("declared", None, fields=fields)


def derived(words: str) -> Part:
    """Mark a part that follows from others, from files or from recorded figures. `words`: see `Part`."""
    return Part("derived", None, words)


def parts_of(inputs: Any) -> dict[str, Part]:
    """Return all parts of the key of a stage's inputs by name, with None for one that does not apply."""
    return dict(_parts("", inputs))


def key_parts(inputs: Any) -> KeyParts:
    """Return what the key of a stage's inputs, a dataclass, covers."""
    found = KeyParts({}, {}, {})
    for name, part in parts_of(inputs).items():
        value = part.value
        if value is None:
            continue
        if isinstance(value, Artifact):
            found.artifacts[name] = value
        if isinstance(value, Artifact | File | Digest):
            found.inputs[name] = digest_of(value)
        else:
            found.spec[name] = plain(value)
    return found


def digest_of(value: Artifact | File | Digest) -> str:
    """Return the digest by which an input stands in a key."""
    if isinstance(value, Artifact):
        return value.digest
    return value.sha256 if isinstance(value, File) else str(value)


def plain(value: Any) -> Any:
    """Return any other part as it stands in a key. Raises Unopened for one that nobody looked at."""
    if value is UNKNOWN:
        raise Unopened
    return shown(value) if isinstance(value, BaseModel) else to_jsonable_python(value)


def differing(then: Any, now: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the paths at which two plain values differ."""
    if isinstance(then, dict) and isinstance(now, dict):
        for name in {**now, **then}:
            yield from differing(then.get(name, ...), now.get(name, ...), (*path, name))
    elif then != now:
        yield path


def _parts(within: str, inputs: Any) -> Iterator[tuple[str, Part]]:
    for name, mark in _marks(inputs.__class__).items():
        value = getattr(inputs, name)
        if is_dataclass(value) and not isinstance(value, Artifact | File):
            yield from _parts(f"{within}{name}.", value)
        else:
            part = mark._replace(value=value)
            yield within + name, part._replace(kind="artifact") if isinstance(value, Artifact) else part


@cache
def _marks(kind: type) -> dict[str, Part]:
    """Return what is said of each field that enters a key."""
    hints, found = get_type_hints(kind, include_extras=True), dict[str, Part]()
    for each in fields(kind):
        if RECORDED not in each.metadata:
            said = getattr(hints[each.name], "__metadata__", ())
            found[each.name] = next((one for one in said if isinstance(one, Part)), Part("declared", None))
    return found
