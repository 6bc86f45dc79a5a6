"""What a tick asks for after a table was lost, a store was damaged, or the tick before was killed."""

import errno
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from ft_dagster.assets.partitions import PARTITIONS
from ft_dagster.automation import due
from ft_dagster.automation.due import rebuild_fleet
from ft_dagster.automation.fleet_table import fleet_url, open_fleet
from ft_dagster.build import default_resources as resources
from ft_dagster.definitions import defs
from ft_dagster.errors import UserError
from ft_dagster.fleet.table.table import SCHEMA_VERSION, FleetTable
from ft_dagster.fleet.table.table_rows import METADATA
from ft_dagster.settings import load_settings
from ft_dagster.store import Attempt, Store, write_head
from ft_dagster.store.make import Recipe, make_artifact
from tests.automation.declarations import NOON, declare, tick, ticked
from tests.automation.ticks import DAY, HOUR, STATUS, row, run_of, settings
from tests.fleet.tables import row_of
from tests.long import mostly_long
from tests.present import present

pytestmark = pytest.mark.slow


def due_retrains() -> dg.SensorDefinition:
    return defs.get_repository_def().get_sensor_def("due_retrains")


def lose(project: Path, instance: dg.DagsterInstance) -> None:
    address = fleet_url(instance, load_settings(project))
    if address.startswith("sqlite"):
        os.remove(address.removeprefix("sqlite:///"))
    else:
        METADATA.drop_all(sa.create_engine(address))


@pytest.mark.long
@pytest.mark.parametrize("most", [2_000, 2])
def test_what_was_charged_is_charged_again_to_a_table_that_was_lost_before_anything_is_asked_for(
    project: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    settings(project, spread_hours=0, budget={"hours_per_day": 5.0})
    names = [f"acme.v{number}" for number in range(6)]
    for name in names:
        declare(project, name, "* * * * *")
    now = datetime.now(UTC).replace(hour=12, minute=30, second=0) + DAY
    tick(project, instance, now - HOUR)
    asked = tick(project, instance, now)
    assert len(asked) == 5
    for request in asked:
        run_of(instance, request, STATUS.STARTED)
    ticked(project, instance, now + HOUR)
    cursor = json.dumps({"runs": now.timestamp(), "releases": 0})  # runs of others changed since
    lose(project, instance)
    monkeypatch.setattr("ft_dagster.automation.due.MOST_RUNS", most)
    said = set[str]()
    for minutes in range(9):
        waits = ticked(project, instance, now + HOUR + minutes * HOUR / 60, cursor)
        assert waits.requests == ()
        cursor = str(waits.seen)
        said.add(waits.said)
    assert waits.said.endswith(" budget")
    assert ("nothing is asked for until all runs were read" in said) == (most == 2)


@pytest.mark.long
def test_a_lost_table_is_made_again_and_asks_for_nothing_that_was_asked(
    project: Path, instance: dg.DagsterInstance
) -> None:
    declare(project, "acme.daily", "0 12 * * *")
    tick(project, instance, NOON - HOUR)
    (first,) = tick(project, instance, NOON)
    run_of(instance, first, STATUS.SUCCESS)
    last = ticked(project, instance, NOON + HOUR)
    assert last.requests == ()
    before = row(project, instance, "acme.daily")
    lose(project, instance)
    assert ticked(project, instance, NOON + HOUR, str(last.seen)).requests == ()
    after = row(project, instance, "acme.daily")
    assert (after.state.served, after.state.asked) == (before.state.served, before.state.asked)


def test_a_table_of_a_newer_version_is_refused_and_the_sensor_says_so(
    project: Path, instance: dg.DagsterInstance
) -> None:
    declare(project, "acme.daily", "0 12 * * *")
    tick(project, instance, NOON)
    engine = sa.create_engine(fleet_url(instance, load_settings(project)))
    with engine.begin() as connection:
        connection.execute(
            sa.text("update ft_dagster_fleet_meta set value = '99' where name = 'schema_version'")
        )
    with pytest.raises(UserError, match="written by a newer ft-dagster"):
        tick(project, instance, NOON)
    with dg.build_sensor_context(instance=instance, resources=resources(str(project))) as context:
        skipped = due_retrains().evaluate_tick(context)
    assert "written by a newer ft-dagster" in present(skipped.skip_message)


@pytest.mark.parametrize("schema", mostly_long(range(1, SCHEMA_VERSION), [SCHEMA_VERSION - 1]))
def test_a_table_of_an_older_version_is_made_again_and_asks_for_nothing_that_was_asked(
    project: Path, instance: dg.DagsterInstance, schema: int
) -> None:
    declare(project, "acme.daily", "0 12 * * *")
    tick(project, instance, NOON - HOUR)
    (first,) = tick(project, instance, NOON)
    run_of(instance, first, STATUS.SUCCESS)
    with sa.create_engine(fleet_url(instance, load_settings(project))).begin() as connection:
        for table in ("variants", "charges", "places", "meta"):
            connection.execute(sa.text(f"drop table ft_dagster_fleet_{table}"))
        connection.execute(sa.text("create table ft_dagster_fleet_meta (name text, value text)"))
        connection.execute(sa.text("create table ft_dagster_fleet_places (place text, key text)"))
        version = f"insert into ft_dagster_fleet_meta values ('schema_version', '{schema}')"
        connection.execute(sa.text(version))
    assert tick(project, instance, NOON + HOUR) == []
    assert row(project, instance, "acme.daily").state.served is not None


@pytest.mark.parametrize("instance", ["sqlite"], indirect=True)
def test_a_damaged_table_is_said_and_made_again(project: Path, instance: dg.DagsterInstance) -> None:
    declare(project, "acme.daily", "0 12 * * *")
    tick(project, instance, NOON)
    settings = load_settings(project)
    Path(fleet_url(instance, settings).removeprefix("sqlite:///")).write_bytes(b"garbage" * 1000)
    with pytest.raises(UserError, match="file is not a database"):
        tick(project, instance, NOON)
    assert [row.key for row in rebuild_fleet(instance, settings)] == ["acme.daily"]


def test_processes_that_make_the_table_at_once_all_find_one(
    project: Path, instance: dg.DagsterInstance
) -> None:
    settings, start = load_settings(project), Barrier(8)

    def opens(_: int) -> str:
        start.wait()
        return open_fleet(instance, settings).url

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(opens, range(8)))) == 1


def test_the_sensor_gives_its_cursor_and_says_what_waits(project: Path, instance: dg.DagsterInstance) -> None:
    declare(project, "acme.often", "* * * * *")
    open_fleet(instance, load_settings(project))
    with dg.build_sensor_context(instance=instance, resources=resources(str(project))) as context:
        first = due_retrains().evaluate_tick(context)
    assert json.loads(present(first.cursor))["releases"] == 0
    assert first.skip_message == "no variant is due"
    assert tick(project, instance, datetime.now(UTC) + HOUR) != []


def made(project: Path, instance: dg.DagsterInstance) -> Path:
    """A variant that was trained: its run, what Dagster was told of it, and the store; where that is."""
    declare(project, "acme.daily", "0 12 * * *")
    store = load_settings(project).open_store()
    recipe = Recipe("evaluation", "tenants/acme/daily")
    judged = make_artifact(store, project / "work", recipe, lambda _: {"verdict": {"passed": True}})
    write_head(store, recipe.prefix, judged, None)
    instance.report_runless_asset_event(dg.AssetMaterialization("declaration", partition="acme.daily"))
    return Path(store.root)


def test_a_store_that_is_gone_is_no_fleet_that_was_never_trained(
    project: Path, instance: dg.DagsterInstance
) -> None:
    store = made(project, instance)
    later = datetime.now(UTC) + 3 * DAY
    assert len(tick(project, instance, later)) == 1  # of a day after it was judged
    before = row(project, instance, "acme.daily")
    assert before.version is not None
    store.rename(project / "elsewhere")
    for lost in (False, True):
        if lost:  # what the table knew: Dagster's events know it too
            lose(project, instance)
        with pytest.raises(UserError, match="the store holds nothing") as refused:
            tick(project, instance, later)
        assert refused.value.file == str(store)
        with dg.build_sensor_context(instance=instance, resources=resources(str(project))) as context:
            skipped = due_retrains().evaluate_tick(context)
        assert "the store holds nothing" in present(skipped.skip_message)
        if not lost:
            assert row(project, instance, "acme.daily") == before
    with pytest.raises(UserError, match="the store holds nothing"):
        rebuild_fleet(instance, load_settings(project))
    (project / "elsewhere").rename(store)
    tick(project, instance, later)
    assert row(project, instance, "acme.daily").version == before.version


def test_a_table_that_is_made_again_still_knows_that_the_store_held_something(
    project: Path, instance: dg.DagsterInstance
) -> None:
    store, settings = made(project, instance), load_settings(project)
    rebuild_fleet(instance, settings)
    instance.wipe_assets([dg.AssetKey("declaration")])
    store.rename(project / "elsewhere")
    for _ in range(2):
        with pytest.raises(UserError, match="the store holds nothing"):
            rebuild_fleet(instance, settings)
    rebuild_fleet(instance, settings, empty_store=True)
    (row,) = rebuild_fleet(instance, settings)  # it was said once
    assert row.version is None


def test_a_store_that_goes_in_the_middle_of_a_tick_is_not_learnt_from(
    project: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, now = made(project, instance), datetime.now(UTC)
    tick(project, instance, now)
    before, real = row(project, instance, "acme.daily"), due.learn

    def goes(*given: Any, **named: Any) -> Any:
        store.rename(project / "elsewhere")
        return real(*given, **named)

    monkeypatch.setattr(due, "learn", goes)
    run_of(instance, dg.RunRequest("by hand", partition_key="acme.daily"), STATUS.SUCCESS)
    with pytest.raises(UserError, match="the store holds nothing"):
        tick(project, instance, now + DAY)
    after = row(project, instance, "acme.daily")
    assert (after.version, after.learnt) == (before.version, False)


def test_a_store_that_is_to_be_new_is_said_to_be(project: Path, instance: dg.DagsterInstance) -> None:
    store = made(project, instance)
    tick(project, instance, datetime.now(UTC))
    store.rename(project / "elsewhere")
    (row,) = rebuild_fleet(instance, load_settings(project), empty_store=True)
    assert row.version is None
    assert len(tick(project, instance, datetime.now(UTC) + 2 * DAY)) == 1


def test_a_store_that_cannot_be_listed_is_said_and_nothing_decided(
    project: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(project, instance)

    def stale(*asked: Any) -> list[str]:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(Store, "names", stale)
    with pytest.raises(UserError, match=r"could not be reached: .*until then nothing is decided by it"):
        tick(project, instance, NOON)


class Killed(BaseException):
    """As kill -9: nothing is tidied up, and what a transaction had not written is not there."""


DEADLY = [
    (FleetTable, "put"), (FleetTable, "charge"), (FleetTable, "set_meta"),
    (dg.DagsterInstance, "add_dynamic_partitions"), (dg.DagsterInstance, "get_runs_count"),
]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("call", range(1, 4))
@pytest.mark.parametrize("deadly", DEADLY, ids=lambda deadly: deadly[1])
def test_a_tick_that_is_killed_anywhere_is_made_again(
    project: Path,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    deadly: tuple[type, str],
    call: int,
) -> None:
    """Between one tick and the next a run ended, and a declaration came."""
    owner, method = deadly
    for key in ("acme.daily", "acme.ran"):
        declare(project, key, "0 12 * * *")
    tick(project, instance, NOON - HOUR)
    ran = next(r for r in tick(project, instance, NOON) if r.partition_key == "acme.ran")
    run_of(instance, ran, STATUS.SUCCESS)
    declare(project, "acme.new", "0 12 * * *")
    real, calls = getattr(owner, method), 0

    def dies(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Killed
        return real(*given, **named)

    monkeypatch.setattr(owner, method, dies)
    with suppress(Killed):
        tick(project, instance, NOON + HOUR)
    monkeypatch.setattr(owner, method, real)
    again = tick(project, instance, NOON + HOUR)
    assert [request.run_key for request in again] == ["acme.daily@2026-03-02T12.00Z"]
    assert sorted(instance.get_dynamic_partitions(PARTITIONS)) == ["acme.daily", "acme.new", "acme.ran"]
    assert row(project, instance, "acme.ran").state.served is not None


def test_two_ticks_at_once_ask_for_the_same_run_by_the_same_key(
    project: Path, instance: dg.DagsterInstance
) -> None:
    for number in range(20):
        declare(project, f"acme.v{number}", "0 12 * * *")
    tick(project, instance, NOON - HOUR)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: tick(project, instance, NOON), range(2))
    assert len(first) == 20
    assert [request.run_key for request in first] == [request.run_key for request in second]


def fleet_command(project: Path, *words: str) -> Any:
    program = Path(sys.executable).with_name("ft-dagster")
    command: list[str | Path] = [program, "--project", project, "fleet", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return json.loads(done.stdout)


@pytest.mark.long
def test_the_commands_make_the_table_again_also_of_a_newer_version_and_say_what_is_due(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(project, "acme.often", retrain={"cron": "* * * * *", "max_age_days": 0.001})
    declare(project, "acme.broken", objectiv="x")
    declare(project, "globex.broken", objectiv="x")
    home = project / "home"
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    home.mkdir()
    with sa.create_engine(f"sqlite:///{home / 'fleet.db'}").begin() as connection:
        connection.execute(sa.text("create table ft_dagster_fleet_meta (name text, value text)"))
        connection.execute(sa.text("insert into ft_dagster_fleet_meta values ('schema_version', '99')"))
    other = project / "elsewhere"
    (other / "tenants").mkdir(parents=True)
    with monkeypatch.context() as at_home:
        at_home.delenv("DAGSTER_HOME")
        assert fleet_command(other, "due") == {"due": [], "looked": None}
    said = fleet_command(project, "rebuild")
    assert said["variants"] == 3
    assert sorted(said["broken"]) == ["acme.broken", "globex.broken"]
    table = FleetTable(f"sqlite:///{home / 'fleet.db'}")
    often = row_of(table, "acme.often")
    table.put([often.known(known_since=often.state.known_since - DAY)])
    due = fleet_command(project, "due", "--tenant", "acme")["due"]
    assert [(row["variant"], row["state"]) for row in due] == [
        ("acme.often", "due"),
        ("acme.broken", "broken"),
    ]
    assert due[0]["reasons"] == ["schedule"]
    program = Path(sys.executable).with_name("ft-dagster")
    command: list[str | Path] = [program, "--project", project, "fleet", "due"]
    piped = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    (plain,) = (line.split() for line in piped.splitlines() if "acme.often" in line)
    assert plain[:3] == ["acme.often", "due", "schedule"]
    assert (due[0]["hours"], due[0]["cost"]) == (1.0, "no hours are planned: taken as 1 h")
    assert "objectiv" in due[1]["why"]


def test_a_store_that_cannot_be_read_is_said_and_asked_again(
    project: Path, instance: dg.DagsterInstance
) -> None:
    declare(project, "acme.daily", "0 12 * * *")
    declare(project, "acme.other", "0 12 * * *")
    head = project / ".ft_dagster" / "store" / "tenants" / "acme" / "daily" / "heads" / "training_plan.json"
    head.parent.mkdir(parents=True)
    head.write_text("{")
    tick(project, instance, NOON - HOUR)
    assert "not a head" in present(row(project, instance, "acme.daily").state.broken)
    assert [r.partition_key for r in tick(project, instance, NOON)] == ["acme.other"]
    head.unlink()
    assert [r.partition_key for r in tick(project, instance, NOON)] == ["acme.daily", "acme.other"]
    assert row(project, instance, "acme.daily").state.broken is None


def test_what_cannot_be_read_is_read_again_after_all_else(
    project: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("acme.a", "acme.b", "acme.c"):
        declare(project, name, "0 12 * * *")
    head = project / ".ft_dagster" / "store" / "tenants" / "acme" / "a" / "heads" / "training_plan.json"
    head.parent.mkdir(parents=True)
    head.write_text("{")
    monkeypatch.setattr("ft_dagster.automation.due.LEARN_SECONDS", 0.0)  # one variant a tick
    for _ in range(3):
        tick(project, instance, NOON - HOUR)
    known = [row(project, instance, name) for name in ("acme.a", "acme.b", "acme.c")]
    assert [each.learnt for each in known] == [False, True, True]


@pytest.mark.parametrize("damage", mostly_long(["", "{}", "[]", '{"schema_version": 1, "plan": {}}'], ["{}"]))
def test_a_plan_that_is_damaged_is_said_and_holds_up_no_other(
    project: Path, instance: dg.DagsterInstance, damage: str
) -> None:
    declare(project, "acme.daily", "0 12 * * *")
    declare(project, "acme.other", "0 12 * * *")
    store = load_settings(project).open_store()

    def damaged(attempt: Attempt) -> dict[str, Any]:
        (attempt.evidence / "estimate.json").write_text(damage)
        return {}

    recipe = Recipe("training_plan", "tenants/acme/daily", {})
    write_head(store, recipe.prefix, make_artifact(store, project / "work", recipe, damaged), None)
    tick(project, instance, NOON - HOUR)
    assert "not an estimate" in present(row(project, instance, "acme.daily").state.broken)
    assert [r.partition_key for r in tick(project, instance, NOON)] == ["acme.other"]


def test_what_else_of_a_variants_store_is_damaged_holds_up_no_other(
    project: Path, instance: dg.DagsterInstance
) -> None:
    declare(project, "acme.daily", "0 12 * * *")
    declare(project, "acme.other", "0 12 * * *")
    store = load_settings(project).open_store()
    recipe = Recipe("evaluation", "tenants/acme/daily", {})
    made = make_artifact(store, project / "work", recipe, lambda attempt: {"verdict": None})
    write_head(store, recipe.prefix, made, None)
    tick(project, instance, NOON - HOUR)
    assert "the store cannot be read" in present(row(project, instance, "acme.daily").state.broken)
    assert [r.partition_key for r in tick(project, instance, NOON)] == ["acme.other"]


def test_a_second_project_on_the_instance_of_another_is_refused_and_changes_nothing_there(
    project: Path, instance: dg.DagsterInstance, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As two code locations on one Postgres, neither of which has a prefix."""
    other, link = tmp_path_factory.mktemp("other"), tmp_path_factory.mktemp("links") / "project"
    declare(project, "acme.support", "* * * * *")
    declare(other, "globex.support", "* * * * *")
    assert tick(project, instance, NOON) == []
    for again in (lambda: tick(other, instance, NOON), lambda: rebuild_fleet(instance, load_settings(other))):
        with pytest.raises(UserError, match=str(project)) as refused:
            again()
        assert "prefix" in refused.value.fix
    assert instance.get_dynamic_partitions(PARTITIONS) == ["acme.support"]
    assert not row(project, instance, "acme.support").state.retired
    link.symlink_to(project)
    assert [request.partition_key for request in tick(link, instance, NOON + DAY)] == ["acme.support"]
