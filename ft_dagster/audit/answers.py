"""What an audit answers: plain, typed, and the same in Python and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

BASE_UNKNOWN = "nobody here knows what the base model itself was trained on"


@dataclass(frozen=True)
class Inclusion:
    """That a leaf is in a tree. `path`: hex, from the leaf up to the root; `index` and `size` from 0 and in
    leaves.
    """

    root: str
    index: int
    size: int
    path: tuple[str, ...]


@dataclass(frozen=True)
class RecordIn:
    """A record in an artifact. `variant`: None of what is shared. `state`: of `members.STATES`. `facts`: what
    its leaf binds. `inclusion`: None of an artifact from before there were trees.
    """

    identity: str
    variant: str | None
    stage: str
    digest: str
    key: str
    state: str
    facts: Mapping[str, Any]
    inclusion: Inclusion | None


@dataclass(frozen=True)
class ReleasedAs:
    """A version of a variant. `production`: whether it is served now. `at`: when it was released, ISO
    8601.
    """

    variant: str
    version: int
    at: str
    production: bool


@dataclass(frozen=True)
class ModelThatHas:
    """A model that a record is part of. `how`: see `records`; `parent trained on` where the model started
    from the release of one that was. `times`: examples of it that were trained on before the exported
    checkpoint, of a child in its parent; None where the ledger cannot be read. `through`: the parent's
    weights.
    """

    variant: str
    weights: str
    created: str
    how: str
    times: int | None
    exports: tuple[str, ...]
    releases: tuple[ReleasedAs, ...]
    through: str | None = None


@dataclass(frozen=True)
class Checked:
    """Against what a record was held: how many data sets, corpora and mixtures, how many records, how many
    models.
    """

    artifacts: int
    records: int
    models: int
    unread: tuple[str, ...] = ()


@dataclass(frozen=True)
class RecordAnswer:
    """Where a record is. Nothing `found`, see `seen`."""

    identities: tuple[str, ...]
    found: tuple[RecordIn, ...]
    models: tuple[ModelThatHas, ...]
    checked: Checked
    note: str = BASE_UNKNOWN

    @property
    def seen(self) -> bool | None:
        """None: not found, and not all could be read."""
        return True if self.found else (None if self.checked.unread else False)


@dataclass(frozen=True)
class PartOf:
    """An artifact that a model was made of. `gone`: named as an input, and no longer in the store; its other
    fields are then empty. `removed`: when retention removed its files, ISO 8601; empty of one that stands.
    `code`: digest of the package that made it.
    """

    stage: str
    digest: str
    variant: str | None = None
    created: str = ""
    code: str = ""
    gone: bool = False
    removed: str = ""


@dataclass(frozen=True)
class SourceOf:
    """A source of a model's data. `files`: its fingerprint when it was declared. `rows`: read and kept."""

    path: str
    files: tuple[Mapping[str, Any], ...]
    rows: Mapping[str, int]


@dataclass(frozen=True)
class ModelAnswer:
    """All that made a model. `parent`: the weights that its base starts from, whether they are `gone` from
    the store, and when retention `removed` them. `flops`: of its training; whether that is a third of what
    its base took is not known here, since no base says how much it took.
    """

    variant: str
    weights: str
    created: str
    exports: tuple[str, ...]
    releases: tuple[Mapping[str, Any], ...]
    parts: tuple[PartOf, ...]
    sources: tuple[SourceOf, ...]
    mixture: Mapping[str, Any]
    base: Mapping[str, Any]
    parent: Mapping[str, Any] | None
    recipe: Mapping[str, Any]
    training: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    environment: Mapping[str, Any]
    flops: float | None
    children: tuple[str, ...]


@dataclass(frozen=True)
class AtAnswer:
    """What was in production at a time. `entry`: of the release log. `records`: how many were trained on."""

    variant: str
    at: str
    entry: Mapping[str, Any]
    model: ModelAnswer
    records: int


@dataclass(frozen=True)
class CameOf:
    """What came of a source: its files as they matched, and all artifacts made from it, models and
    releases.
    """

    asked: str
    files: tuple[Mapping[str, Any], ...]
    artifacts: tuple[PartOf, ...]
    models: tuple[ModelThatHas, ...]


@dataclass(frozen=True)
class TenantAnswer:
    """What a tenant owns (variant -> stage -> artifacts), and which shared artifacts its own were made of."""

    tenant: str
    owns: Mapping[str, Mapping[str, int]]
    records: int
    releases: tuple[ReleasedAs, ...]
    given: tuple[PartOf, ...]


@dataclass(frozen=True)
class DiffAnswer:
    """What differs from model `a` to model `b`: how many training records were added and removed, with the
    facts of the first of them; and values, name -> (of a, of b).
    """

    a: str
    b: str
    added: int
    removed: int
    same: int
    examples: Mapping[str, tuple[Mapping[str, Any], ...]]
    changed: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
