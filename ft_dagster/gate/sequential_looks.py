"""Plans the questions asked batch after batch, and when a gate may look: `evaluation.limit: auto`.

A rule looks at its questions after some of the batches, each time at a share of its level, and is decided at
the first look that shows anything. The shares add up to 1, so that by the union bound a fall as large as the
margin passes at any of the looks as rarely as at one of the whole level, whatever the tests are of, however
the looks depend on each other, and whoever ends the asking early.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ft_dagster.gate.paired import Allowed, Comparison
from ft_dagster.gate.pairing import Paired, TaskKey, by_task
from ft_dagster.gate.power import PairedTest, least_questions
from ft_dagster.gate.samples import Role, Sample
from ft_dagster.gate.sampling import order_of_asking
from ft_dagster.spec.variant import MOST_QUESTIONS

IN_BATCHES: tuple[Role, ...] = ("task", "test_split_task", "general", "general_loss")
RUNGS = (60, 90, 135, 200, 300, 450, 700, 1000, 1400, MOST_QUESTIONS)
LAST_STEP = 0.75  # the batch before the last ends at most here


class Look(NamedTuple):
    """Places a look after so many questions, at such a share of the level."""

    questions: int
    share: float


def batches(there: int) -> tuple[int, ...]:
    """Return how many questions have been asked after each batch, of so many that there are."""
    return (*(rung for rung in RUNGS if rung <= LAST_STEP * there), there)


def looks_of(there: int, least: int = 1) -> tuple[Look, ...]:
    """Return the looks of a rule that can pass from `least` questions on; the last sees all that there are.

    The shares are as the roots of the numbers of questions: of those tried in `benchmarks/sequential.py`,
    they ask the fewest.
    """
    rungs = [rung for rung in batches(there) if rung >= least] or [there]
    total = sum(rung**0.5 for rung in rungs)
    return tuple(Look(rung, rung**0.5 / total) for rung in rungs)


@dataclass(frozen=True)
class Order:
    """Holds the questions of each task that is asked in batches, in the order in which they are asked."""

    questions: Mapping[TaskKey, tuple[str, ...]]

    @classmethod
    def of(cls, base: Iterable[Sample], seed: int) -> Order:
        """Order the questions of `base`: samples of a model that was asked all of them."""
        found = {}
        for key, metrics in by_task(base, roles=IN_BATCHES).items():
            asked = dict.fromkeys(question for samples in metrics.values() for question in samples)
            found[key] = tuple(order_of_asking(list(asked), seed))
        return cls(found)


class LookedAt(NamedTuple):
    """Holds what the looks came to. `paired`, `comparison`, `level`: of the last of them; `p`: of no fall,
    over all of them; `look`: its number of so many, 0 before the first; `passed`: whether a fall of the
    margin is ruled out there; `decided`: whether nothing is left to be asked.
    """

    paired: Paired
    comparison: Comparison
    level: float
    p: float
    look: tuple[int, int]
    passed: bool
    decided: bool


def look_on(paired: Paired, order: Sequence[str], allowed: Allowed, *, level: float, harm: float) -> LookedAt:
    """Look at the questions of a task until a look decides, or the questions asked are at an end.

    It decides where a fall beyond what is `allowed` is ruled out, and where a fall is shown that the
    questions left would not show to lie within the margin. `level`: of the rule, over all looks; `harm`: the
    p at which a fall is shown.
    """
    looks = looks_of(len(order), allowed.least(paired.scale or 1.0, level))
    alone = level * looks[0].share
    comparison = paired.compare(alone, allowed.tail)
    seen = LookedAt(paired, comparison, alone, 1.0, (0, len(looks)), passed=False, decided=False)
    fell, rose = 1.0, 1.0  # over the looks so far: p of no fall in the mean, and of no more than the tail
    for number, look in enumerate(looks, 1):
        if look.questions > paired.answered:
            break
        part = paired.first(look.questions).out_of(len(order))
        if not len(part.base):  # none of them has the metric
            continue
        alone = level * look.share
        comparison = part.compare(alone, allowed.tail)
        fell = min(fell, comparison.harm / look.share)
        rose = min(rose, comparison.tail.harm / look.share) if comparison.tail is not None else rose
        passed = comparison.holds(allowed)
        falls = fell < harm and not _may_pass(comparison, allowed.margin, looks[-1], level)
        decided = passed or falls or look == looks[-1]
        p = harm_shown(comparison, allowed, fell, rose)
        seen = LookedAt(part, comparison, alone, p, (number, len(looks)), passed, decided)
        if decided:
            break
    return seen


def harm_shown(comparison: Comparison, allowed: Allowed, fell: float, rose: float) -> float:
    """Return the p of harm: of a mean that fell, or of texts that rose by more than 2 nats where the mean
    holds and these do not.
    """
    tail = comparison.tail
    return rose if tail is not None and not tail.shown and comparison.mean_holds(allowed) else fell


def expected_questions(margin: float, alpha: float) -> float:
    """Return about how many questions are asked in the mean of a model that lost nothing."""
    mean, decided = 0.0, 0.0
    for look in looks_of(MOST_QUESTIONS, least_questions(margin, alpha=alpha)):
        power = PairedTest(alpha=alpha * look.share).power_of(margin, look.questions)
        by_now = 1.0 if look.questions == MOST_QUESTIONS else max(decided, power)
        mean, decided = mean + look.questions * (by_now - decided), by_now
    return mean


def _may_pass(comparison: Comparison, margin: float, last: Look, level: float) -> bool:
    """Say whether the last look would show that a fall as large as the measured one is within the margin."""
    left = margin + comparison.measured
    units = last.questions * comparison.weight / comparison.questions
    if comparison.bound is None:
        return False
    return PairedTest(comparison.spread, comparison.bound, alpha=level * last.share).would_show(left, units)
