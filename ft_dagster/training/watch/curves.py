"""Puts the loss curves into words: diverging, overfitting, on a plateau while still high, falling to the end.

Pure functions over [(step, loss)]. The training loss of single steps is noisy: means over parts of the
training are compared, against the noise of those means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Literal

from ft_dagster.methods.settings import MethodSettings

Curve = Sequence[tuple[int, float]]
Finding = Literal["diverging", "overfitting", "plateau", "falling"]

FEWEST_STEPS = 12  # of training losses: with fewer, a third of them has no mean to speak of
RISE = 0.01  # of the lowest validation loss: by convention; smaller ones no reader would call a rise
# Between the thirds of a training. Cosine schedules fade out, so the last tenth is flat for any training;
# the last third against the middle one still moves where there is something left to learn.
FALL = 0.02
HIGH = 0.6  # of the first loss: less than two fifths of it were learned
DIVERGED = 1.1  # the last third over the best third
SIGMAS = 2.0  # of the difference of two means, to call it one


@dataclass(frozen=True)
class Knobs:
    """Names what a method can be told to change: how it calls its capacity, and its value."""

    capacity: str | None = None
    value: int = 0

    @classmethod
    def of(cls, method: MethodSettings) -> Knobs:
        """Make the knobs from the `method` part of a plan; full fine-tuning has no such knob."""
        name = method.capacity
        return cls(name, getattr(method, name)) if name else cls()


def advice(training: Curve, validation: Curve, knobs: Knobs, *, rank_collapsed: bool = False) -> list[str]:
    """Say what the curves show and what to try; nothing where they look as they should.

    `rank_collapsed`: the spectrum shows unused ranks, so more of them would not help.
    """
    return [_words(finding, knobs, rank_collapsed) for finding in findings(training, validation)]


def findings(training: Curve, validation: Curve) -> list[Finding]:
    """Return the first that holds of diverging, overfitting, plateau and falling: each explains the later
    ones.
    """
    if diverging(training):
        return ["diverging"]
    if overfitting(training, validation):
        return ["overfitting"]
    if plateau_high(training):
        return ["plateau"]
    if still_falling(training, validation):
        return ["falling"]
    return []


def diverging(training: Curve) -> bool:
    """Say whether the last third of the training is worse than the best third before it, beyond noise."""
    parts = _thirds(training)
    if not parts:
        return False
    best = min(parts[:2], key=fmean)
    return fmean(parts[2]) > DIVERGED * fmean(best) and _differ(best, parts[2])


def overfitting(training: Curve, validation: Curve) -> bool:
    """Say whether validation rises from its lowest to the end, while the training loss goes on falling."""
    measured = [point for point in validation if point[0] > 0]
    if len(measured) < 2:
        return False
    turn, lowest = min(measured, key=lambda point: point[1])
    before = [loss for step, loss in training if step <= turn]
    after = [loss for step, loss in training if step > turn]
    if not before or not after or measured[-1][1] <= (1 + RISE) * lowest:
        return False
    return fmean(after) < fmean(before[-max(len(after), 3) :])


def plateau_high(training: Curve) -> bool:
    """Say whether the loss stands still from the middle third to the last, with most of it unlearned."""
    parts = _thirds(training)
    if not parts:
        return False
    first = fmean(loss for _, loss in training[:3])
    return fmean(parts[2]) > HIGH * first and not _falls(parts[1], parts[2])


def still_falling(training: Curve, validation: Curve) -> bool:
    """Say whether the loss fell to the end: the last validation is the lowest by a margin, or, without, by
    training.
    """
    measured = [loss for _, loss in validation]
    if len(measured) >= 3:
        return measured[-1] < (1 - FALL) * min(measured[:-1])
    parts = _thirds(training)
    return bool(parts) and _falls(parts[1], parts[2])


def _words(finding: Finding, knobs: Knobs, rank_collapsed: bool) -> str:
    capacity, value = knobs.capacity, knobs.value
    if finding == "diverging":
        return "the training loss rises again: try a lower learning rate, or a longer warmup"
    if finding == "overfitting":
        less = f"{capacity} {value // 2}, " if capacity and value > 1 else ""
        more = "more dropout" if capacity == "rank" else "weight decay"
        return (
            "overfitting: validation loss rises while training loss falls:"
            f" try {less}{more}, a lower learning rate, fewer epochs or more data"
        )
    if finding == "plateau":
        if capacity and not rank_collapsed:
            return (
                "plateau: the training loss stopped falling while still high:"
                f" try {capacity} {2 * value}, or a higher learning rate"
            )
        return "plateau: the training loss stopped falling while still high: try a higher learning rate"
    return "the loss was still falling at the end: try more epochs"


def _thirds(training: Curve) -> list[list[float]]:
    """Return the losses in three parts of equal length; nothing where they are too few."""
    losses = [loss for _, loss in training]
    if len(losses) < FEWEST_STEPS:
        return []
    size = len(losses) // 3
    return [losses[:size], losses[size : 2 * size], losses[2 * size :]]


def _falls(before: list[float], after: list[float]) -> bool:
    return fmean(after) < (1 - FALL) * fmean(before) and _differ(before, after)


def _differ(one: list[float], other: list[float]) -> bool:
    """Say whether the means differ by more than their noise explains (Welch's statistic over `SIGMAS`)."""
    noise = math.sqrt(variance(one) / len(one) + variance(other) / len(other))
    return abs(fmean(one) - fmean(other)) > SIGMAS * noise
