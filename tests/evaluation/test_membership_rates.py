"""How often the interval of the membership AUC misses: benchmarks/gates_membership.py in small."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.gates_membership import FAMILIES, FEW, LEVEL, Family, compared, coverage, misses, rates, sides
from ft_dagster.gate.memorization.membership_rules import Scored, told_apart

pytestmark = pytest.mark.slow

DRAWS = 300


def at_most(share: float) -> float:
    """What a share of so many draws stays below but once in a thousand."""
    return share + 3.1 * math.sqrt(share * (1 - share) / DRAWS)


@pytest.mark.long
@pytest.mark.parametrize("rows", [(50, 50), FEW], ids=["50 and 50", "500 and 50"])
def test_the_interval_lies_beside_the_true_auc_no_more_often_than_its_level(rows: tuple[int, int]) -> None:
    found = list(coverage(rows, DRAWS))
    assert len(found) == 3 * len(FAMILIES)
    for name, auc, (above, below, *_) in found:
        assert above <= at_most(LEVEL), (name, auc)
        assert below <= at_most(LEVEL), (name, auc)


@pytest.mark.long
def test_a_model_that_learned_nothing_fails_no_more_often_than_the_level() -> None:
    """Its AUC is a half, and the least limit that can be declared is hardly more."""
    failed = {name: above for name, auc, (above, *_) in coverage((200, 200), DRAWS) if auc == 0.5}
    assert len(failed) == len(FAMILIES)
    assert max(failed.values()) <= at_most(LEVEL), failed


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_simulation_judges_as_the_gate_does(family: Family) -> None:
    one, other = sides(family, (40, 40), 0.5, 6, np.random.default_rng(3))
    won, pairs = compared(one, other)
    for truth in (0.45, 0.55, 0.7):
        above, below = misses(won, pairs, truth)
        for draw in range(len(above)):
            # A name says where its unit stands in the order of comparisons: that of its hash.
            found = told_apart(_scored(one, draw, "m"), _scored(other, draw, "o"), LEVEL)
            if not math.isclose(found.low, truth, abs_tol=1e-5):
                assert bool(above[draw]) == (found.low > truth and found.low < found.auc)
            if not math.isclose(found.high, truth, abs_tol=1e-5):
                assert bool(below[draw]) == (found.high < truth and found.high > found.auc)


def _scored(units: list[np.ndarray], draw: int, name: str) -> Scored:
    from ft_dagster.gate.sampling import in_drawn_order

    names = [f"{name}{n}" for n in range(len(units))]
    order = in_drawn_order(names, 0)
    placed = {names[at]: units[place][draw] for place, at in enumerate(order)}
    scores = np.concatenate([placed[each] for each in names])
    groups = tuple(each for each in names for _ in placed[each])
    return Scored(scores, groups)


def test_the_true_positive_rate_at_500_rows_is_near_the_true_one() -> None:
    for _, truth, mean, spread in rates(500, 500, DRAWS):
        assert abs(mean - truth) < 0.03
        assert spread < 0.12
