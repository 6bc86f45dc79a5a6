"""What the next retrain of a variant is expected to cost, by its plan and by what finished ones took."""

import pytest

from ft_dagster.fleet.due.retrain_cost import UNKNOWN_HOURS, Amount, PaidFor, PlannedCost, expected_cost

PLAN = PlannedCost(hours=2.0, devices=4, usd=20.0)


def test_a_plan_alone_is_taken_as_it_stands() -> None:
    cost = expected_cost(PLAN)
    assert (cost.amount, cost.hours) == (Amount(8.0, 20.0), 2.0)
    assert cost.origin == "as planned"


def test_a_variants_own_trainings_correct_its_plan_before_those_of_others() -> None:
    own, others = [PaidFor(2.0, 3.0)], [PaidFor(1.0, 8.0)] * 9
    assert expected_cost(PLAN, own, others).amount == Amount(12.0, 30.0)
    assert expected_cost(PLAN, (), others).amount == Amount(64.0, 160.0)
    assert "times 1.50 by 1 of its own" in expected_cost(PLAN, own, others).origin


def test_the_newest_five_of_its_own_count_and_one_odd_one_does_not_decide() -> None:
    own = [PaidFor(1.0, 9.0)] * 5 + [PaidFor(1.0, 2.0)] * 4 + [PaidFor(1.0, 100.0)]
    assert expected_cost(PLAN, own).hours == 4.0


@pytest.mark.parametrize(("real", "hours"), [(1e-6, 0.2), (1e6, 20.0)])
def test_no_training_corrects_beyond_ten_times(real: float, hours: float) -> None:
    assert expected_cost(PLAN, [PaidFor(1.0, real)]).hours == pytest.approx(hours)


def test_without_a_plan_what_others_took_is_taken_and_without_these_an_hour() -> None:
    assert expected_cost(None).hours == UNKNOWN_HOURS
    assert expected_cost(None, (), [PaidFor(1.0, 0.5), PaidFor(1.0, 0.7), PaidFor(1.0, 9.0)]).hours == 0.7


def test_without_a_price_no_dollars_are_counted_and_that_is_said() -> None:
    cost = expected_cost(PlannedCost(1.0, 1, None))
    assert cost.amount == Amount(1.0, 0.0)
    assert "no price is known" in cost.origin
