"""Gaffke's test against what it is in known cases, and against its own definition by drawing."""

import numpy as np
import pytest
from scipy.stats import beta, binom

from ft_dagster.gate.gaffke import lower_bound, mean_p


@pytest.mark.parametrize(
    ("questions", "lost", "margin"), [(1, 0, 0.5), (20, 0, 0.12), (40, 3, 0.2), (400, 9, 0.05)]
)
def test_of_answers_that_are_lost_or_not_it_is_the_exact_binomial_test(
    questions: int, lost: int, margin: float
) -> None:
    changes = np.array([-1.0] * lost + [0.0] * (questions - lost))
    exact = binom.cdf(lost, questions, margin)
    assert float(mean_p(changes + margin, 1 - margin)) == pytest.approx(exact, rel=1e-6)


def test_its_bound_is_clopper_and_pearsons() -> None:
    changes = np.array([-1.0] * 3 + [0.0] * 37)
    found = lower_bound(changes, np.ones(40), -1.0, level=0.05)
    assert found == pytest.approx(-beta.ppf(0.95, 4, 37), abs=1e-6)


@pytest.mark.parametrize(("gained", "lost"), [(0, 6), (3, 13), (10, 2)])
def test_of_gains_and_losses_it_is_mcnemars_exact_test(gained: int, lost: int) -> None:
    fallen = np.array([-1.0] * gained + [1.0] * lost + [0.0] * 20)
    assert float(mean_p(fallen, 1.0)) == pytest.approx(binom.sf(lost - 1, gained + lost, 0.5), rel=1e-6)


def test_it_is_the_probability_that_it_says() -> None:
    draw = np.random.default_rng(1)
    values, worst = draw.normal(0.4, 0.5, 15), 1.3
    drawn = draw.exponential(size=(400_000, 16))
    expected = (drawn[:, :15] @ values <= drawn[:, 15] * worst).mean()
    assert float(mean_p(values, worst)) == pytest.approx(expected, abs=0.002)


def test_counts_stand_for_values_that_occur_so_often_and_rows_for_themselves() -> None:
    values, counts = np.array([0.3, -0.4, 0.9]), np.array([4, 2, 0])
    rows = mean_p(np.stack([values, values]), np.ones(2), np.stack([counts, counts[::-1]]))
    assert rows[0] == pytest.approx(float(mean_p(np.repeat(values, counts), 1.0)))
    assert rows[1] == pytest.approx(float(mean_p(np.repeat(values, counts[::-1]), 1.0)))


def test_bound_and_test_agree() -> None:
    changes = np.random.default_rng(2).normal(-0.02, 0.2, 60)
    sizes = np.random.default_rng(3).integers(1, 5, 60).astype(float)
    low = lower_bound(changes, sizes, -1.0, level=0.025)
    assert float(mean_p(sizes / sizes.max() * (changes - low), 1 + low)) == pytest.approx(0.025, rel=1e-3)


def test_where_nothing_is_known_or_all_is_lost_the_bound_is_the_floor() -> None:
    assert lower_bound(np.array([-1.0, -1.0]), np.ones(2), -1.0, level=0.05) == -1.0
    assert float(mean_p(np.array([0.2, 0.0]), 0.0)) == 0.0
    assert float(mean_p(np.array([-0.2, 0.0]), 0.5)) == 1.0
