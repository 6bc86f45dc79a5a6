"""Judges how well the rows that a model was trained on can be told from rows that it never saw.

A row's score is by how much its loss (nats a token) fell from base to tuned model: the base tells how hard
the row is anyway (calibration, after Watson et al., "On the importance of difficulty calibration in
membership inference attacks", ICLR 2022). The AUC is the chance that a row trained on scores above a held-out
one, a tie counting half; 0.5 is chance. Pure, without torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from ft_dagster.gate.gaffke import lower_bound
from ft_dagster.gate.level import level_of
from ft_dagster.gate.power import PairedTest
from ft_dagster.gate.samples import MEMBERS, OTHERS, Role, Sample
from ft_dagster.lineage.verdict import Outcome, Rule
from ft_dagster.spec.reference import LEAST
from ft_dagster.spec.variant import GatesSpec, VariantSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

NAME: Role = "membership"
AUC = "membership_auc"
CHANCE = 0.5
RATE, LEAST_HELD_OUT = 0.01, 500  # of false alarms, and held-out rows that tell who raises so few


@dataclass(frozen=True)
class Scored:
    """Holds the scores of the rows of one side, and the group of each; a row without one stands alone."""

    scores: Array
    groups: tuple[str, ...]


@dataclass(frozen=True)
class Membership:
    """Holds what the attack found. `low`, `high`: interval of the AUC at `confidence` = 1 - 2 level.
    `trained_on`, `held_out`: rows of each side; `units`: independent comparisons, with the variance of one
    (`spread`) and how many of the largest they amount to (`weight`). `tpr`: the share of the rows trained on
    that score above all but 1% of the held-out ones; None below 500 of these.
    """

    auc: float
    low: float
    high: float
    confidence: float
    trained_on: int
    held_out: int
    units: int
    tpr: float | None
    spread: float
    weight: float

    def to_json(self) -> dict[str, object]:
        """Return plain JSON; a figure that is not a finite number becomes null."""
        content = asdict(self).items()
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in content
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Membership:
        known = {name: math.nan if value is None else value for name, value in content.items()}
        return cls(**{**known, "tpr": content["tpr"]})

    def rows_needed(self, limit: float) -> int | None:
        """Return about how many rows of each side would tell this AUC from the limit, power 0.8; None: no
        number would.
        """
        gap, fewer = abs(limit - self.auc), min(self.trained_on, self.held_out)
        if not (math.isfinite(gap) and gap >= LEAST) or not self.weight:
            return None
        return max(math.ceil(self._test.questions_needed(gap) * fewer / self.weight), fewer + 1)

    @property
    def seen(self) -> float:
        """Return by how much a limit must lie above the AUC so that these rows show it, power 0.8; inf where
        there are none.
        """
        return self._test.margin_seen(self.weight) if self.units else math.inf

    @property
    def _test(self) -> PairedTest:
        return PairedTest(self.spread, 1.0, alpha=(1 - self.confidence) / 2)


def membership_of(base: Sequence[Sample], tuned: Sequence[Sample], level: float) -> Membership | None:
    """Return how well the rows are told apart, by the losses that both models have of them; None where none
    were asked for. All is not a number where a loss is not, or one side has no row.
    """
    import numpy as np

    asked = [_losses(side) for side in (base, tuned)]
    if not asked[1]:
        return None
    sides = {}
    for task in (MEMBERS, OTHERS):
        both = [one for name, one in asked[1].items() if one.task == task and name in asked[0]]
        fell = np.array([asked[0][one.question].value - one.value for one in both], float)
        names = (one.question if one.group is None else f"group {one.group}" for one in both)
        sides[task] = Scored(fell, tuple(names))
    return told_apart(sides[MEMBERS], sides[OTHERS], level)


def told_apart(trained: Scored, held: Scored, level: float) -> Membership:
    """Return the AUC with an interval that holds at `level` on each side, for scores of every kind.

    Each unit of the smaller side (a row, or the rows of a group) is compared with units of the other side of
    its own, so that the shares of comparisons won are independent: Gaffke's test is of their mean.
    """
    import numpy as np

    counts, confidence = (len(trained.scores), len(held.scores)), 1 - 2 * level
    if not min(counts) or not np.isfinite(np.concatenate([trained.scores, held.scores])).all():
        nan = math.nan
        return Membership(nan, nan, nan, confidence, *counts, 0, None, nan, 0.0)
    won, pairs = _compared(trained, held)
    shares = won / pairs
    auc, weights = auc_of(trained.scores, held.scores), pairs / pairs.max()
    weight, mean = float(weights.sum()), float(won.sum() / pairs.sum())
    # The estimate is of all pairs, the interval of those that are independent: it is made to hold both.
    low = min(auc, lower_bound(shares, pairs, 0.0, level=level))
    high = max(auc, 1 - lower_bound(1 - shares, pairs, 0.0, level=level))
    spread = float(np.square(weights * (shares - mean)).sum() / weight)
    tpr = tpr_of(trained.scores, held.scores) if counts[1] >= LEAST_HELD_OUT else None
    return Membership(auc, low, high, confidence, *counts, len(shares), tpr, spread, weight)


def auc_of(trained: Array, held: Array) -> float:
    """Return the share of all pairs in which the row trained on scores higher, a tie counting half."""
    from scipy.stats import rankdata

    ranks = rankdata([*trained, *held])[: len(trained)]
    return float((ranks.sum() - len(trained) * (len(trained) + 1) / 2) / (len(trained) * len(held)))


def tpr_of(trained: Array, held: Array) -> float:
    """Return the share of rows trained on that score above all held-out rows but 1%, rounded down."""
    import numpy as np

    allowed = int(RATE * len(held))
    return float((trained > np.sort(held)[::-1][allowed]).mean())


def _compared(trained: Scored, held: Scored) -> tuple[Array, Array]:
    """Return for each independent comparison how many of its pairs are won, and how many there are."""
    import numpy as np

    sides = [_units(side) for side in (trained, held)]
    count = min(map(len, sides))
    found = []
    for place in range(count):
        one, other = (np.concatenate(units[place::count]) for units in sides)
        above = (one[:, None] > other).sum() + (one[:, None] == other).sum() / 2
        found.append((above, len(one) * len(other)))
    won, pairs = zip(*found, strict=True)
    return np.array(won, float), np.array(pairs, float)


def _units(side: Scored) -> list[Array]:
    """Return the scores of each group, in an order that says nothing of them: that of a hash of its name."""
    import numpy as np

    from ft_dagster.gate.sampling import in_drawn_order

    groups: dict[str, list[float]] = {}
    for group, score in zip(side.groups, side.scores, strict=True):
        groups.setdefault(group, []).append(score)
    scores, order = list(groups.values()), in_drawn_order(list(groups), 0)
    return [np.array(scores[number]) for number in order]


def _losses(samples: Sequence[Sample]) -> dict[str, Sample]:
    return {sample.question: sample for sample in samples if sample.role == NAME}


def membership_rules(
    base: Sequence[Sample], tuned: Sequence[Sample], gates: GatesSpec, level: float
) -> tuple[Rule, ...]:
    """Hold the interval of the AUC against the declared limit, where there is one. Too few rows leave the
    rule undecided, and that passes nowhere: `gates.undecided` is of measured changes.
    """
    limit = gates.max_membership_auc
    if limit is None:
        return ()
    found = membership_of(base, tuned, level)
    if found is None:
        nan = math.nan
        found = Membership(nan, nan, nan, 1 - 2 * level, 0, 0, 0, None, nan, 0.0)
    outcome = _outcome(found, limit)
    needed = found.rows_needed(limit) if outcome == "undecided" else None
    return (
        Rule(
            rule="membership",
            task=MEMBERS,
            metric=AUC,
            base=CHANCE,
            tuned=found.auc,
            difference=found.auc - CHANCE,
            interval=(found.low - CHANCE, found.high - CHANCE),
            margin=limit - CHANCE,
            questions=min(found.trained_on, found.held_out),
            higher_is_better=False,
            passed=outcome == "pass",
            sentence=f"{auc_words(found)}; at most {limit:g} is allowed: {_why(found, outcome, needed)}",
            outcome=outcome,
            confidence=found.confidence,
            harm=1.0,
            seen=found.seen,
            needed=needed,
            units=found.units,
            within=found.auc <= limit,
            blocked=_NOTHING if outcome == "undecided" and not found.units else "",
        ),
    )


def few_held_out(spec: VariantSpec, test_rows: int) -> tuple[str, ...]:
    """Warn, before a training, where a model that kept nothing would hardly be shown to lie below the limit:
    a test split of so many rows, and as many training rows as are asked, taken to be unlike each other.
    """
    limit, asked = spec.gates.max_membership_auc, spec.evaluation.membership
    if limit is None or not asked:
        return ()
    test = PairedTest(1 / 4, 1.0, alpha=level_of(spec.gates.alpha))
    held, needed = min(asked, test_rows // spec.evaluation.sets), test.questions_needed(limit - CHANCE)
    # A held-out row is compared with several training rows, where there are more of these.
    test = replace(test, spread=1 / 12 + 1 / (6 * max(1, asked // max(1, held))))
    if test.would_show(limit - CHANCE, held):
        return ()
    return (
        f"gates.max_membership_auc {limit:g} will hardly be decided by {held:,} held-out rows, even of a "
        f"model that kept nothing: about {needed:,} of each side would (evaluation.membership, "
        "data.splits.test)",
    )


_NOTHING = "nothing could be compared: there are no rows trained on, or none held out that are unlike them"


def _outcome(found: Membership, limit: float) -> Outcome:
    if found.high < limit:
        return "pass"
    not_a_number = not math.isfinite(found.auc) and bool(found.trained_on and found.held_out)
    return "fail" if found.low > limit or not_a_number else "undecided"


def _why(found: Membership, outcome: Outcome, needed: int | None) -> str:
    if not math.isfinite(found.auc):
        return "a loss is not a number, which never passes" if outcome == "fail" else _NOTHING
    if outcome == "pass":
        return "a larger one is ruled out"
    if outcome == "fail":
        return "a larger one is shown"
    said = f"undecided, since up to {found.high:.3f} is possible"
    return said if needed is None else f"{said}; about {needed:,} rows of each side would decide"


def auc_words(found: Membership) -> str:
    """Return what the attack found, in words, without what it means."""
    rows = f"{found.trained_on:,} rows trained on and {found.held_out:,} held out"
    if not math.isfinite(found.auc):
        return f"membership inference on {rows} found no AUC"
    said = f"membership inference on {rows}: AUC {found.auc:.3f} ({100 * found.confidence:.3g}% interval "
    said += f"{found.low:.3f} to {found.high:.3f})"
    if found.tpr is None:
        return f"{said}; how many are told at 1% false alarms is said from {LEAST_HELD_OUT} held-out rows up"
    return f"{said}; {100 * found.tpr:.1f}% of those trained on are told at 1% false alarms"


MEANING = (
    "An AUC of 0.5 means that this attack, which compares how far the loss of each row fell, tells training "
    "rows from unseen ones no better than a coin; 1 means always. It is what one attack finds on average: a "
    "stronger one may find more, and a few memorized rows may hide among many"
)
