"""Counts what the splits of a training mixture hold, as they are written.

Stored in mixture.json and, with the warnings, in the manifest of the training_mixture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ft_dagster.spec.data import GeneralSpec, ShareOf

if TYPE_CHECKING:
    from ft_dagster.store import Artifact

SCHEMA_VERSION = 1
GENERAL = "general:"  # what the name of a corpus begins with among the sources
SILENT = ("overlaps", "slots")  # left out where they say nothing
OUTSIDE = ("warnings",)  # of mixture.json
COUNTED: dict[ShareOf, str] = {"processed": "tokens", "trained": "trained_tokens"}  # what a share is of


def asked_share(general: GeneralSpec | None) -> float:
    """Return the declared share of general text, 0 without any."""
    return 0.0 if general is None else general.share


@dataclass(frozen=True)
class SourceFigures:
    """Counts one source within a split. `documents`: rows and texts that the examples come from;
    `trained_tokens`: those with a label; `truncated`: examples that were cut.
    """

    documents: int
    examples: int
    tokens: int
    trained_tokens: int
    truncated: int


@dataclass(frozen=True)
class ShardFigures:
    """Describes one Parquet file of a split. `file`: relative to the mixture; `sha256`: of its bytes."""

    file: str
    examples: int
    tokens: int
    trained_tokens: int
    sha256: str


@dataclass(frozen=True)
class SplitFigures:
    """Describes one split: its totals, its shards in order, its sources by name."""

    documents: int
    examples: int
    tokens: int
    trained_tokens: int
    shards: tuple[ShardFigures, ...]
    by_source: Mapping[str, SourceFigures]

    def shares(self, of: ShareOf) -> dict[str, float]:
        """Return each source's share of the tokens, of all or of those with a label."""
        whole = getattr(self, COUNTED[of]) or 1
        return {source: getattr(part, COUNTED[of]) / whole for source, part in self.by_source.items()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> SplitFigures:
        totals = {name: content[name] for name in ("documents", "examples", "tokens", "trained_tokens")}
        by_source = {source: SourceFigures(**counts) for source, counts in content["by_source"].items()}
        return cls(
            **totals,
            shards=tuple(ShardFigures(**shard) for shard in content["shards"]),
            by_source=by_source,
        )


@dataclass(frozen=True)
class GeneralShare:
    """Compares the share of general text that was declared with the one that came out, 0 to 1, among the
    tokens of one epoch that `data.general.share_of` names.
    """

    asked: float
    realized: float


@dataclass(frozen=True)
class MixtureFigures:
    """Describes a mixture in figures. `tokenizer`: digest of its files; `max_length`, `longest`: of an
    example, in tokens; `splits`: train, validation and general_holdout; `order`: how the trainer walks the
    shards; `dropped`: reason -> examples (rows, where a row gave none); `warnings`: lines for a person, which
    mixture.json does not hold; `overlaps`: task -> pieces of general text that were left out since they
    overlap its questions; `slots`: split -> examples that are padding in the place of erased records.
    """

    tokenizer: str
    max_length: int
    seed: int
    order: str
    splits: Mapping[str, SplitFigures]
    general_share: GeneralShare
    longest: int
    dropped: Mapping[str, int]
    warnings: tuple[str, ...] = ()
    overlaps: Mapping[str, int] = field(default_factory=dict)
    slots: Mapping[str, int] = field(default_factory=dict)

    @property
    def train(self) -> SplitFigures:
        return self.splits["train"]

    @property
    def share_of(self) -> ShareOf:
        """Return the kind of tokens whose share `general_share` is, told by its value."""
        trained = sum(s for name, s in self.train.shares("trained").items() if name.startswith(GENERAL))
        processed = sum(s for name, s in self.train.shares("processed").items() if name.startswith(GENERAL))
        realized = self.general_share.realized
        return "trained" if abs(trained - realized) < abs(processed - realized) else "processed"

    def to_json(self) -> dict[str, object]:
        """Return the figures as the manifest holds them."""
        splits = {
            name: {**asdict(split), "shards": [asdict(shard) for shard in split.shards]}
            for name, split in self.splits.items()
        }
        changed = {"splits": splits, "warnings": list(self.warnings)}
        content = {"schema_version": SCHEMA_VERSION, **asdict(self), **changed}
        return {name: value for name, value in content.items() if name not in SILENT or value}

    def file_json(self) -> dict[str, object]:
        """Return the figures as mixture.json holds them."""
        return {name: value for name, value in self.to_json().items() if name not in OUTSIDE}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> MixtureFigures:
        """Read what `to_json` or `file_json` wrote, of this schema."""
        plain = ("tokenizer", "max_length", "seed", "order", "longest", "dropped")
        return cls(
            **{name: content[name] for name in plain},
            splits={name: SplitFigures.from_json(split) for name, split in content["splits"].items()},
            general_share=GeneralShare(**content["general_share"]),
            warnings=tuple(content.get("warnings", ())),
            overlaps=content.get("overlaps", {}),
            slots=content.get("slots", {}),
        )

    @classmethod
    def of(cls, mixture: Artifact) -> MixtureFigures:
        """Return the figures of a training_mixture."""
        return cls.from_json(mixture.figures)
