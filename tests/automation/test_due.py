"""What a tick asks for: each reason, once, and never what was dealt with."""

import json
import time
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.tags import AUTO_RETRY_RUN_ID_TAG

from ft_dagster.assets.partitions import GRAPH, PARTITIONS
from ft_dagster.automation.past_runs import past_runs, runs_of_many
from ft_dagster.automation.processes.unfinished import come_to_each_failure
from ft_dagster.automation.tags import CHARGES, DUE
from ft_dagster.fleet.history import MOST_RUNS
from ft_dagster.lineage.release import ReleaseRequest, promote, rollback
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.store import write_head
from ft_dagster.store.make import Recipe, make_artifact
from ft_dagster.versions.summary import variant_row
from tests.automation.declarations import NOON, declare, start_from, tick, ticked
from tests.automation.ticks import DAY, HOUR, STATUS, end, report_release, row, run_of, settings
from tests.present import present
from tests.releases import adapter, release

pytestmark = pytest.mark.slow


def test_a_tick_asks_for_one_run_per_due_variant(project: Path, instance: dg.DagsterInstance) -> None:
    declare(project, "acme.daily", "0 12 * * *")
    declare(project, "acme.later", "0 18 * * *")
    declare(project, "globex.monday", "0 12 * * 1")
    declare(project, "globex.never")
    assert tick(project, instance, NOON - HOUR) == []
    requests = tick(project, instance, NOON)
    assert [r.partition_key for r in requests] == ["acme.daily", "globex.monday"]
    assert requests[0].run_key == "acme.daily@2026-03-02T12.00Z"
    assert requests[0].tags["ft/tenant"] == "acme"
    assert requests[0].tags["ft/variant"] == "acme.daily"
    assert requests[0].tags["ft/reason"] == "schedule"


def test_the_same_cron_time_is_never_asked_for_twice(project: Path, instance: dg.DagsterInstance) -> None:
    declare(project, "acme.daily", "0 12 * * *")
    tick(project, instance, NOON - HOUR)
    (first,) = tick(project, instance, NOON)
    assert tick(project, instance, NOON) == [first]  # the daemon was killed before it made the run
    run_id = run_of(instance, first)
    waits = ticked(project, instance, NOON)
    assert waits.requests == ()
    end(instance, run_id, STATUS.SUCCESS)
    assert tick(project, instance, NOON + HOUR) == []


def test_what_an_older_version_asked_for_a_cron_with_seconds_is_not_asked_for_again(
    project: Path, instance: dg.DagsterInstance
) -> None:
    """Its stamps had no seconds. Before it begins, while it runs, and once it succeeded."""
    declare(project, "acme.daily", "30 0 12 * * *")
    now = datetime.now(UTC)
    ticked(project, instance, now - 2 * DAY)
    (first,) = tick(project, instance, now)
    assert first.tags[DUE].endswith("T12.00.30Z")
    older = first.tags[DUE].replace(".30Z", "Z")
    asked = dg.RunRequest(partition_key=first.partition_key, tags={**first.tags, DUE: older})
    run_id = run_of(instance, asked)
    for status in (STATUS.QUEUED, STATUS.STARTED, STATUS.SUCCESS):
        end(instance, run_id, status)
        assert tick(project, instance, now) == []
    assert row(project, instance, "acme.daily").state.asked == (older,)


def test_a_table_that_is_behind_asks_for_nothing_twice(project: Path, instance: dg.DagsterInstance) -> None:
    declare(project, "acme.daily", "0 12 * * *")
    tick(project, instance, NOON - HOUR)
    (first,) = tick(project, instance, NOON)
    run_of(instance, first)
    later = json.dumps({"runs": (datetime.now(UTC) + DAY).timestamp(), "releases": 0})
    assert ticked(project, instance, NOON, later).requests == ()  # a cursor that skips the run


@pytest.mark.long
def test_what_a_cursor_missed_is_learnt_of_all_the_same(project: Path, instance: dg.DagsterInstance) -> None:
    names = ["acme.a", "acme.b", "acme.c"]
    for name in names:
        declare(project, name, "0 12 * * *")
    declare(project, "acme.idle")
    tick(project, instance, NOON - HOUR)
    runs = [run_of(instance, request) for request in tick(project, instance, NOON)]
    tick(project, instance, NOON)
    ahead = json.dumps({"runs": (datetime.now(UTC) + DAY).timestamp(), "releases": 0})
    now = datetime.now(UTC)
    for run_id in runs:
        end(instance, run_id, STATUS.SUCCESS)
    run_of(instance, dg.RunRequest("by hand", partition_key="acme.idle"), STATUS.SUCCESS)
    assert json.loads(str(ticked(project, instance, now, ahead).seen))["runs"] <= now.timestamp()
    assert row(project, instance, "acme.idle").state.served is not None
    later = now + 9 * DAY  # past all that is read by a cursor
    assert [row(project, instance, name).state.running for name in names] == [False] * 3
    for name in names:
        run_of(instance, dg.RunRequest("by hand", partition_key=name), STATUS.SUCCESS)
    before = [row(project, instance, name).state.served for name in names]
    seen = str(ticked(project, instance, later, ahead).seen)
    for minutes in range(1, len(names) + 2):
        seen = str(ticked(project, instance, later + minutes * HOUR / 60, seen).seen)
    after = [row(project, instance, name).state.served for name in names]
    assert all(new > old for new, old in zip(map(present, after), map(present, before), strict=True))


def test_a_failed_run_is_tried_again_later_and_then_parked(
    project: Path, instance: dg.DagsterInstance
) -> None:
    declare(project, "acme.daily", retrain={"cron": "0 12 * * *", "max_attempts": 2})
    tick(project, instance, NOON - HOUR)
    (first,) = tick(project, instance, NOON)
    time.sleep(0.01)  # after the declaration was written
    run_of(instance, first, STATUS.FAILURE)
    now = datetime.now(UTC)
    held = ticked(project, instance, now)
    assert [each.kind for each in held.decisions.not_done] == ["back-off"]
    assert "out of memory" in held.decisions.not_done[0].why
    (again,) = tick(project, instance, now + HOUR)
    assert again.tags[DUE] == "2026-03-02T12.00Z.try2"
    run_of(instance, again, STATUS.FAILURE)
    assert [each.kind for each in ticked(project, instance, now + 9 * DAY).decisions.not_done] == ["parked"]
    time.sleep(0.01)
    declare(project, "acme.daily", retrain={"cron": "0 13 * * *", "max_attempts": 2})
    (mended,) = tick(project, instance, now + 9 * DAY)
    assert mended.tags[DUE] == "2026-03-02T13.00Z"


def test_the_runs_of_many_variants_are_read_by_one_query_as_each_by_its_own(
    project: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [VariantKey("acme", name) for name in ("first", "other", "never")]
    for status in (STATUS.SUCCESS, STATUS.FAILURE, STATUS.QUEUED):
        for key in keys[:2]:
            run_of(instance, dg.RunRequest(f"{key} {status}", partition_key=str(key)), status)
    many = runs_of_many(instance, [str(key) for key in keys], GRAPH)
    for key in keys:
        known = list(past_runs(instance, key, GRAPH, 5, many[str(key)]))
        assert known == list(past_runs(instance, key, GRAPH, 5))
        assert len(known) == (3 if key in keys[:2] else 0)
    monkeypatch.setattr("ft_dagster.automation.past_runs.MOST_RUNS", 2)
    many = runs_of_many(instance, [str(key) for key in keys], GRAPH)
    assert [(len(each.newest), each.whole) for each in many.values()] == [(3, False), (3, False), (0, False)]


def test_of_many_runs_no_more_are_gone_into_than_of_a_variant_that_is_read_alone(
    project: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few the others have: the logs of each that is gone into are read."""
    keys = [VariantKey("acme", name) for name in ("often", "once", "seldom")]
    made = {keys[0]: 7, keys[1]: 1, keys[2]: 3}
    for number in range(max(made.values())):
        for key in (each for each, runs in made.items() if number < runs):
            status = STATUS.SUCCESS if number == 0 else STATUS.FAILURE
            run_of(instance, dg.RunRequest(f"{key} {number}", partition_key=str(key)), status)
    for a_page in (2, 3, 40):
        monkeypatch.setattr("ft_dagster.automation.past_runs.MOST_RUNS", a_page)
        many = runs_of_many(instance, [str(key) for key in keys], GRAPH)
        for key, attempts in product(keys, (1, 20)):
            known = list(past_runs(instance, key, GRAPH, attempts, many[str(key)]))
            assert known == list(past_runs(instance, key, GRAPH, attempts))
            assert len(known) <= max(made[key], attempts + a_page)


@pytest.mark.long
def test_more_attempts_than_runs_are_read_at_once_are_counted_without_dagsters_own_retries(
    project: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ft_dagster.automation.past_runs.MOST_RUNS", 4)
    declare(project, "acme.daily", retrain={"cron": "0 12 * * *", "max_attempts": 6})
    tick(project, instance, NOON - HOUR)
    time.sleep(0.01)  # after the declaration was written
    for number in range(6):
        now = datetime.now(UTC) + 2 * DAY
        assert len(tick(project, instance, now)) == 1
        request = dg.RunRequest(f"by hand {number}", partition_key="acme.daily")
        run_of(instance, request, STATUS.FAILURE, **{AUTO_RETRY_RUN_ID_TAG: "the next"})
        run_of(instance, request, STATUS.FAILURE)
    held = ticked(project, instance, now)
    assert [each.kind for each in held.decisions.not_done] == ["parked"]
    assert row(project, instance, "acme.daily").state.failures == 6


@pytest.mark.long
def test_a_cancelled_run_fulfils_no_order(project: Path, instance: dg.DagsterInstance) -> None:
    declare(project, "acme.plain")
    tick(project, instance, NOON)
    run_of(instance, dg.RunRequest("by hand", partition_key="acme.plain"), STATUS.SUCCESS)
    now = datetime.now(UTC)
    order = {"name": "erasure", "reason": "erase", "given": now.isoformat(), "deadline": now.isoformat()}
    settings(project, spread_hours=0, orders=[order])
    (asked,) = tick(project, instance, now)
    time.sleep(0.01)
    run_id = run_of(instance, asked)
    instance.report_run_canceled(present(instance.get_run_by_id(run_id)))
    (again,) = tick(project, instance, now + HOUR)
    assert again.tags[DUE] == f"order-erasure-{now:%Y-%m-%dT%H.%M.%SZ}.try2"
    for number in range(MOST_RUNS):  # the one that succeeded is none of the newest
        run_id = run_of(instance, dg.RunRequest(f"by hand {number}", partition_key="acme.plain"))
        instance.report_run_canceled(present(instance.get_run_by_id(run_id)))
    tick(project, instance, now + HOUR)
    assert present(row(project, instance, "acme.plain").state.renewed) < now


@pytest.mark.long
def test_a_run_of_a_part_of_the_chain_fulfils_no_order(project: Path, instance: dg.DagsterInstance) -> None:
    declare(project, "acme.plain")
    run_of(instance, dg.RunRequest("by hand", partition_key="acme.plain"), STATUS.SUCCESS)
    now = datetime.now(UTC)
    order = {"name": "erasure", "reason": "erase", "given": now.isoformat(), "deadline": now.isoformat()}
    settings(project, spread_hours=0, orders=[order])
    time.sleep(0.01)
    for number in range(MOST_RUNS):  # the one of the whole chain is none of the newest
        run_of_part(instance, "acme.plain", "task_dataset", STATUS.SUCCESS)
        assert len(tick(project, instance, now)) == 1, number
    assert present(row(project, instance, "acme.plain").state.renewed) < now
    run_of_part(instance, "acme.plain", "task_dataset", STATUS.STARTED)
    assert ticked(project, instance, now).requests == ()
    assert row(project, instance, "acme.plain").state.running


def run_of_part(instance: dg.DagsterInstance, variant: str, asset: str, status: STATUS) -> None:
    """A run of one asset, as the page of the job starts it."""
    selected = frozenset({dg.AssetKey(asset)})
    made = dg.DagsterRun("variant_chain", tags={"dagster/partition": variant}, asset_selection=selected)
    instance.add_run(made)
    end(instance, made.run_id, status)


def test_a_killed_run_that_dagster_runs_again_is_not_asked_for_again(
    project: Path, instance: dg.DagsterInstance
) -> None:
    declare(project, "acme.daily", "0 12 * * *")
    tick(project, instance, NOON - HOUR)
    (first,) = tick(project, instance, NOON)
    come_to_each_failure(instance)
    run_id = run_of(instance, first, STATUS.FAILURE)
    instance.add_run_tags(run_id, {"dagster/will_retry": "true"})
    assert tick(project, instance, NOON + DAY) == []
    assert row(project, instance, "acme.daily").state.running
    instance.add_run_tags(run_id, {"dagster/will_retry": "false"})
    ticked(project, instance, NOON + DAY)
    assert row(project, instance, "acme.daily").state.failures == 1


def test_a_broken_declaration_does_not_stop_the_others(project: Path, instance: dg.DagsterInstance) -> None:
    declare(project, "acme.daily", "0 12 * * *")
    declare(project, "acme.broken", "0 12 * * *", objectiv="x")
    (project / "tenants" / "acme" / "unreadable.yaml").write_text("x: [\n")
    noticed = ticked(project, instance, NOON - HOUR).noticed
    assert noticed.valid == ("acme.daily",)
    assert sorted(noticed.broken) == ["acme.broken", "acme.unreadable"]
    assert "objectiv" in noticed.broken["acme.broken"]
    assert [r.partition_key for r in tick(project, instance, NOON)] == ["acme.daily"]
    assert ticked(project, instance, NOON).noticed.broken == {}  # said once
    assert instance.get_dynamic_partitions(PARTITIONS) == ["acme.daily"]


def test_a_new_declaration_becomes_a_partition_and_a_removed_one_is_retired_not_deleted(
    project: Path, instance: dg.DagsterInstance
) -> None:
    declare(project, "acme.daily", "0 12 * * *")
    file = project / "tenants" / "acme" / "daily.yaml"
    content = file.read_text()
    ticked(project, instance, NOON - HOUR)
    file.unlink()
    assert ticked(project, instance, NOON).noticed.retired == ("acme.daily",)
    assert row(project, instance, "acme.daily").state.retired
    assert instance.get_dynamic_partitions(PARTITIONS) == ["acme.daily"]
    assert tick(project, instance, NOON + DAY) == []
    file.write_text(content)
    (back,) = tick(project, instance, NOON + DAY)
    assert back.tags[DUE] == "2026-03-02T12.00Z"


def test_a_child_is_broken_while_its_parent_is_not_declared(
    project: Path, instance: dg.DagsterInstance
) -> None:
    declare(project, "acme.medical")
    declare(project, "acme.child", "0 12 * * *", base_model={"variant": "acme.medical"})
    tick(project, instance, NOON - HOUR)
    (project / "tenants" / "acme" / "medical.yaml").unlink()
    assert tick(project, instance, NOON) == []
    assert "no such variant" in present(row(project, instance, "acme.child").state.broken)
    declare(project, "acme.medical")
    assert [r.partition_key for r in tick(project, instance, NOON)] == ["acme.child"]


def test_a_new_release_of_the_parent_asks_for_one_run_of_the_child(
    project: Path, instance: dg.DagsterInstance
) -> None:
    declare(project, "acme.medical")
    declare(project, "acme.child", base_model={"variant": "acme.medical"})
    declare(project, "acme.never-run", base_model={"variant": "acme.medical"})
    store = load_settings(project).open_store()
    cursor = str(ticked(project, instance, NOON).seen)

    def news(at: datetime) -> list[dg.RunRequest]:
        nonlocal cursor
        now = ticked(project, instance, at, cursor)
        cursor = str(now.seen)
        return list(now.requests)

    release(store, "acme.medical", adapter(1))
    report_release(instance, "acme.medical")
    start_from(project, "acme.child", "acme.medical")
    assert news(NOON) == []
    release(store, "acme.medical", adapter(2))
    assert news(NOON) == []  # nobody said so, and its turn has not come
    report_release(instance, "acme.medical")
    (request,) = news(NOON + HOUR)
    assert (request.partition_key, request.run_key) == (
        "acme.child",
        "acme.child@acme.medical-v2-2026-03-02T13.00.00Z",
    )
    assert request.tags["ft/reason"] == "parent acme.medical v2"
    assert variant_row(store, VariantKey("acme", "child")).stale == "acme.medical v2 was released since"

    run_id = run_of(instance, request)
    assert news(NOON + 2 * HOUR) == []
    start_from(project, "acme.child", "acme.medical")
    end(instance, run_id, STATUS.SUCCESS)
    assert news(NOON + DAY) == []
    assert row(project, instance, "acme.child").state.news == ()


def test_a_parents_rollback_to_a_version_that_was_learnt_from_before_asks_for_a_run(
    project: Path, instance: dg.DagsterInstance
) -> None:
    declare(project, "acme.medical")
    declare(project, "acme.child", base_model={"variant": "acme.medical"})
    store, now = load_settings(project).open_store(), datetime.now(UTC)
    release(store, "acme.medical", adapter(1))
    start_from(project, "acme.child", "acme.medical")
    release(store, "acme.medical", adapter(2), "c" * 64)
    tick(project, instance, now)
    (second,) = tick(project, instance, now + HOUR)
    start_from(project, "acme.child", "acme.medical")
    run_of(instance, second, STATUS.SUCCESS)
    assert tick(project, instance, now + 1.5 * HOUR) == []
    request = ReleaseRequest("better after all")
    rollback(store, "tenants/acme/medical", request)
    (first,) = tick(project, instance, now + 2 * HOUR)
    start_from(project, "acme.child", "acme.medical")
    run_of(instance, first, STATUS.SUCCESS)
    assert tick(project, instance, now + 3 * HOUR) == []
    promote(store, "tenants/acme/medical", 2, request, force=True)
    (again,) = tick(project, instance, now + 4 * HOUR)
    assert again.tags["ft/reason"] == second.tags["ft/reason"] == "parent acme.medical v2"


def test_a_parent_that_is_no_longer_declared_as_such_asks_for_nothing(
    project: Path, instance: dg.DagsterInstance
) -> None:
    declare(project, "acme.medical")
    declare(project, "acme.child", base_model={"variant": "acme.medical"})
    store = load_settings(project).open_store()
    release(store, "acme.medical", adapter(1))
    start_from(project, "acme.child", "acme.medical")
    release(store, "acme.medical", adapter(2))
    declare(project, "acme.child")
    assert tick(project, instance, NOON) == []
    assert tick(project, instance, NOON + HOUR) == []


def test_what_a_run_takes_of_the_budget_is_held_while_it_runs_and_given_back_after(
    project: Path, instance: dg.DagsterInstance
) -> None:
    settings(project, spread_hours=0, budget={"hours_per_day": 1.5})
    for name in ("a", "b"):
        declare(project, f"acme.{name}", "0 12 * * *")
    now = datetime.now(UTC).replace(hour=12, minute=30, second=0)
    tick(project, instance, now - HOUR)
    (first,) = tick(project, instance, now)  # an hour each, where nothing was planned
    assert json.loads(first.tags[CHARGES])["amount"] == [1.0, 0.0]
    run_id = run_of(instance, first)
    held = {str(each.key): each.kind for each in ticked(project, instance, now).decisions.not_done}
    assert held == {"acme.b": "budget"}
    end(instance, run_id, STATUS.SUCCESS)  # it made nothing: all was there
    (second,) = tick(project, instance, now)
    assert second.partition_key == "acme.b"


@pytest.mark.long
@pytest.mark.parametrize(
    "said",
    [
        "yes", "", "[]", "1" * 5000, "[" * 100_000, '{"amount": [1, 0], "days": []}',
        '{"amount": [1, 0], "hours": 1, "days": [["2026-02-30", 1, 0]]}',
        '{"amount": [1, 0], "hours": 1, "days": [["TODAY", 1]]}',
        '{"amount": [1, 0], "hours": 1, "days": [["TODAY", -9, 0]]}',
        '{"amount": [1, 0], "hours": 1, "days": [["TODAY", NaN, 0]]}',
        '{"amount": [1, 0], "hours": 1, "days": [["TODAY", true, 0]]}',
        '{"amount": ["1", 0], "hours": 1, "days": [["TODAY", 1, 0]]}',
        '{"amount": [1, 0], "hours": Infinity, "days": [["TODAY", 1, 0]]}',
    ],
    ids=range(13),
)  # fmt: skip
def test_a_run_whose_charges_cannot_be_ours_takes_and_gives_nothing_and_holds_up_nobody(
    project: Path, instance: dg.DagsterInstance, said: str
) -> None:
    settings(project, spread_hours=0, budget={"hours_per_day": 1.5})
    for name in ("a", "b", "c"):
        declare(project, f"acme.{name}", "0 12 * * *")
    now = datetime.now(UTC).replace(hour=12, minute=30, second=0)
    tick(project, instance, now - HOUR)
    told = {CHARGES: said.replace("TODAY", now.date().isoformat())}
    for partition in ("acme.c", "of no variant"):
        run_of(instance, dg.RunRequest("by hand", partition_key=partition, tags=told), STATUS.STARTED)
    assert [request.partition_key for request in tick(project, instance, now)] == ["acme.a"]


def test_a_platforms_order_is_seen_when_it_is_given(project: Path, instance: dg.DagsterInstance) -> None:
    declare(project, "acme.plain")
    tick(project, instance, NOON)
    request = dg.RunRequest("by hand", partition_key="acme.plain")
    run_of(instance, request, STATUS.SUCCESS)
    now = datetime.now(UTC) + HOUR
    assert tick(project, instance, now) == []
    order = {
        "name": "erasure",
        "reason": "erase",
        "given": (now - HOUR / 2).isoformat(),
        "deadline": now.isoformat(),
    }
    settings(project, spread_hours=0, orders=[order])
    (asked,) = tick(project, instance, now)
    assert asked.tags[DUE] == f"order-erasure-{now - HOUR / 2:%Y-%m-%dT%H.%M.%SZ}"
    run_of(instance, asked, STATUS.QUEUED)
    settings(project, spread_hours=0)
    assert tick(project, instance, now) == []


@pytest.mark.parametrize("passed", [True, False])
def test_where_no_run_is_known_a_verdict_of_the_store_fulfils_an_order_if_it_passed(
    project: Path, instance: dg.DagsterInstance, passed: bool
) -> None:
    declare(project, "acme.plain")
    store = load_settings(project).open_store()
    recipe = Recipe("evaluation", "tenants/acme/plain", {})
    judged = make_artifact(store, project / "work", recipe, lambda attempt: {"verdict": {"passed": passed}})
    write_head(store, recipe.prefix, judged, None)
    now = datetime.now(UTC)
    order = {
        "name": "erasure",
        "reason": "erase",
        "given": (now - HOUR).isoformat(),
        "deadline": now.isoformat(),
    }
    settings(project, spread_hours=0, orders=[order])
    assert [request.partition_key for request in tick(project, instance, now)] == (
        [] if passed else ["acme.plain"]
    )
