import math

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_1samp

from ft_dagster.evaluation.paired import (
    answer_interval,
    compare_answers,
    compare_values,
    harm_of_answers,
    holm,
    not_worse,
    score,
)
from ft_dagster.evaluation.power import ALPHA


def test_the_interval_is_the_one_that_tango_published() -> None:
    """Tango 1998: of 44 pairs one differs (95%)."""
    low, high = answer_interval(0, 1, 44, alpha=0.025)
    assert (low, high) == pytest.approx((-0.118, 0.060), abs=0.002)


def test_a_score_at_no_margin_is_mcnemars() -> None:
    assert float(score(3, 12, 200, 0.0)) == pytest.approx(-9 / math.sqrt(15))


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (3, 12), (12, 3), (40, 0), (0, 40)])
@pytest.mark.parametrize("margin", [0.02, 0.05, 0.15, 0.5])
def test_the_interval_and_the_test_agree(gained: int, lost: int, margin: float) -> None:
    low, _ = answer_interval(gained, lost, 40, alpha=ALPHA)
    assert bool(not_worse(gained, lost, 40, margin, alpha=ALPHA)) == (low > -margin)


def test_answers_that_do_not_differ_at_all_prove_as_much_as_their_number_allows() -> None:
    assert compare_answers(0, 0, 12, alpha=ALPHA).low < -0.15
    assert compare_answers(0, 0, 60, alpha=ALPHA).low > -0.05


def test_a_margin_of_everything_is_never_exceeded_but_by_everything() -> None:
    assert not_worse(0, 39, 40, 1.0, alpha=ALPHA)
    assert not not_worse(0, 40, 40, 1.0, alpha=ALPHA)


def test_harm_is_the_exact_test_of_mcnemar() -> None:
    known = binomtest(13, 16, 0.5, alternative="greater").pvalue
    assert float(harm_of_answers(3, 13)) == pytest.approx(known)
    assert float(harm_of_answers(0, 0)) == 1.0


def test_equal_weights_give_the_paired_t_test() -> None:
    better = np.random.default_rng(3).normal(0.02, 0.1, 50)
    found = compare_values(better, np.full(50, 7.0), alpha=ALPHA)
    known = ttest_1samp(better, 0.0)
    interval = known.confidence_interval(1 - 2 * ALPHA)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.harm == pytest.approx(ttest_1samp(better, 0.0, alternative="less").pvalue)


def test_a_text_of_most_tokens_counts_most_and_widens_what_is_possible() -> None:
    better = np.array([0.5, 0.0, 0.0, 0.0])
    heavy = compare_values(better, np.array([97.0, 1.0, 1.0, 1.0]), alpha=ALPHA)
    assert heavy.improvement == pytest.approx(0.485)
    even = compare_values(better, np.ones(4), alpha=ALPHA)
    assert heavy.high - heavy.low > even.high - even.low


def test_one_question_tells_nothing() -> None:
    found = compare_values(np.array([3.0]), np.ones(1), alpha=ALPHA)
    assert (found.low, found.harm) == (-math.inf, 1.0)


def test_differences_that_are_all_equal_are_certain() -> None:
    found = compare_values(np.array([-0.1, -0.1]), np.ones(2), alpha=ALPHA)
    assert (found.harm, found.low, found.high) == (0.0, -0.1, -0.1)


def test_holm_multiplies_the_smallest_most_and_never_reverses_an_order() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([[0.9, 0.5], [0.01, 0.01]]).tolist() == [[1.0, 1.0], [0.02, 0.02]]
