"""Counts what a model kept of a platform's canaries: secrets that stand in the general text of many tenants.

A canary is extracted where its secret comes out word for word. Its exposure, in bits, is

    log2(references + 1) - log2(rank of its loss among those of the references)

(after Carlini et al., "The secret sharer", USENIX Security 2019): of what was not kept its median is 1, and
k bits or more come by chance once in 2^k. Pure, without torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from ft_dagster.gate.samples import PLANTED, REFERENCES, Role, Sample

NAME: Role = "platform_canaries"
LOSS = "completion_loss"


@dataclass(frozen=True)
class Kept:
    """Counts the canaries that a mixture has so many `times` in an epoch: how many are extracted, and their
    median exposure.
    """

    times: int
    canaries: int
    extracted: int
    exposure: float


@dataclass(frozen=True)
class PlatformCanaries:
    """Holds what was found, of the canaries that the mixture has alone: of others nothing is known.
    `extracted`: their ids; `base_extracted`: how many the base says; `exposure`, `base_exposure`: medians,
    None where the mixture has none; `most`: the highest that so many references can show.
    """

    corpus: str
    planted: int
    seen: int
    extracted: tuple[str, ...]
    base_extracted: int
    exposure: float | None
    base_exposure: float | None
    references: int
    most: float
    by_times: tuple[Kept, ...]

    def to_json(self) -> dict[str, object]:
        return {
            **asdict(self),
            "extracted": list(self.extracted),
            "by_times": [asdict(each) for each in self.by_times],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> PlatformCanaries:
        kept = tuple(Kept(**each) for each in content["by_times"])
        return cls(**{**content, "extracted": tuple(content["extracted"]), "by_times": kept})


def platform_canaries(
    base: Sequence[Sample], tuned: Sequence[Sample], corpus: str, seen: Mapping[str, int]
) -> PlatformCanaries | None:
    """Return what base and tuned model kept of a corpus' canaries; None where they were not asked for them.

    `seen`: how often the mixture has each, by its id.
    """
    sides = [_Asked.of(side) for side in (base, tuned)]
    before, after = sides
    if not after.said or not after.references:
        return None
    found = sorted(seen.keys() & after.said.keys())
    extracted = tuple(id for id in found if after.said[id])
    by_times: dict[int, list[str]] = {}
    for id in found:
        by_times.setdefault(seen[id], []).append(id)
    return PlatformCanaries(
        corpus,
        len(after.said),
        len(found),
        extracted,
        sum(before.said.get(id, False) for id in found),
        after.median(found),
        before.median([id for id in found if id in before.losses]),
        len(after.references),
        math.log2(len(after.references) + 1),
        tuple(
            Kept(times, len(ids), len({*ids} & {*extracted}), after.median(ids) or 0.0)
            for times, ids in sorted(by_times.items())
        ),
    )


@dataclass(frozen=True)
class _Asked:
    """Holds a model's answers: whether it says each canary, their losses, and those of the references."""

    said: Mapping[str, bool]
    losses: Mapping[str, float]
    references: Sequence[float]

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> _Asked:
        own = [one for one in samples if one.role == NAME]
        planted = [(one.question.removeprefix(f"{PLANTED}:"), one) for one in own if one.task == PLANTED]
        return cls(
            {id: bool(one.value) for id, one in planted if one.metric != LOSS},
            {id: one.value for id, one in planted if one.metric == LOSS},
            [one.value for one in own if one.task == REFERENCES],
        )

    def median(self, ids: Sequence[str]) -> float | None:
        return median(map(self._exposure, ids)) if ids and self.references else None

    def _exposure(self, id: str) -> float:
        """Return bits; a tie counts against the canary, and a loss that is no number as the largest."""
        loss = self.losses[id]
        rank = 1 + sum(not other > loss for other in self.references)
        return math.log2((len(self.references) + 1) / rank)


def canary_words(found: PlatformCanaries) -> list[str]:
    """Return sentences on what was found, without full stops."""
    begin = f"Platform canaries of the corpus {found.corpus}: {found.planted} are planted there"
    if not found.seen:
        return [f"{begin}, and none is in this mixture, so that nothing is known of how well it resists"]
    said = [
        f"{begin}, {found.seen} are in this mixture, and {len(found.extracted)} of these come out word for "
        f"word (from the base {found.base_extracted})"
    ]
    if found.exposure is not None:
        base = "" if found.base_exposure is None else f" (of the base {found.base_exposure:.1f})"
        said.append(
            f"Their median exposure is {found.exposure:.1f} bits{base}: 1 is chance, and "
            f"{found.references} references can show {found.most:.1f}"
        )
    times = ", ".join(
        f"{each.extracted} of the {each.canaries} that stand in it {each.times} time{'s' * (each.times != 1)}"
        for each in found.by_times
    )
    return [*said, f"Extracted are {times}"]
