"""Tests two models that answered the same questions: not worse than a margin, worse at all, and Holm.

Not worse, for values of any kind within bounds, right-or-wrong answers among them: Gaffke's test (`gaffke`).
Worse at all: sign flips, which for answers are McNemar's exact test. Questions of one group are one unit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from ft_dagster.gate.gaffke import lower_bound
from ft_dagster.gate.groups import BY_SIZE, Counting, are_unlike, units_of
from ft_dagster.gate.power import LOSS_BOUND, PairedTest, least_questions
from ft_dagster.lineage.verdict import Tail
from ft_dagster.spec.reference import LEAST

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

FLIPS, LARGEST_DRAW = 10_000, 20_000_000  # sign flips, and signs drawn for all of them
FLIPS_AT_ONCE = 500
TOLERANCE = 1e-9
SEED = 20240229


class Allowed(NamedTuple):
    """Says what a rule allows: a fall of `margin` is to be ruled out, and at most `measured` may be measured.
    Of a loss: fewer than the share `tail` of the texts may rise by more than 2 nats, whatever each counts up
    to.
    """

    margin: float
    measured: float
    tail: float | None = None

    def least(self, bound: float, level: float) -> int:
        """Return the number of questions from which on it can be shown at all; `bound`: by how much one
        answer can change.
        """
        mean = least_questions(self.margin, bound=bound, alpha=level)
        return mean if self.tail is None else max(mean, least_questions(self.tail, alpha=level))


@dataclass(frozen=True)
class Comparison:
    """Says how much better the second of two models is, in the metric's unit; below 0 it is worse.

    `improvement`: the mean change as measured; `counted`: with each question's change within the bound.
    `low`, `high`: interval of confidence 1 - 2 level of the counted change, so that a fall beyond a margin is
    ruled out at that level exactly where `low` is above -margin. `harm`: one-sided p that nothing fell.
    `seen`: the smallest fall that so many questions show with power 0.8. `spread`: variance of one question's
    change. `units`: independent groups of questions; `weight`: how many of the largest they amount to.
    `tail`: of a loss, the texts that rise by more than 2 nats. `sizes`: of the
    units, where they are unlike.
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
    tail: Tail | None = None
    sizes: Array | None = field(default=None, compare=False, repr=False)

    @property
    def measured(self) -> float:
        """Return the change that counts where the measured one has to do: the worse of both."""
        return min(self.improvement, self.counted)

    def mean_holds(self, allowed: Allowed) -> bool:
        """Say whether a mean fall of the margin is ruled out, and the measured one is within what is allowed,
        with a hair of tolerance: a mean of shares is rarely the decimal that the margin was written as.
        """
        return self.low > -allowed.margin and -self.measured <= allowed.measured + TOLERANCE

    def holds(self, allowed: Allowed) -> bool:
        """Say whether what is allowed is shown: at the level, for both have to be."""
        return self.mean_holds(allowed) and (self.tail is None or self.tail.shown)

    def within(self, allowed: Allowed) -> bool:
        """Say whether what was measured is within what is allowed."""
        few = self.tail is None or self.tail.share <= self.tail.allowed + TOLERANCE
        return few and -self.measured <= allowed.measured + TOLERANCE

    def needed(self, allowed: Allowed, *, level: float) -> int | None:
        """Return how many questions like these would show what is not shown, power 0.8, if what was measured
        is true; None: no number would.

        A fall beyond the margin is to be ruled out; without a margin, or where the change lies beyond it, the
        change itself is to be told from none.
        """
        margin, found = allowed.margin, list[int | None]()
        if self.low <= -margin:
            gap = margin - max(-self.measured, 0.0) if margin else 0.0
            gap = gap if gap > 0 else abs(self.measured)
            found.append(self._asked_for(gap, self.spread, self.bound, level, self.weight))
        if self.tail is not None and not self.tail.shown:
            share, left = self.tail.share, self.tail.allowed - self.tail.share
            found.append(self._asked_for(left, share * (1 - share), 1.0, level, self.units))
        known = [count for count in found if count is not None]
        return max(known) if known and len(known) == len(found) else None

    def _asked_for(
        self, gap: float, spread: float, bound: float | None, level: float, count: float
    ) -> int | None:
        """Return how many questions show a value so far from what is allowed, where these amount to `count`
        units.
        """
        if bound is None or not (math.isfinite(gap) and gap >= LEAST):
            return None
        units = PairedTest(spread, bound, alpha=level).questions_needed(min(gap, bound))
        return max(math.ceil(units * self.questions / count), self.questions + 1)


def compare_paired(
    better: Array,
    groups: Sequence[str | None],
    *,
    bound: float | None,
    level: float,
    tail: float | None = None,
    counting: Counting = BY_SIZE,
) -> Comparison:
    """Compare by each question's change, positive where better, all finite.

    `bound`: what a change can be at most; one beyond it counts as `bound`. None: no bound is known, and no
    interval can be given. `groups`: questions of one name depend on each other; None stands alone. `tail`:
    the share that may fall by more than LOSS_BOUND; None: they are not counted. `counting`: how the groups
    count; built in, each question counts alike.
    """
    import numpy as np

    held = better if bound is None else np.clip(better, -bound, bound)
    sums, sizes = units_of(held, groups)
    improvement, counted = float(better.mean()), float(held.mean())
    means, unlike = sums / sizes, sizes if are_unlike(sizes, counting) else None
    if counting.weights == "group":
        improvement, counted = counting.mean(better, groups), float(means.mean())
        sums, sizes = means, np.ones(len(means))
    largest = counting.largest_of(sizes)
    share = sizes / largest
    weight = float(share.sum())
    spread = float(np.square(share * (means - counted)).sum() / weight)
    low, high, seen = -math.inf, math.inf, math.inf
    if bound is not None:
        low = lower_bound(means, sizes, -bound, level=level, largest=largest)
        high = -lower_bound(-means, sizes, -bound, level=level, largest=largest)
        seen = PairedTest(spread, bound, alpha=level).margin_seen(weight)
    return Comparison(
        improvement=improvement,
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
        tail=None if tail is None else _tail(better < -LOSS_BOUND, groups, tail, level),
        sizes=unlike,
    )


def _tail(fell: NDArray[np.bool_], groups: Sequence[str | None], allowed: float, level: float) -> Tail:
    """Count the units with a question that fell by more than LOSS_BOUND. The bound is Clopper and Pearson's,
    and p the binomial one.
    """
    from scipy.stats import beta, binom

    sums, _ = units_of(fell.astype(float), groups)
    count, number = len(sums), int((sums > 0).sum())
    high = 1.0 if number == count else float(beta.ppf(1 - level, number + 1, count - number))
    return Tail(number / count, high, allowed, float(binom.sf(number - 1, count, allowed)))


def not_a_number(questions: int) -> Comparison:
    """Return the comparison of values that are no numbers: worse, for certain."""
    nan = math.nan
    return Comparison(nan, nan, nan, nan, 0.0, nan, nan, questions, questions, questions, None)


def harm_of(sums: Array) -> float:
    """Return the one-sided p of so large a fall, were each unit's change as likely to be its opposite.

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
    """Return the one-sided exact McNemar p of so many lost among those that differ, were a loss as likely as
    a gain.

    Counts may be arrays.
    """
    from scipy.stats import binom

    return binom.sf(lost - 1, gained + lost, 0.5)


def holm(values: Any) -> Any:
    """Return Holm's adjusted p values over the last axis (Scandinavian Journal of Statistics 6 (1979) 65)."""
    import numpy as np

    values = np.asarray(values, float)
    count, order = values.shape[-1], np.argsort(values, axis=-1)
    stepped = np.take_along_axis(values, order, -1) * np.arange(count, 0, -1)
    adjusted = np.minimum(1.0, np.maximum.accumulate(stepped, axis=-1))
    result = np.empty_like(adjusted)
    np.put_along_axis(result, order, adjusted, -1)
    return result
