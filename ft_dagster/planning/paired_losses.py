"""Compares two trainings in loss, paired by the examples that both measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

ByExample = Sequence[Sequence[float]]  # (summed loss, trained tokens) of each example
CONFIDENCE = 0.95


class LossDifference(NamedTuple):
    """Holds nats a token, with an interval of `CONFIDENCE`; below 0 where the first is better."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        interval = f"{CONFIDENCE:.0%} interval {self.low:+.3f} to {self.high:+.3f}"
        return f"{self.value:+.3f} nats a token ({interval})"


def difference(one: ByExample, other: ByExample, count: int) -> LossDifference | None:
    """Return the difference over the first `count` examples, the same of both; None where either was not
    measured by example.

    The ratio of two sums, the loss's over the tokens', with the spread between examples: those of one answer
    are not taken for independent.
    """
    from scipy.stats import t

    if count < 2 or min(len(one), len(other)) < count:
        return None
    (losses, tokens), (others, _) = (np.array(each[:count], np.float64).T for each in (one, other))
    changes, whole = losses - others, max(1.0, float(tokens.sum()))
    value = float(changes.sum()) / whole
    left = float(np.square(changes - value * tokens).sum())
    reach = float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * math.sqrt(left * count / (count - 1)) / whole
    return LossDifference(value, value - reach, value + reach)
