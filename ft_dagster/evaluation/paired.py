"""Tests for two models that answered the same questions: not worse than a margin, worse at all, and Holm.

Not worse, for values of any kind within bounds, right-or-wrong answers among them: Gaffke's test (`bounded`).
Worse at all: sign flips, which for answers are McNemar's exact test. Questions of one group are one unit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ft_dagster.evaluation.bounded import lower_bound
from ft_dagster.evaluation.power import margin_seen, questions_needed
from ft_dagster.spec.variant import LEAST

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

FLIPS, LARGEST_DRAW = 10_000, 20_000_000  # sign flips, and signs drawn for all of them
FLIPS_AT_ONCE = 500
SEED = 20240229


@dataclass(frozen=True)
class Comparison:
    """How much better the second of two models is, in the metric's unit; below 0 it is worse.

    `improvement`: the mean change as measured; `counted`: with each question's change within the bound.
    `low`, `high`: interval of confidence 1 - 2 level of the counted change, so that a fall beyond a margin is
    ruled out at that level exactly where `low` is above -margin. `harm`: one-sided p that nothing fell.
    `seen`: the smallest fall that so many questions show with power 0.8. `spread`: variance of one question's
    change. `units`: independent groups of questions; `weight`: how many of the largest they amount to.
    """

    improvement: float
    counted: float
    low: float
    high: float
    harm: float
    seen: float
    spread: float
    questions: int
    units: int
    weight: float
    bound: float | None

    @property
    def measured(self) -> float:
        """The change that counts where the measured one has to do: the worse of both."""
        return min(self.improvement, self.counted)

    def needed(self, margin: float, *, level: float) -> int | None:
        """Questions like these that would show it, power 0.8, if the measured change is true; None: none.

        A fall beyond `margin` is to be ruled out; without a margin, or where the change lies beyond it, the
        change itself is to be told from none.
        """
        gap = margin - max(-self.measured, 0.0) if margin else 0.0
        gap = gap if gap > 0 else abs(self.measured)
        if self.bound is None or not (math.isfinite(gap) and gap >= LEAST):
            return None
        units = questions_needed(min(gap, self.bound), spread=self.spread, bound=self.bound, alpha=level)
        return max(math.ceil(units * self.questions / self.weight), self.questions + 1)


def compare_paired(
    better: Array, groups: Sequence[str | None], *, bound: float | None, level: float
) -> Comparison:
    """Compare by each question's change, positive where better, all finite.

    `bound`: what a change can be at most; one beyond it counts as `bound`. None: no bound is known, and no
    interval can be given. `groups`: questions of one name depend on each other; None stands alone. The mean
    is that of the questions, each counting alike.
    """
    import numpy as np

    held = better if bound is None else np.clip(better, -bound, bound)
    sums, sizes = _units(held, groups)
    means, share = sums / sizes, sizes / sizes.max()
    weight, counted = float(share.sum()), float(held.mean())
    spread = float(np.square(share * (means - counted)).sum() / weight)
    low, high, seen = -math.inf, math.inf, math.inf
    if bound is not None:
        low = lower_bound(means, sizes, -bound, level=level)
        high = -lower_bound(-means, sizes, -bound, level=level)
        seen = margin_seen(weight, spread=spread, bound=bound, alpha=level)
    return Comparison(
        improvement=float(better.mean()),
        counted=counted,
        low=low,
        high=high,
        harm=harm_of(sums),
        seen=seen,
        spread=spread,
        questions=len(better),
        units=len(sums),
        weight=weight,
        bound=bound,
    )


def not_a_number(questions: int) -> Comparison:
    """Of values that are no numbers: worse, for certain."""
    nan = math.nan
    return Comparison(nan, nan, nan, nan, 0.0, nan, nan, questions, questions, questions, None)


def harm_of(sums: Array) -> float:
    """One-sided p of so large a fall, were each unit's change as likely to be its opposite.

    `sums`: the summed changes of each unit. Fisher's randomization test: exact where all that changed did so
    by the same amount (McNemar's test then), else by seeded draws, which count the measured one too.
    """
    import numpy as np

    changed = sums[sums != 0]
    if not len(changed):
        return 1.0
    sizes = np.abs(changed)
    if np.allclose(sizes, sizes[0], rtol=1e-12, atol=0):
        return float(harm_of_answers(int((changed > 0).sum()), int((changed < 0).sum())))
    draw, as_low = np.random.default_rng(SEED), 0
    batches = max(2, min(FLIPS, LARGEST_DRAW // len(sizes)) // FLIPS_AT_ONCE)
    limit = changed.sum() + 1e-6 * sizes.sum()  # ties count, whatever they are rounded to
    for _ in range(batches):
        drawn = np.frombuffer(draw.bytes(FLIPS_AT_ONCE * -(-len(sizes) // 8)), np.uint8)
        bits = np.unpackbits(drawn.reshape(FLIPS_AT_ONCE, -1), axis=1)[:, : len(sizes)]
        totals = (2 * bits.astype(np.float32) - 1) @ sizes.astype(np.float32)
        as_low += int((totals <= limit).sum())
    return (as_low + 1) / (batches * FLIPS_AT_ONCE + 1)


def harm_of_answers(gained: Any, lost: Any) -> Any:
    """One-sided exact McNemar: p of so many lost among those that differ, were a loss as likely as a gain.

    Counts may be arrays.
    """
    from scipy.stats import binom

    return binom.sf(lost - 1, gained + lost, 0.5)


def holm(values: Any) -> Any:
    """Holm's adjusted p values over the last axis (Scandinavian Journal of Statistics 6 (1979) 65)."""
    import numpy as np

    values = np.asarray(values, float)
    count, order = values.shape[-1], np.argsort(values, axis=-1)
    stepped = np.take_along_axis(values, order, -1) * np.arange(count, 0, -1)
    adjusted = np.minimum(1.0, np.maximum.accumulate(stepped, axis=-1))
    result = np.empty_like(adjusted)
    np.put_along_axis(result, order, adjusted, -1)
    return result


def _units(values: Array, groups: Sequence[str | None]) -> tuple[Array, Array]:
    """The sum and the number of the values of each independent unit."""
    import numpy as np

    if all(group is None for group in groups):
        return values, np.ones(len(values))
    names = [(0, n) if group is None else (1, group) for n, group in enumerate(groups)]
    numbers = {name: n for n, name in enumerate(dict.fromkeys(names))}
    at = np.array([numbers[name] for name in names])
    sums, sizes = np.bincount(at, values), np.bincount(at)
    return sums.astype(float), sizes.astype(float)
