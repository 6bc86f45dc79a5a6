"""Where the fleet's table and the record of what was told are kept: in files, and in a real Postgres."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from threading import Barrier

import pytest
import sqlalchemy as sa

from ft_dagster.errors import UserError
from ft_dagster.fleet.due.budget_ledger import Charge
from ft_dagster.fleet.due.reasons import News, VariantState
from ft_dagster.fleet.due.retrain_cost import Amount, PaidFor, expected_cost
from ft_dagster.fleet.events.events import FleetEvent
from ft_dagster.fleet.events.outbox import Outbox
from ft_dagster.fleet.table.table import FleetTable, emptied
from ft_dagster.fleet.table.table_rows import FleetRow, Watched
from ft_dagster.spec import VariantKey
from ft_dagster.spec.variant import RetrainSpec
from tests.fleet.tables import row_of
from tests.postgres import PASSWORD, PostgresServer

pytestmark = pytest.mark.slow
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
AT_ONCE = 6


def row(key: str, served: datetime | None = None) -> FleetRow:
    state = VariantState(VariantKey.parse(key), RetrainSpec(), expected_cost(None), NOON, served=served)
    return FleetRow(state, "stamp", NOON, learnt=True)


def event(number: int) -> FleetEvent:
    return FleetEvent("run_failed", "acme.support", NOON.isoformat(), f"run {number}", "sentence")


def test_who_opens_it_at_once_finds_one(database: str) -> None:
    start = Barrier(AT_ONCE)

    def opens(_: int) -> int:
        start.wait()
        for _ in range(60):  # of files, a lock around it keeps others away: see automation.fleet_table
            with suppress(UserError):
                return len(FleetTable(database).rows()) + Outbox(database).states().__len__()
        raise AssertionError("never opened")

    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert list(pool.map(opens, range(AT_ONCE))) == [0] * AT_ONCE


def test_what_is_written_is_read_back(database: str) -> None:
    table = FleetTable(database)
    news = News("data", "data-1", NOON, NOON, "rows.jsonl changed", 0.5, 7)
    known = row("acme.support", served=NOON).known(news=(news,), failure='it said "no"', asked=("a", "b"))
    table.put([known, row("acme.never")], {"acme.support": Watched(["place"], 5)})
    assert row_of(table, "acme.support") == known
    assert table.places(["acme.support"]) == {"acme.support": ["place"]}
    assert table.places_due(NOON, 10) == {"place": 5}
    table.charge("run", [Charge(NOON.date(), "acme", Amount(0.1, 0.2))] * 2)
    assert table.charges(NOON.date()) == [Charge(NOON.date(), "acme", Amount(0.2, 0.4))]
    assert table.set_news({"acme.support": ()}, lambda state: NOON) == ["acme.support"]
    assert row_of(table, "acme.support").state.news == ()
    table.saw({"place": (NOON, "found")})
    assert FleetTable(database).running_and_count() == ([], 2)
    assert emptied(database).rows() == []


def test_the_newest_trainings_are_told_before_those_without_a_verdict(database: str) -> None:
    table = FleetTable(database)
    rows = [row("acme.a"), row("acme.b", NOON), row("acme.c", NOON + timedelta(days=1))]
    table.put([replace(each, paid=PaidFor(1.0, float(n))) for n, each in enumerate(rows)])
    assert [each.real for each in table.paid(2)] == [2.0, 1.0]


def test_who_writes_at_once_waits_and_nothing_is_lost(database: str) -> None:
    """Rows of the others, each other's order of keys, and one word that all of them change."""
    table, start = FleetTable(database), Barrier(AT_ONCE)
    keys = [f"acme.v{number:02}" for number in range(20)]

    def writes(worker: int) -> None:
        start.wait()
        for turn in range(5):
            mine = keys if (worker + turn) % 2 else keys[::-1]
            table.put([row(key) for key in mine])
            table.set_meta("said", f"{worker} {turn}")
            table.charge(f"run {worker} {turn}", [Charge(NOON.date(), "acme", Amount(1.0))])
            table.set_news({keys[worker]: ()}, lambda state: None)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(writes, range(AT_ONCE)))
    assert [each.key for each in table.rows()] == keys
    assert table.charges(NOON.date())[0].amount.hours == AT_ONCE * 5


def test_events_that_two_find_at_once_are_put_in_once(database: str) -> None:
    outbox, start = Outbox(database), Barrier(2)

    def finds(_: int) -> None:
        start.wait()
        for number in range(20):
            found = [event(number), event(number + 1)]
            with suppress(UserError):  # of a file: another put in the same, and the tick is made again
                outbox.put(found, {each.id: ["ops"] for each in found}, NOON)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(finds, range(2)))
    waiting = [outbox.next_for("ops", NOON)]
    while waiting[-1] is not None:
        outbox.told(waiting[-1].id, "ops", NOON)
        waiting.append(outbox.next_for("ops", NOON))
    assert sorted(each.id for each in waiting if each) == sorted(event(number).id for number in range(21))
    assert outbox.unknown([event(number) for number in range(25)]) == [event(n) for n in range(21, 25)]


def test_an_event_is_the_same_bytes_again(database: str) -> None:
    outbox = Outbox(database)
    outbox.put([event(1)], {event(1).id: ["ops"]}, NOON)
    waiting = outbox.next_for("ops", NOON)
    assert waiting is not None
    assert (waiting.id, waiting.body) == (event(1).id, event(1).body)
    outbox.failed(waiting, "ops", "answered 500", NOON)
    assert outbox.next_for("ops", NOON) is None
    assert outbox.states()["ops"] == (1, 1, "answered 500")
    outbox.forget_old(NOON + timedelta(days=900), ["ops"])
    assert outbox.unknown([event(1)]) == []  # it was never told


@pytest.mark.long
def test_a_server_that_is_away_is_said_in_a_line_without_its_password(postgres: PostgresServer) -> None:
    address = postgres.new_database().replace(f":{postgres.port}/", ":1/")
    with pytest.raises(UserError, match="the fleet's table cannot be used") as refused:
        FleetTable(address)
    assert "\n" not in str(refused.value)
    assert PASSWORD not in str(refused.value)


@pytest.mark.long
def test_a_writer_does_not_wait_for_ever(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ft_dagster.fleet.table.database.BUSY_SECONDS", 1)
    address = postgres.new_database()
    table, other = FleetTable(address), FleetTable(address)
    with table._database.changing(), pytest.raises(UserError, match="lock timeout"):
        other.set_meta("said", "x")
    other.set_meta("said", "x")


@pytest.mark.long
@pytest.mark.parametrize("way", ["crash", "stop"])
def test_a_server_that_ends_under_load_loses_nothing_that_was_acknowledged(
    postgres: PostgresServer, way: str
) -> None:
    address, ends = postgres.new_database(), threading.Event()
    outbox, table = Outbox(address), FleetTable(address)
    acknowledged, refused = list[str](), list[str]()
    numbers = count()

    def writes(_: int) -> None:
        while not ends.is_set():
            number = next(numbers)
            one = event(number)
            try:
                outbox.put([one], {one.id: ["ops"]}, NOON)
                table.put([row(f"acme.v{number}")])
            except UserError as error:
                refused.append(str(error))
                time.sleep(0.05)
            else:
                acknowledged.append(one.id)

    with ThreadPoolExecutor(4) as pool:
        pool.map(writes, range(4))
        for _ in range(2):
            _grows(acknowledged)
            getattr(postgres, way)()
            time.sleep(0.3)
            postgres.start()
        _grows(acknowledged)
        ends.set()
    assert refused
    assert all("\n" not in why for why in refused)
    with sa.create_engine(address).connect() as connection:
        kept = connection.execute(sa.text("select id from ft_dagster_events")).scalars().all()
        waiting = connection.execute(sa.text("select event from ft_dagster_deliveries")).scalars().all()
    assert set(acknowledged) <= set(kept)
    assert sorted(kept) == sorted(waiting)
    assert len(kept) == len(set(kept))
    assert len(table.rows()) >= len(acknowledged)


def _grows(numbers: list[str], by: int = 20) -> None:
    end, before = time.monotonic() + 30, len(numbers)
    while len(numbers) < before + by:
        assert time.monotonic() < end
        time.sleep(0.02)
