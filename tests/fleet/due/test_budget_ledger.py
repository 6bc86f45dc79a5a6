"""Charges against budgets: by day and month of a time zone, of the platform and of each tenant."""

import math
import random
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta

import pytest

from ft_dagster.fleet.due.budget_ledger import PLATFORM, BudgetLedger, CannotPay, Charge, beyond, settled
from ft_dagster.fleet.due.retrain_cost import Amount, RetrainCost
from ft_dagster.fleet_settings import BudgetSettings, FleetSettings
from tests.fleet.fleets import NOON, budget, costing

TODAY = date(2026, 3, 2)
TOMORROW = date(2026, 3, 3)


def refused(paid: list[Charge] | CannotPay) -> CannotPay:
    assert isinstance(paid, CannotPay)
    return paid


def placed(paid: list[Charge] | CannotPay) -> dict[date, float]:
    """Hours by day."""
    assert not isinstance(paid, CannotPay), paid
    return {charge.day: charge.amount.hours for charge in paid}


def test_what_fits_is_charged_today() -> None:
    assert placed(BudgetLedger(budget(hours_per_day=3)).place("acme", costing(3), NOON, "refuse")) == {
        TODAY: 3.0
    }


def test_a_training_over_midnight_is_charged_to_both_days_by_the_clock() -> None:
    book = BudgetLedger(budget(hours_per_day=9))
    cost = RetrainCost(Amount(12.0, 6.0), 3.0, "four devices for three hours")
    paid = book.place("acme", cost, datetime(2026, 3, 2, 23, tzinfo=UTC), "refuse")
    assert placed(paid) == pytest.approx({TODAY: 4.0, TOMORROW: 8.0})
    assert isinstance(paid, list)
    assert [charge.amount.usd for charge in paid] == pytest.approx([2.0, 4.0])


def test_midnight_is_that_of_the_budgets_time_zone() -> None:
    settings = FleetSettings(timezone="Asia/Tokyo", budget=BudgetSettings(hours_per_day=9))
    at = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)  # half an hour before midnight there
    assert placed(BudgetLedger(settings).place("acme", costing(2), at, "refuse")) == {
        TODAY: 0.5,
        TOMORROW: 1.5,
    }


def test_the_day_of_a_daylight_saving_night_has_its_own_length() -> None:
    settings = FleetSettings(timezone="Europe/Madrid")
    start = datetime(2026, 3, 28, 23, tzinfo=UTC)  # midnight; the day has 23 hours
    charges = BudgetLedger(settings).by_the_clock("acme", costing(24), start)
    assert [round(charge.amount.hours, 6) for charge in charges] == [23.0, 1.0]


def test_what_does_not_fit_today_waits_for_the_next_day() -> None:
    book = BudgetLedger(budget(hours_per_day=3), [Charge(TODAY, "globex", Amount(2.0))])
    cannot = refused(book.place("acme", costing(2), NOON, "spread"))
    assert cannot.later
    assert cannot.why == "it costs 2 h, and today's budgets have 1 h left"
    assert cannot.again == datetime(2026, 3, 3, tzinfo=UTC)
    assert placed(book.place("acme", costing(1), NOON, "refuse")) == {TODAY: 1.0}


def test_a_tenant_has_a_budget_of_its_own_beside_the_platforms() -> None:
    settings = FleetSettings(
        tenant_budget=BudgetSettings(hours_per_day=1), per_tenant={"globex": BudgetSettings(usd_per_day=5)}
    )
    book = BudgetLedger(settings)
    assert refused(book.place("acme", costing(2), NOON, "refuse")).later is False
    assert placed(book.place("globex", costing(2, usd=5), NOON, "refuse")) == {TODAY: 2.0}
    assert "$6.00" in refused(book.place("globex", costing(2, usd=6), NOON, "refuse")).why


def test_a_months_budget_holds_also_where_the_days_have_room() -> None:
    book = BudgetLedger(
        budget(hours_per_day=5, hours_per_month=8), [Charge(date(2026, 3, 1), "acme", Amount(5.0))]
    )
    assert refused(book.place("acme", costing(4), NOON, "spread")).later
    assert placed(book.place("acme", costing(3), NOON, "spread")) == {TODAY: 3.0}


def test_one_dearer_than_a_day_is_spread_over_the_days_it_needs_or_refused() -> None:
    book = BudgetLedger(budget(hours_per_day=3), [Charge(TODAY, "globex", Amount(2.0))])
    assert placed(book.place("acme", costing(8), NOON, "spread")) == pytest.approx(
        {TODAY: 1.0, TOMORROW: 3.0, date(2026, 3, 4): 3.0, date(2026, 3, 5): 1.0}
    )
    cannot = refused(book.place("acme", costing(8), NOON, "refuse"))
    assert cannot.later is False
    assert cannot.why == "it costs 8 h, more than a day's budget (3 h)"


def test_a_budget_of_nothing_pays_for_nothing() -> None:
    cannot = refused(BudgetLedger(budget(hours_per_day=0)).place("acme", costing(0.01), NOON, "spread"))
    assert (cannot.later, cannot.why) == (False, "a budget is 0")


def test_one_dearer_than_any_budget_is_said_to_be() -> None:
    cannot = refused(BudgetLedger(budget(hours_per_day=1)).place("acme", costing(100), NOON, "spread"))
    assert cannot.later is False
    assert "more than what is left of 62 days" in cannot.why


@pytest.mark.parametrize("hours", [1e5, 1e12, math.inf, math.nan])
def test_one_that_would_run_for_longer_than_it_can_be_charged_is_refused_at_once(hours: float) -> None:
    cannot = refused(BudgetLedger(FleetSettings()).place("acme", costing(hours), NOON, "spread"))
    assert cannot.later is False
    assert "62 days are the most" in cannot.why


def test_an_overdue_one_takes_what_is_left_of_each_day() -> None:
    charges = [Charge(TODAY, "globex", Amount(2.0)), Charge(TOMORROW, "globex", Amount(1.0))]
    book = BudgetLedger(budget(hours_per_day=3), charges)
    assert isinstance(book.place("acme", costing(3), NOON, "refuse"), CannotPay)
    paid = book.place("acme", costing(3), NOON, "refuse", overdue=True)
    assert placed(paid) == pytest.approx({TODAY: 1.0, TOMORROW: 2.0})


def test_what_a_training_did_not_need_is_given_back_and_what_it_took_more_is_the_next_days() -> None:
    charges = [Charge(TODAY, "acme", Amount(2.0, 4.0)), Charge(TOMORROW, "acme", Amount(2.0, 4.0))]
    less = settled(charges, Amount(4.0, 8.0), Amount(1.0, 4.0))
    assert [charge.amount for charge in less] == [Amount(0.5, 2.0)] * 2
    more = beyond(Amount(4.0, 8.0), Amount(5.0, 6.0))
    assert more == Amount(1.0, 0.0)
    assert settled(charges, Amount(4.0, 8.0), Amount(5.0, 8.0)) == charges
    book = BudgetLedger(budget(hours_per_day=3), charges)
    assert placed(book.overrun("acme", more, NOON)) == {TOMORROW: 1.0}
    assert placed(book.overrun("acme", Amount(2.5), NOON)) == pytest.approx(
        {TOMORROW: 1.0, date(2026, 3, 4): 1.5}
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_no_day_and_no_month_is_ever_charged_beyond_a_budget(seed: int) -> None:
    dice = random.Random(seed)
    settings = FleetSettings(
        timezone=dice.choice(["UTC", "Europe/Madrid", "America/New_York"]),
        budget=BudgetSettings(hours_per_day=10, usd_per_month=300),
        tenant_budget=BudgetSettings(hours_per_day=6, hours_per_month=60),
        dearer=dice.choice(["spread", "refuse"]),
    )
    book, charges, at = BudgetLedger(settings), list[Charge](), NOON
    for _ in range(200):
        at += timedelta(hours=dice.expovariate(0.5))
        cost = costing(dice.lognormvariate(0.5, 1), usd=dice.uniform(0, 30), devices=dice.choice([1, 4]))
        tenant = dice.choice(["acme", "globex"])
        paid = book.place(tenant, cost, at, settings.dearer, overdue=dice.random() < 0.3)
        more = Amount(dice.uniform(0, 5), dice.uniform(0, 5))
        made = paid if isinstance(paid, list) else book.overrun(tenant, more, at)
        for charge in made:
            book.add(charge)
        charges += made
        if isinstance(paid, list):
            assert sum(charge.amount.hours for charge in paid) == pytest.approx(cost.amount.hours)
            assert sum(charge.amount.usd for charge in paid) == pytest.approx(cost.amount.usd)
            assert paid[0].day == book.today(at)
    days: dict[tuple[str, date], float] = defaultdict(float)
    months: dict[tuple[str, int, int], float] = defaultdict(float)
    for charge in charges:
        for scope in (PLATFORM, charge.tenant):
            days[scope, charge.day] += charge.amount.hours
            months[scope, charge.day.year, charge.day.month] += (
                charge.amount.usd if scope == PLATFORM else charge.amount.hours
            )
    assert len(charges) > 50
    for (scope, _), hours in days.items():
        assert hours <= (10 if scope == PLATFORM else 6) + 1e-6
    for (scope, _, _), used in months.items():
        assert used <= (300 if scope == PLATFORM else 60) + 1e-6
