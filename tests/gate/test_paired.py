from collections.abc import Iterable, Sequence

import numpy as np
import pytest
from scipy.stats import beta, binomtest

from ft_dagster.gate.paired import Allowed, Comparison, compare_paired, harm_of, harm_of_answers, holm

ALONE: Sequence[str | None] = [None] * 200


def compared(
    better: Iterable[float],
    groups: Sequence[str | None] = ALONE,
    *,
    bound: float | None = 1.0,
    level: float = 0.05,
) -> Comparison:
    changes = np.array(list(better), float)
    return compare_paired(changes, groups[: len(changes)], bound=bound, level=level)


def answers(gained: int, lost: int, same: int) -> list[float]:
    return [1.0] * gained + [-1.0] * lost + [0.0] * same


def test_the_interval_of_answers_that_were_lost_or_not_is_exact() -> None:
    found = compared(answers(0, 1, 43), level=0.025)
    assert found.low == pytest.approx(-beta.ppf(0.975, 2, 43), abs=1e-6)
    assert found.improvement == pytest.approx(-1 / 44)


def test_answers_that_do_not_differ_at_all_prove_as_much_as_their_number_allows() -> None:
    assert compared(answers(0, 0, 58)).low < -0.05
    assert compared(answers(0, 0, 59)).low > -0.05


def test_a_margin_of_everything_is_never_exceeded_but_by_everything() -> None:
    assert compared(answers(0, 39, 1)).low > -1
    assert compared(answers(0, 40, 0)).low == -1


def test_harm_of_answers_is_the_exact_test_of_mcnemar() -> None:
    known = binomtest(13, 16, 0.5, alternative="greater").pvalue
    assert compared(answers(3, 13, 84)).harm == pytest.approx(known)
    assert float(harm_of_answers(0, 0)) == 1.0


def test_harm_of_other_values_is_their_share_of_sign_flips_that_are_as_low() -> None:
    sums = np.array([-0.5, -0.4, -0.3, 0.2, -0.1, -0.6])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 6)).reshape(6, -1)
    exact = (np.abs(sums) @ signs <= sums.sum() + 1e-9).mean()
    assert harm_of(sums) == pytest.approx(exact, abs=0.01)
    assert harm_of(sums) == harm_of(sums)


def test_few_changes_by_the_same_amount_prove_no_harm() -> None:
    """By t their error is nothing, and any fall certain."""
    found = compared([-0.1, -0.1])
    assert found.harm == pytest.approx(1 / 4)
    assert found.low < -0.7


def test_one_question_tells_next_to_nothing() -> None:
    found = compared([0.0])
    assert (found.low, found.harm) == pytest.approx((-0.95, 1.0))


def test_a_group_is_one_unit_whatever_its_size() -> None:
    alone = compared([-1.0, *[0.0] * 39])
    groups = [name for name in "abcdefghijklmnopqrstuvwxyz0123456789ABCD" for _ in range(4)]
    grouped = compared(np.repeat([-1.0, *[0.0] * 39], 4), groups)
    assert (grouped.units, grouped.questions) == (40, 160)
    assert (grouped.low, grouped.high, grouped.harm) == pytest.approx((alone.low, alone.high, alone.harm))
    assert compared(np.repeat([-1.0, *[0.0] * 39], 4)).low > grouped.low


def test_questions_without_a_group_stand_alone_beside_groups() -> None:
    assert compared([0.1, 0.2, 0.3, 0.4], ["a", None, "a", None]).units == 3


def test_a_large_group_beside_small_ones_widens_what_is_possible() -> None:
    even = compared([0.0] * 40, [str(n // 2) for n in range(40)])
    uneven = compared([0.0] * 40, ["large"] * 21 + [str(n) for n in range(19)])
    assert (even.units, uneven.units) == (20, 20)
    assert uneven.low < even.low


def test_a_change_beyond_the_bound_counts_as_the_bound_and_is_still_measured() -> None:
    found = compared([-50.0, *[0.0] * 199], bound=2.0)
    assert (found.improvement, found.counted) == pytest.approx((-0.25, -0.01))
    assert found.measured == found.improvement
    assert found.low == compared([-2.0, *[0.0] * 199], bound=2.0).low


def test_without_a_bound_there_is_no_interval() -> None:
    found = compared([3.0, 4.0], bound=None)
    assert (found.low, found.needed(Allowed(0.1, 0.1), level=0.05)) == (-np.inf, None)


def test_holm_multiplies_the_smallest_most_and_never_reverses_an_order() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([[0.9, 0.5], [0.01, 0.01]]).tolist() == [[1.0, 1.0], [0.02, 0.02]]
