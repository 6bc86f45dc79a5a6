"""Says how questions that depend on each other count: each question alike, or each of their groups alike.

By size a group weighs as many questions as it has. None of the groups that were asked may be as large as the
largest there is, so that one more, the worst there can be, is taken to be as large as that (`gaffke`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ft_dagster.lineage.verdict import Groups
from ft_dagster.spec.variant import GatesSpec, Weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


class Counting(NamedTuple):
    """Says how the groups of a task count. `largest`: questions of the largest that is known beside those
    asked; None: of no other.
    """

    weights: Weights = "size"
    largest: int | None = None

    @classmethod
    def of(cls, gates: GatesSpec) -> Counting:
        """Return how the groups of a variant's own task count."""
        return cls(gates.weights, gates.largest_group)

    def asked(self, share: float) -> Counting:
        """Return the same where so large a share of the task's questions was asked, and of the largest group
        as many in proportion.
        """
        return self if self.largest is None else self._replace(largest=math.ceil(self.largest * share - 1e-9))

    def largest_of(self, sizes: Array) -> float:
        """Return what the added worst unit weighs beside units of these sizes."""
        known = 0 if self.largest is None or self.weights == "group" else self.largest
        return max(float(known), float(sizes.max()))

    def mean(self, values: Array, groups: Sequence[str | None]) -> float:
        """Return the mean of the values of questions, or of the means of their groups."""
        if self.weights == "size":
            return float(values.mean())
        sums, sizes = units_of(values, groups)
        return float((sums / sizes).mean())


BY_SIZE = Counting()


def units_of(values: Array, groups: Sequence[str | None]) -> tuple[Array, Array]:
    """Return the sum and the number of the values of each independent unit."""
    import numpy as np

    if all(group is None for group in groups):
        return values, np.ones(len(values))
    names = [(0, n) if group is None else (1, group) for n, group in enumerate(groups)]
    numbers = {name: n for n, name in enumerate(dict.fromkeys(names))}
    at = np.array([numbers[name] for name in names])
    sums, sizes = np.bincount(at, values), np.bincount(at)
    return sums.astype(float), sizes.astype(float)


def groups_of(sizes: Array, counting: Counting, margin: float, bound: float | None, level: float) -> Groups:
    """Describe groups of unlike size, by which a fall of `margin` is to be ruled out at a level.

    With shares s of the largest, a model of which not one answer changed has p = prod 1 / (1 + s r), where
    r = margin / (bound - margin); without a margin it is one that became better by `bound` in each, and
    r = 1. So many copies of these groups as bring that below the level are the least.
    """
    import numpy as np

    if counting.weights == "group":
        return Groups("group", int(sizes.max()))
    largest, least = counting.largest_of(sizes), None
    if bound is not None and margin < bound:
        ratio = margin / (bound - margin) if margin else 1.0
        shown = float(np.log1p(sizes / largest * ratio).sum())
        least = math.ceil(len(sizes) * -math.log(level) / shown - 1e-9)
    return Groups("size", int(largest), least)


def are_unlike(sizes: Array, counting: Counting) -> bool:
    """Say whether the units differ in size, or one that is known differs from those asked."""
    return bool((sizes != counting.largest_of(sizes)).any())
