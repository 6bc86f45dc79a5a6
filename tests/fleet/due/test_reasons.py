"""Why a variant is due: by the clock, by its age, by the platform's order, by what changed."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from ft_dagster.errors import UserError
from ft_dagster.fleet.due.reasons import News, causes, first_fire, next_look, too_little
from ft_dagster.fleet_settings import PlatformOrder
from ft_dagster.settings import load_settings
from ft_dagster.spec.variant import RetrainSpec
from tests.fleet.fleets import DAY, HOUR, NOON, changed, daily, variant

MADRID = RetrainSpec(cron="30 2 * * *", timezone="Europe/Madrid")
ORDER = PlatformOrder(name="erasure-7", reason="erase a person", given=NOON - HOUR, deadline=NOON + DAY)


def fires(retrain: RetrainSpec, start: datetime, end: datetime) -> list[datetime]:
    """As runs would follow one another that each start a minute after they are due."""
    found, after = [], start
    while (fire := first_fire(retrain, after)) is not None and fire < end:
        found.append(fire)
        after = fire + timedelta(minutes=1)
    return found


def test_an_hour_that_a_night_does_not_have_fires_once_when_the_clocks_have_moved() -> None:
    start = datetime(2026, 3, 28, 12, tzinfo=UTC)  # at 2:00 of the 29th it is 3:00
    assert fires(MADRID, start, start + DAY) == [datetime(2026, 3, 29, 1, 0, tzinfo=UTC)]


@pytest.mark.parametrize("after", [0, 40, 70, 80, 100])
def test_an_hour_that_a_night_has_twice_fires_once(after: int) -> None:
    midnight = datetime(2026, 10, 24, 22, tzinfo=UTC)  # of the 25th; from 2:00 to 3:00 twice
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert fires(MADRID, midnight, midnight + 0.9 * DAY) == [first]
    served = first + timedelta(minutes=after)  # also from within the hour that comes again
    assert fires(MADRID, served, midnight + 0.9 * DAY) == []


@pytest.mark.slow
@pytest.mark.parametrize("seconds", ["", "30 "], ids=["five fields", "with seconds"])
@pytest.mark.parametrize(
    ("zone", "evening", "hour"),
    [
        ("Australia/Lord_Howe", datetime(2026, 4, 4, 12, tzinfo=UTC), 1),  # half an hour comes twice
        ("Australia/Lord_Howe", datetime(2026, 10, 3, 12, tzinfo=UTC), 2),  # and is missing
        ("Europe/Madrid", datetime(2026, 10, 24, 20, tzinfo=UTC), 2),
        ("Europe/Madrid", datetime(2026, 3, 28, 20, tzinfo=UTC), 2),
    ],
)
def test_a_daily_cron_fires_once_a_night_whenever_its_runs_start(
    zone: str, evening: datetime, hour: int, seconds: str
) -> None:
    for minute in range(60):
        daily_one = RetrainSpec(cron=f"{seconds}{minute} {hour} * * *", timezone=zone)
        for late in range(0, 100, 5):
            found, after = [], evening
            while (fire := first_fire(daily_one, after)) is not None and fire < evening + 3 * DAY:
                found.append(fire.astimezone(ZoneInfo(zone)).date())
                after = fire + timedelta(minutes=late)
            assert (len(found), len(set(found))) == (3, 3), (daily_one.cron, late)


def test_a_cron_is_read_in_its_own_time_zone() -> None:
    retrain = RetrainSpec(cron="0 12 * * *", timezone="Asia/Tokyo")
    assert first_fire(retrain, NOON) == datetime(2026, 3, 3, 3, 0, tzinfo=UTC)


def test_a_cron_that_fired_often_while_nobody_looked_is_one_cause_that_stands_still() -> None:
    hourly = variant("acme.a", retrain={"cron": "0 * * * *"}, served=NOON - DAY)
    (cause,) = causes(hourly, (), NOON)
    assert (cause.since, cause.stamp) == (NOON - 23 * HOUR, "2026-03-01T13.00Z")
    assert causes(hourly, (), NOON + DAY) == [cause]


def test_a_clock_that_is_set_back_asks_for_nothing_again() -> None:
    served = daily("acme.a", known_since=NOON - 9 * DAY)
    (cause,) = causes(served, (), NOON)
    assert cause.since <= NOON
    ran = variant("acme.a", retrain={"cron": "0 12 * * *"}, served=NOON + HOUR)
    assert [causes(ran, (), at) for at in (NOON - HOUR, NOON, NOON + 2 * HOUR)] == [[], [], []]


def test_a_variant_that_was_just_declared_waits_for_its_first_cron() -> None:
    new = variant("acme.a", retrain={"cron": "0 12 * * *"}, served=None, known_since=NOON)
    assert causes(new, (), NOON + HOUR) == []
    assert len(causes(new, (), NOON + DAY)) == 1


def test_a_variant_that_ran_keeps_what_waits_when_the_table_is_made_again() -> None:
    waits = daily("acme.a", known_since=NOON - 9 * DAY)
    assert causes(daily("acme.a", known_since=NOON), (), NOON) == causes(waits, (), NOON) != []


def test_the_greatest_age_asks_a_day_ahead_and_is_late_when_it_is_reached() -> None:
    old = variant("acme.a", retrain={"max_age_days": 7}, served=NOON - 6 * DAY)
    assert causes(old, (), NOON - HOUR) == []
    (cause,) = causes(old, (), NOON)
    assert (cause.kind, cause.deadline) == ("age", NOON + DAY)
    short = variant("acme.a", retrain={"max_age_days": 1}, served=NOON)
    assert causes(short, (), NOON + 0.4 * DAY) == []
    assert len(causes(short, (), NOON + 0.5 * DAY)) == 1


def test_an_age_asks_for_no_first_run() -> None:
    assert causes(variant("acme.a", retrain={"max_age_days": 1}, served=None), (), NOON + 9 * DAY) == []


def test_an_order_asks_once_for_each_variant_that_it_names_and_that_was_run_before_it() -> None:
    order = ORDER.model_copy(update={"variants": ("acme.*",)})
    (cause,) = causes(variant("acme.a"), (order,), NOON)
    assert (cause.stamp, cause.deadline) == ("order-erasure-7-2026-03-02T11.00.00Z", NOON + DAY)
    assert cause.words == "order erasure-7: erase a person"
    assert causes(variant("globex.a"), (order,), NOON) == []
    assert causes(variant("acme.a", served=NOON - HOUR / 2), (order,), NOON) == []
    assert causes(variant("acme.a", served=None), (order,), NOON) == []
    assert causes(variant("acme.a"), (order,), NOON - 2 * HOUR) == []


@pytest.mark.parametrize(
    ("orders", "words"),
    [
        ([ORDER, ORDER.model_copy(update={"reason": "erase another"})], "two orders are named erasure-7"),
        ([ORDER.model_copy(update={"deadline": NOON - DAY})], "deadline: comes before given"),
    ],
)
def test_an_order_that_is_told_from_no_other_or_was_late_when_given_is_refused(
    tmp_path: Path, orders: list[PlatformOrder], words: str
) -> None:
    (tmp_path / "tenants").mkdir()
    content = {"fleet": {"orders": [order.model_dump(mode="json") for order in orders]}}
    (tmp_path / "ft_dagster.yaml").write_text(json.dumps(content))
    with pytest.raises(UserError, match=words) as error:
        load_settings(tmp_path)
    assert str(error.value.field).startswith("fleet.orders")


def test_changed_data_asks_where_it_is_declared_and_only_once_it_stands_still() -> None:
    news = changed(NOON - HOUR, NOON - HOUR / 4)
    assert causes(variant("acme.a", news=(news,)), (), NOON) == []
    (cause,) = causes(variant("acme.a", news=(news,), retrain={"on_new_data": True}), (), NOON)
    assert cause.ready == NOON + HOUR / 4


def test_a_source_that_never_stands_still_is_trained_on_after_a_day() -> None:
    restless = changed(NOON - DAY, NOON)
    (cause,) = causes(variant("acme.a", news=(restless,), retrain={"on_new_data": True}), (), NOON)
    assert cause.ready == NOON


@pytest.mark.parametrize(
    ("retrain", "words"),
    [
        ({"least_share": 0.3}, "20.0% of the bytes changed, least_share is 30.0%"),
        ({"least_rows": 51}, "about 50 rows changed, least_rows is 51"),
        ({"least_rows": 50, "least_share": 0.2}, None),
    ],
)
def test_a_change_below_the_least_asks_for_nothing(retrain: dict[str, float], words: str | None) -> None:
    news = changed(NOON, share=0.2, rows=50)
    assert too_little(variant("acme.a", news=(news,), retrain={"on_new_data": True, **retrain})) == words


def test_a_parents_release_needs_no_word_and_another_base_does() -> None:
    parent = News("parent", "acme.base-v2", NOON, NOON, "parent acme.base v2")
    base = News("base", "base-ab12", NOON, NOON, "base models/x changed")
    (cause,) = causes(variant("acme.a", news=(parent, base)), (), NOON)
    assert cause.stamp == "acme.base-v2"
    both = causes(variant("acme.a", news=(parent, base), retrain={"on_new_base": True}), (), NOON)
    assert [each.kind for each in both] == ["parent", "base"]


def test_the_next_look_is_when_time_alone_may_make_it_due() -> None:
    assert next_look(variant("acme.a"), (), NOON) is None
    assert next_look(daily("acme.a"), (), NOON - HOUR) == NOON - HOUR  # it is due already
    ran = variant("acme.a", retrain={"cron": "0 18 * * *", "max_age_days": 1.5}, served=NOON)
    assert next_look(ran, (), NOON) == NOON + 6 * HOUR
    assert next_look(ran, (), NOON + 7 * HOUR) == NOON + 7 * HOUR
    aging = variant("acme.a", retrain={"max_age_days": 5}, served=NOON)
    assert next_look(aging, (), NOON) == NOON + 4 * DAY
    later = ORDER.model_copy(update={"given": NOON + DAY})
    assert next_look(variant("acme.a"), (later,), NOON) == NOON + DAY
    quiet = variant("acme.a", news=(changed(NOON),), retrain={"on_new_data": True})
    assert next_look(quiet, (), NOON) == NOON + HOUR / 2
    assert next_look(daily("acme.a", running=True), (), NOON) is None
