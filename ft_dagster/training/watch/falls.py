"""Tells a fall of the benchmark from chance, question by question, over all looks of a training.

A few questions fall by chance. So a fall counts only where the gate's test of harm, on each question before
and after, shows one, at an equal share of `ALPHA` at each look: of models that did not change, it shows one
in at most `ALPHA` of all trainings, at whichever look (union bound).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ft_dagster.gate.level import ALPHA

EVALUATIONS = 8  # of a training, where its plan says none
ANSWERS = "answers"  # beside the means of a look: task -> the value of each question, or group, in one order


class Fall(NamedTuple):
    """Holds a fall of the benchmark: of its mean accuracy, and the one-sided p of so large a one where
    nothing fell, on so many `units`: questions, or groups of them. p is None of looks that did not keep
    answers, and of what is no number.
    """

    size: float
    p: float | None
    units: int

    def shown(self, looks: int) -> bool:
        """Say whether it is more than chance explains, at one of so many looks."""
        return self.p is None or self.p <= ALPHA / looks


def looks_of(on_bad_rate: str, evaluations: int) -> int:
    """Return the looks at which a training may stop, those of one that begins again at a lower rate too."""
    return evaluations * (2 if on_bad_rate == "lower" else 1)


def least_questions(looks: int) -> int:
    """Return how many questions have to be lost, and none gained, for a fall to be shown at a look."""
    return math.ceil(math.log2(looks / ALPHA))


def fall_of(observations: Sequence[Mapping[str, Any]], step: int) -> Fall | None:
    """Return the fall from step 0 to `step`, question by question; None where either was not measured."""
    size = benchmark_fall(observations, step)
    if size is None:
        return None
    looks = {each["step"]: each["benchmark"].get(ANSWERS) for each in observations if "benchmark" in each}
    before, after = looks[0], looks[step]
    if before is None or after is None or not math.isfinite(size):
        return Fall(size, None, 0)
    import numpy as np

    from ft_dagster.gate.paired import harm_of

    changes = np.concatenate([np.subtract(after[name], before[name]) for name in before])
    return Fall(size, harm_of(changes), len(changes))


def benchmark_fall(observations: Sequence[Mapping[str, Any]], step: int) -> float | None:
    """Return the mean accuracy at step 0 less that at `step`; None where either was not measured."""
    means = {each["step"]: each["benchmark"]["mean"] for each in observations if "benchmark" in each}
    return means[0] - means[step] if 0 in means and step in means else None
