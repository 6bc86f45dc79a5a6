"""A request for an erasure is reminded of as its day comes near, and once it is late."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest

from ft_dagster.fleet.events.erasures import reminders
from ft_dagster.lineage.erasures import HOLD, PURGE, REQUEST, ErasureEntry, ErasureState

ASKED = ErasureEntry(
    REQUEST, "r1", "acme", "ann", "art. 17", at="2026-12-01T10:00:00+00:00", due="2026-12-31",
    retrains=("acme.one", "acme.child"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("today", "days", "at"),
    [
        ("2026-12-24", 7, "2026-12-24"),
        ("2026-12-27", 7, "2026-12-24"),
        ("2026-12-28", 3, "2026-12-28"),
        ("2026-12-31", 1, "2026-12-30"),
        ("2027-03-01", -1, "2027-01-01"),
    ],
)
def test_each_reminder_has_an_id_of_its_own_by_the_days_that_are_left(today: str, days: int, at: str) -> None:
    told = list(reminders(ErasureState(ASKED), ["acme.first"], date.fromisoformat(today)))
    assert [event.variant for event in told] == ["acme.one", "acme.child"]
    assert {event.happened for event in told} == {f"r1:{days}"}
    assert {event.at[:10] for event in told} == {at}
    due = "was due" if days < 0 else "is due"
    said = f"request r1 for an erasure {due} on 2026-12-31 and is not purged; it is approved"
    assert told[0].sentence == said


def test_where_none_trains_again_the_variants_that_are_given_are_told() -> None:
    state = ErasureState(replace(ASKED, retrains=(), approvers=("bob", "eve")))
    [told] = reminders(state, ["acme.first"], date(2026, 12, 30))
    assert told.variant == "acme.first"
    assert told.sentence.endswith("it waits for approval by bob or eve")


@pytest.mark.parametrize("action", ["purged", "held", "early"])
def test_what_is_purged_held_or_far_off_is_not_told(action: str) -> None:
    state, today = ErasureState(ASKED), date(2026, 12, 30)
    if action == "purged":
        state = replace(state, purged=replace(ASKED, action=PURGE))
    elif action == "held":
        state = replace(state, held=replace(ASKED, action=HOLD))
    else:
        today = date(2026, 12, 23)
    assert not list(reminders(state, ["acme.first"], today))
