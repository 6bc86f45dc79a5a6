"""What is started, in which order, and why all else is not; no state of a fleet breaks its promises."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from ft_dagster.fleet.due.budget_ledger import BudgetLedger, Charge
from ft_dagster.fleet.due.due import EVEN_START, Decisions, FleetState, due
from ft_dagster.fleet.due.reasons import News, VariantState, causes
from ft_dagster.fleet.due.retrain_cost import Amount
from ft_dagster.fleet.history import PastRun, history
from ft_dagster.fleet_settings import BudgetSettings, FleetSettings, PlatformOrder
from tests.fleet.fleets import (
    AT_ONCE,
    DAY,
    HOUR,
    NOON,
    budget,
    changed,
    costing,
    daily,
    random_variant,
    variant,
)

AT_NOON: dict[str, Any] = {
    "retrain": {"cron": "0 12 * * *"}, "served": NOON - HOUR, "known_since": NOON - DAY
}  # fmt: skip
BY_NOON = PlatformOrder(name="policy", reason="new policy", given=NOON - DAY, deadline=NOON + HOUR / 2)
BY_NOON_STAMP = "order-policy-2026-03-01T12.00.00Z"
DATA = News("data", "data-2026-03-02T12.00.00Z-1a2b3c4d", NOON, NOON, "data/rows.jsonl changed")


def decided(
    *variants: VariantState,
    policy: FleetSettings = AT_ONCE,
    at: datetime = NOON,
    charges: Sequence[Charge] = (),
) -> Decisions:
    return due(FleetState(variants, charges), policy, at)


def started(decisions: Decisions) -> list[str]:
    return [str(retrain.key) for retrain in decisions.retrains]


def why_not(decisions: Decisions) -> dict[str, str]:
    return {str(each.key): each.kind for each in decisions.not_done}


def test_each_retrain_says_its_reasons_its_urgency_and_its_cost() -> None:
    both = daily("acme.a", 2.0, news=(changed(NOON - DAY),))
    both = replace(both, retrain=both.retrain.model_copy(update={"on_new_data": True}))
    (retrain,) = decided(both).retrains
    assert [cause.kind for cause in retrain.reasons] == ["cron", "data"]
    assert retrain.urgency == 0.0  # a day of patience has just passed
    assert retrain.stamp == "2026-03-01T12.00Z"
    assert retrain.charges == (Charge(NOON.date(), "acme", Amount(2.0)),)


def test_what_is_not_due_is_not_spoken_of() -> None:
    decisions = decided(variant("acme.a"))
    assert (decisions.retrains, decisions.not_done) == ((), ())


@pytest.mark.parametrize(
    ("known", "kind", "words"),
    [
        ({"retired": True}, "retired", "declared no longer"),
        ({"broken": "tenants/acme/a.yaml: not YAML"}, "broken", "not YAML"),
        ({"running": True}, "running", "in progress"),
        ({"failures": 1, "failed_at": NOON, "failure": "out of memory"}, "back-off", "out of memory"),
        (
            {"failures": 3, "failed_at": NOON - DAY, "failure": "no rows"},
            "parked",
            "3 runs in a row failed: no rows",
        ),
    ],
)
def test_why_a_due_variant_is_not_started(known: dict[str, Any], kind: str, words: str) -> None:
    decisions = decided(daily("acme.a", **known), daily("acme.b"))
    assert started(decisions) == ["acme.b"]
    (other,) = decisions.not_done
    assert other.kind == kind
    assert words in other.why


def test_a_failed_run_is_tried_again_later_and_later_under_another_stamp() -> None:
    def tried(failures: int, hours: float) -> list[str]:
        stamp = "2026-03-01T12.00Z"
        tries = (stamp, *(f"{stamp}.try{n}" for n in range(2, failures + 1)))
        state = daily("acme.a", failures=failures, failed_at=NOON - hours * HOUR, tries=tries)
        state = replace(state, retrain=state.retrain.model_copy(update={"max_attempts": 9}))
        return [retrain.stamp for retrain in decided(state).retrains]

    assert tried(1, 0.2) == []
    assert tried(1, 0.25) == ["2026-03-01T12.00Z.try2"]
    assert tried(2, 0.9) == []
    assert tried(2, 1.0) == ["2026-03-01T12.00Z.try3"]
    assert tried(8, 23.9) == []
    assert tried(8, 24.0) == ["2026-03-01T12.00Z.try9"]


def test_what_may_fail_a_hundred_times_is_tried_again_each_day_and_holds_up_no_other() -> None:
    failing = daily("acme.a", failures=99, failed_at=NOON - 23 * HOUR, failure="out of memory")
    patient = replace(failing, retrain=failing.retrain.model_copy(update={"max_attempts": 100}))
    decisions = decided(patient, daily("globex.b"))
    assert (started(decisions), why_not(decisions)) == (["globex.b"], {"acme.a": "back-off"})
    assert decisions.not_done[0].again == NOON + HOUR
    assert started(decided(patient, at=NOON + HOUR)) == ["acme.a"]


def test_a_plan_of_years_is_refused_and_starts_no_others_sooner() -> None:
    policy = budget(spread_hours=1, hours_per_day=24)
    others = [variant(f"globex.v{n}", retrain={"cron": "0 12 * * *"}, served=NOON - HOUR) for n in range(5)]
    decisions = decided(daily("acme.years", 1e8), *others, policy=policy)
    assert why_not(decisions)["acme.years"] == "refused"
    alone = decided(*others, policy=policy)
    assert (decisions.retrains, decisions.pace) == (alone.retrains, alone.pace)


@pytest.mark.parametrize(
    "where", ["ft_dagster.fleet.due.due.causes", "ft_dagster.fleet.due.due.BudgetLedger.place"]
)
def test_an_error_that_nobody_foresaw_of_one_variant_is_said_once_and_stops_no_other(
    where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = causes if where.endswith("causes") else BudgetLedger.place

    def fails(*given: Any, **named: Any) -> Any:
        if "acme" in str(given):
            raise ZeroDivisionError(where)
        return real(*given, **named)

    monkeypatch.setattr(where, fails)
    for _ in range(2):
        decisions = decided(daily("acme.a"), daily("globex.b"))
        assert (started(decisions), why_not(decisions)) == (["globex.b"], {"acme.a": "broken"})
        assert f"failed with ZeroDivisionError: {where}" in decisions.not_done[0].why
    (told,) = caplog.records
    assert told.exc_info is not None


def test_what_is_forgiven_is_tried_under_a_stamp_that_no_run_has() -> None:
    stamp = "2026-03-01T12.00Z"
    since = NOON - 23 * HOUR
    asked = [stamp, f"{stamp}.try2", f"{stamp}.try3"]
    runs = [PastRun(since + n * HOUR, "failed", since + n * HOUR, each, "x") for n, each in enumerate(asked)]
    known = history(reversed(runs), edited=NOON - HOUR)
    mended = replace(daily("acme.a"), **known._replace(served=since - DAY / 2)._asdict())
    (retrain,) = decided(mended).retrains
    assert (retrain.stamp, retrain.attempt) == (f"{stamp}.try4", 4)
    child = variant(
        "acme.child", news=(News("parent", "acme.try-v2", NOON, NOON, "x"),), tries=("acme.try-v2",)
    )
    assert [each.stamp for each in decided(child).retrains] == ["acme.try-v2.try2"]


def test_a_run_that_did_not_succeed_fulfils_no_order_and_is_tried_again_until_it_is_parked() -> None:
    policy = AT_ONCE.model_copy(update={"orders": (BY_NOON,)})
    first = PastRun(NOON - 9 * DAY, "success", NOON - 9 * DAY)
    ended = [
        PastRun(NOON + n * DAY, "verdict", NOON + n * DAY + HOUR, stamp)
        for n, stamp in enumerate([BY_NOON_STAMP, f"{BY_NOON_STAMP}.try2", f"{BY_NOON_STAMP}.try3"])
    ]

    def after(number: int, hours: float) -> Decisions:
        known = history([*reversed(ended[:number]), first], edited=NOON - 10 * DAY)
        at = NOON + (number - 1) * DAY + HOUR + hours * HOUR
        return decided(replace(variant("acme.a"), **known._asdict()), policy=policy, at=at)

    assert why_not(after(1, 0.2)) == {"acme.a": "back-off"}
    assert [retrain.stamp for retrain in after(1, 0.3).retrains] == [f"{BY_NOON_STAMP}.try2"]
    parked = after(3, 99).not_done[0]
    assert (parked.kind, parked.reasons[0].kind) == ("parked", "order")
    assert "its gate did not hold" in parked.why


@pytest.mark.parametrize(
    ("known", "policy"),
    [
        ({"retrain": {"cron": "0 12 * * *"}, "served": NOON - HOUR}, AT_ONCE),
        ({"retrain": {"cron": "30 0 12 * * *"}, "served": NOON - HOUR}, AT_ONCE),
        ({}, AT_ONCE.model_copy(update={"orders": (BY_NOON,)})),
        ({"news": (News("parent", "acme.p-v2-2026-03-02T12.00.00Z", NOON, NOON, "x"),)}, AT_ONCE),
        ({"retrain": {"on_new_data": True, "quiet_minutes": 0}, "news": (DATA,)}, AT_ONCE),
    ],
    ids=["cron", "cron with seconds", "order", "parent", "data"],
)
def test_a_run_whose_hosts_clock_is_behind_serves_what_it_was_asked_for(
    known: dict[str, Any], policy: FleetSettings
) -> None:
    """Also where its cause came after it began, by that clock."""
    before, at = variant("acme.a", **known), NOON + HOUR
    (retrain,) = decided(before, policy=policy, at=at).retrains
    began = retrain.reasons[0].since - HOUR / 360
    ran = history([PastRun(began, "success", began + HOUR, retrain.stamp)], edited=NOON - 9 * DAY)
    after = decided(replace(before, **ran._asdict()), policy=policy, at=at)
    assert (after.retrains, after.not_done) == ((), ())


def test_a_cron_with_seconds_asks_for_each_of_its_times() -> None:
    state, stamps = variant("acme.a", retrain={"cron": "0,30 0 12 * * *"}, served=NOON - HOUR), list[str]()
    for run in range(2):
        (retrain,) = decided(state, at=NOON + HOUR).retrains
        stamps.append(retrain.stamp)
        began = NOON + timedelta(seconds=5 + 30 * run)
        runs = [PastRun(began, "success", began + HOUR, retrain.stamp)]
        state = replace(state, **history(runs, edited=NOON - 9 * DAY)._asdict())
    assert stamps == ["2026-03-02T12.00Z", "2026-03-02T12.00.30Z"]
    done = decided(state, at=NOON + HOUR)
    assert (done.retrains, done.not_done) == ((), ())


def test_a_run_is_not_as_late_as_the_age_that_it_comes_before() -> None:
    ran = PastRun(NOON - DAY, "success", NOON, "age-2026-03-09T12.00Z")
    assert history([ran], edited=NOON - 9 * DAY).served == NOON - DAY


@pytest.mark.parametrize("asked", ["none", "2026-99-99T99.99Z", "", "2026-03-02T12.00"])
def test_what_is_no_stamp_moves_no_run(asked: str) -> None:
    ran = PastRun(NOON - DAY, "success", NOON, asked)
    assert history([ran], edited=NOON - 9 * DAY).served == NOON - DAY


def test_an_order_that_is_given_again_under_its_name_is_carried_out_again() -> None:
    asked = variant("acme.a", asked=(BY_NOON_STAMP,), served=NOON - HOUR)
    again = BY_NOON.model_copy(update={"given": NOON - HOUR / 2})
    (retrain,) = decided(asked, policy=AT_ONCE.model_copy(update={"orders": (again,)})).retrains
    assert retrain.stamp == "order-policy-2026-03-02T11.30.00Z"


def test_a_run_that_did_not_succeed_makes_no_variant_younger() -> None:
    runs = [PastRun(NOON - DAY, "verdict", NOON - DAY), PastRun(NOON - 7 * DAY, "success", NOON - 7 * DAY)]
    known = history(runs, edited=NOON - 10 * DAY)
    aged = replace(variant("acme.a", retrain={"max_age_days": 7, "cron": "0 12 * * *"}), **known._asdict())
    (retrain,) = decided(aged).retrains
    assert {cause.kind: cause.deadline for cause in retrain.reasons}["age"] == NOON


def test_why_a_run_ended_at_its_gate_is_known_where_no_run_failed() -> None:
    ended = PastRun(NOON - DAY, "verdict", NOON - DAY, why="release_evaluation: check regression failed: x")
    known = history([ended], edited=NOON - 10 * DAY)
    assert (known.failures, known.fruitless, known.failure) == (0, 1, ended.why)
    later = PastRun(NOON, "failed", NOON, why="the disk is full")
    unjudged = history([later], edited=NOON - 10 * DAY)
    assert (unjudged.failures, unjudged.failure) == (1, "the disk is full")


def test_what_is_parked_comes_back_when_something_changed_since() -> None:
    parked = variant(
        "acme.a", failures=3, failed_at=NOON - HOUR, retrain={"on_new_data": True, "quiet_minutes": 0}
    )
    old, new = changed(NOON - 2 * HOUR), changed(NOON - HOUR / 2)
    assert why_not(decided(replace(parked, news=(old,)))) == {"acme.a": "parked"}
    assert started(decided(replace(parked, news=(new,)))) == ["acme.a"]


def test_data_that_moves_or_changed_too_little_waits_and_says_so() -> None:
    asks = {"on_new_data": True, "least_share": 0.5}
    moving = variant("acme.a", retrain=asks, news=(changed(NOON),))
    little = variant("acme.b", retrain=asks, news=(changed(NOON - DAY, share=0.1),))
    decisions = decided(moving, little)
    assert why_not(decisions) == {"acme.a": "quiet", "acme.b": "small"}
    assert decisions.not_done[0].again == NOON + HOUR / 2


def test_another_reason_does_not_wait_for_moving_data() -> None:
    moving = daily("acme.a", news=(changed(NOON),))
    moving = replace(moving, retrain=moving.retrain.model_copy(update={"on_new_data": True}))
    (retrain,) = decided(moving).retrains
    assert [cause.kind for cause in retrain.reasons] == ["cron"]


def test_the_most_urgent_is_paid_first() -> None:
    ordered = variant("acme.ordered", 2.0)
    policy = budget(hours_per_day=2).model_copy(
        update={"orders": (BY_NOON.model_copy(update={"variants": ("acme.ordered",)}),)}
    )
    new = variant("acme.new", 2.0, retrain={"cron": "0 11 * * *"}, served=NOON - DAY)
    decisions = decided(new, ordered, policy=policy)
    assert started(decisions) == ["acme.ordered"]
    assert why_not(decisions) == {"acme.new": "budget"}


def test_a_declared_priority_goes_before_others_of_the_same_hour() -> None:
    first = [daily("acme.a"), daily("acme.z", priority=1)]
    assert started(decided(*first, policy=budget(hours_per_day=1))) == ["acme.z"]


def test_tenants_take_turns_where_one_has_many() -> None:
    many = [daily(f"acme.v{number:04}") for number in range(1000)]
    few = [daily("globex.one"), daily("initech.one")]
    decisions = decided(*many, *few, policy=budget(hours_per_day=10))
    assert len(decisions.retrains) == 10
    assert {"globex.one", "initech.one"} < set(started(decisions)[:3])


def test_a_tenant_that_had_much_of_late_gives_way_by_a_day_at_most() -> None:
    spent = [Charge((NOON - DAY).date(), "acme", Amount(50.0))]
    policy = budget(hours_per_day=1)
    same = decided(daily("acme.a"), daily("globex.a"), policy=policy, charges=spent)
    assert started(same) == ["globex.a"]
    older = variant(
        "acme.a", retrain={"cron": "0 12 * * *"}, served=NOON - 3.5 * DAY, known_since=NOON - 9 * DAY
    )
    assert started(decided(older, daily("globex.a"), policy=policy, charges=spent)) == ["acme.a"]


def test_a_dearer_one_that_waits_lets_cheaper_ones_pass_until_it_is_overdue() -> None:
    spent = [Charge(NOON.date(), "acme", Amount(2.0))]
    policy = budget(hours_per_day=4).model_copy(update={"dearer": "refuse"})
    fresh = variant(
        "acme.dear", 3.0, retrain={"cron": "0 11 * * *"}, served=NOON - 2 * HOUR, known_since=NOON - DAY
    )
    cheap = daily("acme.cheap", 1.0)
    assert started(decided(fresh, cheap, policy=policy, charges=spent)) == ["acme.cheap"]
    late = NOON + DAY
    spent = [Charge(late.date(), "acme", Amount(2.0))]
    assert started(decided(fresh, policy=policy, charges=spent, at=late)) == ["acme.dear"]


@pytest.mark.parametrize("overrun", [0.0, 0.8])
def test_a_dear_one_is_not_starved_by_cheap_ones_that_come_each_day(overrun: float) -> None:
    policy = budget(hours_per_day=4)
    dear = variant("acme.dear", 3.9, retrain={"cron": "0 11 2 3 *"})
    charges: list[Charge] = []
    for day in range(7):
        at = NOON + day * DAY
        since = at - 1.1 * DAY
        cheap = [daily(f"globex.v{n}", 0.5) for n in range(20)]
        cheap = [replace(each, served=since, known_since=since) for each in cheap]
        decisions = decided(dear, *cheap, policy=policy, charges=charges, at=at)
        charges += [charge for retrain in decisions.retrains for charge in retrain.charges]
        charges += BudgetLedger(policy, charges).overrun("globex", Amount(overrun), at)
        if "acme.dear" in started(decisions):
            return
    pytest.fail("it waited for a week")


def test_a_budget_of_nothing_starts_nothing_and_says_so() -> None:
    decisions = decided(daily("acme.a"), policy=budget(hours_per_day=0))
    assert why_not(decisions) == {"acme.a": "refused"}
    assert decisions.not_done[0].why == "a budget is 0"


def run_through(
    variants: list[VariantState], policy: FleetSettings, minutes: int, hours: float
) -> dict[str, datetime]:
    """When each was started, ticks being so many minutes apart; each run ends at once."""
    pace, begun = EVEN_START, dict[str, datetime]()
    for number in range(int(hours * 60 / minutes)):
        at = NOON + number * timedelta(minutes=minutes)
        waits = [each for each in variants if str(each.key) not in begun]
        decisions = due(FleetState(waits, pace=pace), policy, at)
        pace = decisions.pace
        begun |= {str(retrain.key): at for retrain in decisions.retrains}
    return begun


@pytest.mark.slow
def test_what_is_due_at_once_starts_evenly_over_the_hours_it_may_wait() -> None:
    fleet = [variant(f"acme.v{number:03}", 0.5, **AT_NOON) for number in range(240)]
    begun = run_through(fleet, FleetSettings(spread_hours=24), 5, 26)
    assert len(begun) == 240
    hours = Counter(int((at - NOON) / HOUR) for at in begun.values())
    assert max(hours.values()) <= 1.5 * 240 / 24
    assert max(begun.values()) <= NOON + 25 * HOUR


def test_what_may_wait_waits_while_more_is_in_progress_than_a_days_budget_keeps_busy() -> None:
    policy = budget(hours_per_day=48, spread_hours=1)  # two devices all day
    waits = FleetState([variant("acme.one", **AT_NOON)], busy=2.0)
    assert why_not(due(waits, policy, NOON)) == {"acme.one": "spread"}
    assert started(due(replace(waits, busy=1.0), policy, NOON)) == ["acme.one"]
    ordered = policy.model_copy(update={"orders": (BY_NOON,)})
    assert started(due(FleetState([variant("acme.one")], busy=9.0), ordered, NOON)) == ["acme.one"]


def test_one_that_needs_many_devices_is_not_starved_by_those_that_need_one() -> None:
    policy = budget(hours_per_day=240, spread_hours=1)  # ten devices all day
    wide = replace(variant("acme.wide", **AT_NOON), cost=costing(8, devices=8))
    busy = FleetState([wide], busy=3.0)
    assert why_not(due(busy, policy, NOON)) == {"acme.wide": "spread"}
    cheap = [variant(f"globex.v{n}", **AT_NOON) for n in range(9)]
    assert started(due(replace(busy, variants=[wide, *cheap]), policy, NOON)) != []
    late = [replace(each, served=NOON + 0.9 * DAY) for each in cheap]
    held = due(replace(busy, variants=[wide, *late]), policy, NOON + DAY)
    assert (started(held), set(why_not(held).values())) == ([], {"spread"})
    free = due(replace(busy, variants=[wide, *late], busy=2.0), policy, NOON + DAY)
    assert started(free) == ["acme.wide"]


def test_one_that_can_never_be_paid_holds_up_nobody() -> None:
    policy = budget(hours_per_day=240, spread_hours=1)  # ten devices all day
    policy = policy.model_copy(update={"per_tenant": {"zero": BudgetSettings(hours_per_day=0)}})
    unpaid = replace(variant("zero.wide", **AT_NOON), cost=costing(3, devices=3))
    due_now = replace(variant("acme.one", **AT_NOON), served=NOON + 0.9 * DAY)
    decisions = due(FleetState([unpaid, due_now], busy=8.0), policy, NOON + 2 * DAY)
    assert why_not(decisions) == {"zero.wide": "refused"}
    assert started(decisions) == ["acme.one"]


def test_what_started_yesterday_holds_up_nothing_today() -> None:
    at_noon = variant("acme.one", 9.0, **AT_NOON)
    policy, pace = FleetSettings(spread_hours=1), EVEN_START
    first = due(FleetState([at_noon], pace=pace), policy, NOON)
    assert started(first) == ["acme.one"]
    pace = first.pace
    for minutes in range(1, 24 * 60, 10):  # nothing waits meanwhile
        pace = due(FleetState([], pace=pace), policy, NOON + minutes * HOUR / 60).pace
    again = replace(at_noon, served=NOON + HOUR)
    assert started(due(FleetState([again], pace=pace), policy, NOON + DAY)) == ["acme.one"]


def test_a_single_one_starts_at_once_and_an_order_whose_time_comes_does_not_wait_its_turn() -> None:
    policy = FleetSettings(spread_hours=24)
    assert started(decided(variant("acme.one", 9.0, **AT_NOON), policy=policy)) == ["acme.one"]
    fleet = [variant(f"acme.v{number}", **AT_NOON) for number in range(5)]
    order = BY_NOON.model_copy(update={"given": NOON - HOUR / 2})
    assert len(started(decided(*fleet, policy=policy))) == 1
    ordered = policy.model_copy(update={"orders": (order,)})
    assert len(started(decided(*fleet, policy=ordered))) == 5


def test_a_parents_release_is_told_by_its_name_and_version() -> None:
    child = variant("acme.child", news=(News("parent", "acme.base-v2", NOON, NOON, "parent acme.base v2"),))
    (retrain,) = decided(child).retrains
    assert (retrain.stamp, retrain.reasons[0].words) == ("acme.base-v2", "parent acme.base v2")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30))
def test_whatever_a_fleet_looks_like_each_due_variant_is_spoken_of_once(seed: int) -> None:
    dice = random.Random(seed)
    tenants = ["acme", "globex", "initech"]
    fleet = [random_variant(dice, f"{dice.choice(tenants)}.v{number}") for number in range(80)]
    policy = FleetSettings(
        budget=BudgetSettings(hours_per_day=dice.choice([None, 5.0, 50.0])),
        tenant_budget=BudgetSettings(hours_per_day=dice.choice([None, 3.0])),
        dearer=dice.choice(["spread", "refuse"]),
        spread_hours=dice.choice([0.0, 1.0, 24.0]),
        orders=(BY_NOON,) if dice.random() < 0.3 else (),
    )
    decisions = due(FleetState(fleet), policy, NOON)
    asked = {
        str(each.key) for each in fleet if causes(each, policy.orders, NOON) or each.retired or each.broken
    }
    said = [*started(decisions), *why_not(decisions)]
    assert sorted(said) == sorted(asked)
    assert len(said) == len(decisions.retrains) + len(decisions.not_done)
    again = due(FleetState(list(reversed(fleet))), policy, NOON)
    assert again.retrains == decisions.retrains

    known = {str(each.key): each for each in fleet}
    hours: Counter[str] = Counter()
    for retrain in decisions.retrains:
        state = known[str(retrain.key)]
        assert (state.running, state.retired, state.broken) == (False, False, None)
        assert all(cause.ready <= NOON for cause in retrain.reasons)
        for charge in retrain.charges:
            if charge.day == NOON.date():
                hours.update({"": charge.amount.hours, charge.tenant: charge.amount.hours})
    most = policy.budget.hours_per_day, policy.tenant_budget.hours_per_day
    assert most[0] is None or hours[""] <= most[0] + 1e-6
    assert most[1] is None or all(hours[tenant] <= most[1] + 1e-6 for tenant in tenants)
