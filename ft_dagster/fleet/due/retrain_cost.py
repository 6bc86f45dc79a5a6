"""Counts the cost of a retrain in device hours and US dollars, and estimates it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

UNKNOWN_HOURS = 1.0  # of a retrain where nothing was planned or has finished anywhere
LEAST_RATIO, LARGEST_RATIO = 0.1, 10.0  # a training that was stopped, or waited, corrects no further


class Amount(NamedTuple):
    """Counts a cost. `hours`: of one device; `usd`: US dollars."""

    hours: float = 0.0
    usd: float = 0.0

    def plus(self, other: Amount) -> Amount:
        return Amount(self.hours + other.hours, self.usd + other.usd)

    def minus(self, other: Amount) -> Amount:
        return Amount(self.hours - other.hours, self.usd - other.usd)

    def times(self, share: float) -> Amount:
        return Amount(self.hours * share, self.usd * share)

    def least(self, other: Amount) -> Amount:
        return Amount(min(self.hours, other.hours), min(self.usd, other.usd))

    def share_of(self, whole: Amount) -> float:
        """Return how much of `whole` fits into this, 0 to 1 (1 where it all does)."""
        parts = [own / asked for own, asked in zip(self, whole, strict=True) if asked > 0]
        return max(0.0, min(1.0, *parts)) if parts else 1.0


NOTHING, ANY = Amount(), Amount(math.inf, math.inf)


@dataclass(frozen=True)
class RetrainCost:
    """Estimates a retrain. `amount`: of all its devices together; `hours`: by the clock; `origin`: what that
    rests on.
    """

    amount: Amount
    hours: float
    origin: str

    @property
    def devices(self) -> float:
        return self.amount.hours / self.hours if self.hours > 0 else 1.0


@dataclass(frozen=True)
class PlannedCost:
    """Holds what a variant's newest plan estimates for one training, the probe before it, and its evaluation.

    `hours`: by the clock, on `devices`; `usd`: None without a price.
    """

    hours: float
    devices: int
    usd: float | None


class PaidFor(NamedTuple):
    """Holds the hours by the clock of a training that has finished: as they were planned (0: not), and as
    they were.
    """

    planned: float
    real: float

    @property
    def ratio(self) -> float:
        if self.planned <= 0:
            return 1.0
        return min(LARGEST_RATIO, max(LEAST_RATIO, self.real / self.planned))


def expected_cost(
    plan: PlannedCost | None, own: Iterable[PaidFor] = (), others: Iterable[PaidFor] = ()
) -> RetrainCost:
    """Return the plan's estimate times what trainings took against theirs: the variant's own (the median of
    the newest five), else all of the platform's. Without a plan, what others took; without these, an hour.
    """
    mine, theirs = list(own)[-5:], list(others)
    known = mine or theirs
    if plan is None or plan.hours <= 0:
        hours = median(paid.real for paid in known) if known else UNKNOWN_HOURS
        taken = f"as {len(known)} finished trainings took" if known else "taken as 1 h"
        return RetrainCost(Amount(hours), hours, f"no hours are planned: {taken}")
    ratio = median(paid.ratio for paid in known) if known else 1.0
    whose = "its own" if mine else "the platform's"
    said = "as planned"
    if known:
        said = f"as planned, times {ratio:.2f} by {len(known)} of {whose} finished trainings"
    if plan.usd is None:
        said += "; no price is known, so no dollars are counted"
    hours = plan.hours * ratio
    return RetrainCost(Amount(hours * plan.devices, (plan.usd or 0.0) * ratio), hours, said)
