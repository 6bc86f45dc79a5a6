"""Tests for two models that answered the same questions: not worse than a margin, worse at all, and Holm.

Right-or-wrong answers: Tango's score test and interval of a difference of paired proportions (Statistics in
Medicine 17 (1998) 891), and the exact one-sided McNemar test. Other values, such as the loss of each text:
t on the weighted mean of the differences. Counts may be arrays, as the simulation in benchmarks/ has them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ft_dagster.evaluation.power import errors_apart, margin_seen, questions_needed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """How much better the second of two models is, in the metric's unit; below 0 it is worse.

    `low`, `high`: interval of confidence 1 - 2 alpha, so that a fall beyond a margin is ruled out at level
    alpha exactly where `low` is above -margin. `harm`: one-sided p that nothing fell. `seen`: the smallest
    fall that so many questions show with power 0.8. `spread`: variance of one question's difference, which
    for right-or-wrong answers is the share that differs.
    """

    improvement: float
    low: float
    high: float
    harm: float
    seen: float
    spread: float
    questions: int
    right_or_wrong: bool

    def needed(self, gap: float, *, alpha: float) -> int | None:
        """Questions like these that tell a difference from one `gap` away, power 0.8; None: no number."""
        if not (math.isfinite(self.spread) and math.isfinite(gap) and gap > 0):
            return None
        if self.right_or_wrong and gap <= 1:
            count = questions_needed(gap, discordant=self.spread, alpha=alpha)
        else:
            count = math.ceil((errors_apart(alpha=alpha) / gap) ** 2 * self.spread)
        return max(count, self.questions + 1)


def compare_paired(
    base: Array, tuned: Array, weights: Array, *, higher_is_better: bool, right_or_wrong: bool, alpha: float
) -> Comparison:
    """Compare by the test that the values ask for. All arrays have one element a question, all finite."""
    better = (tuned - base) * (1 if higher_is_better else -1)
    if right_or_wrong:
        gained, lost = int((better > 0).sum()), int((better < 0).sum())
        return compare_answers(gained, lost, len(better), alpha=alpha)
    return compare_values(better, weights, alpha=alpha)


def compare_answers(gained: int, lost: int, questions: int, *, alpha: float) -> Comparison:
    """From the number of answers that became right, of those that became wrong, and of all."""
    low, high = answer_interval(gained, lost, questions, alpha=alpha)
    # One of each added: no difference among a few answers is not proof that there are none.
    discordant = min(1.0, (gained + lost + 1) / (questions + 2))
    return Comparison(
        improvement=(gained - lost) / questions,
        low=low,
        high=high,
        harm=float(harm_of_answers(gained, lost)),
        seen=margin_seen(questions, discordant=discordant, alpha=alpha),
        spread=discordant,
        questions=questions,
        right_or_wrong=True,
    )


def compare_values(better: Array, weights: Array, *, alpha: float) -> Comparison:
    """From each question's difference, positive where better, and its weight (tokens of a text).

    t on the weighted mean, whose variance is the weighted variance over Kish's effective number of questions,
    (sum w)^2 / sum w^2 (Survey Sampling, 1965, 11.7), and which has one degree of freedom less. Equal weights
    give the paired t test. One question tells nothing.
    """
    import numpy as np
    from scipy.stats import t

    count, mean = len(better), float(np.average(better, weights=weights))
    effective = float(np.sum(weights) ** 2 / np.sum(weights**2))
    if count < 2 or effective - 1 < 1e-9:
        return Comparison(mean, -math.inf, math.inf, 1.0, math.inf, math.inf, count, False)
    variance = float(np.average((better - mean) ** 2, weights=weights)) * effective / (effective - 1)
    error, freedom = math.sqrt(variance / effective), effective - 1
    reach = float(t.ppf(1 - alpha, freedom)) * error
    harm = float(t.cdf(mean / error, freedom)) if error else float(mean >= 0)
    seen = errors_apart(alpha=alpha) * error
    return Comparison(mean, mean - reach, mean + reach, harm, seen, error**2 * count, count, False)


def score(gained: Any, lost: Any, questions: int, margin: Any) -> Any:
    """Tango's Z of the hypothesis that the share of right answers fell by `margin` or more; large: no.

    Counts and margin may be arrays. Without any variance (nothing differs and the margin is 0, or the margin
    is 1) it is infinite with the sign of the distance, else 0.
    """
    import numpy as np

    shift = -np.asarray(margin, float)
    linear = -gained - lost + (2 * questions - gained + lost) * shift
    constant = -lost * shift * (1 - shift)
    wrong = (np.sqrt(np.maximum(0, linear**2 - 8 * questions * constant)) - linear) / (4 * questions)
    variance = questions * (2 * wrong + shift * (1 - shift))
    distance = gained - lost - questions * shift
    with np.errstate(divide="ignore", invalid="ignore"):
        z = distance / np.sqrt(np.maximum(0, variance))
    certain = np.where(np.abs(distance) > 1e-9, np.copysign(np.inf, distance), 0.0)
    return np.where(variance > 1e-9, z, certain)


def not_worse(gained: Any, lost: Any, questions: int, margin: float, *, alpha: float) -> Any:
    """Whether a fall of `margin` or more is ruled out at level `alpha`. Counts may be arrays."""
    from scipy.stats import norm

    return score(gained, lost, questions, margin) > norm.ppf(1 - alpha)


def answer_interval(gained: int, lost: int, questions: int, *, alpha: float) -> tuple[float, float]:
    """The differences that the score test of level `alpha` does not rule out, one-sided on either end."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    limit, edge = float(norm.ppf(1 - alpha)), 1 - 1e-9

    def end(sign: int) -> float:
        def excess(difference: float) -> float:
            return float(score(gained, lost, questions, -difference)) - sign * limit

        found = (gained - lost) / questions
        outer = -edge if sign > 0 else edge
        inner = min(edge, max(-edge, found))
        if abs(inner) == edge and math.copysign(1, inner) == math.copysign(1, outer):
            return math.copysign(1.0, outer)
        if excess(outer) * excess(inner) > 0:
            return math.copysign(1.0, outer)
        return float(brentq(excess, outer, inner, xtol=1e-9))

    return end(1), end(-1)


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
