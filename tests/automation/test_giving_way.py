"""A training lets live runs of a higher priority, and longer ones, ask for devices first."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.events import DagsterEvent, DagsterEventType, StepMaterializationData
from dagster._core.execution.plan.objects import StepFailureData, StepSuccessData
from dagster._core.storage.tags import PRIORITY_TAG
from dagster._core.test_utils import create_run_for_test
from dagster_postgres.utils import DagsterPostgresException

from ft_dagster.assets import giving_way
from ft_dagster.assets.giving_way import give_way
from tests.long import mostly_long

pytestmark = pytest.mark.slow

JOB, STEP, PLAN = "variant_chain", "fine_tuned_model", "training_plan"
STARTED = dg.DagsterRunStatus.STARTED
ENDED: Any = StepSuccessData  # untyped
FAILED: Any = StepFailureData


@pytest.fixture
def instance(monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setattr(giving_way, "TO_ASK", 0.1)
    monkeypatch.setattr(giving_way, "PACE", 0.02)
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def run(instance: dg.DagsterInstance, priority: int, **more: Any) -> dg.DagsterRun:
    given = {"status": STARTED, "job_name": JOB, "tags": {PRIORITY_TAG: str(priority)}, **more}
    return create_run_for_test(instance, **given)


def report(
    instance: dg.DagsterInstance, run: dg.DagsterRun, type: DagsterEventType, step: str, data: Any = None
) -> None:
    event = DagsterEvent(
        event_type_value=type.value, job_name=run.job_name, step_key=step, event_specific_data=data
    )
    instance.report_dagster_event(event, run.run_id)


def begin(instance: dg.DagsterInstance, run: dg.DagsterRun, step: str = STEP) -> None:
    report(instance, run, DagsterEventType.STEP_START, step)


def end_plan(instance: dg.DagsterInstance, run: dg.DagsterRun, hours: float | None) -> None:
    figures = {"steps": 3, **({} if hours is None else {giving_way.HOURS: hours})}
    made = StepMaterializationData(dg.AssetMaterialization(PLAN, metadata=figures))
    report(instance, run, DagsterEventType.ASSET_MATERIALIZATION, PLAN, made)
    report(instance, run, DagsterEventType.STEP_SUCCESS, PLAN, ENDED(100.0))


def planned(instance: dg.DagsterInstance, hours: float | None, priority: int = 0) -> dg.DagsterRun:
    made = run(instance, priority)
    begin(instance, made, PLAN)
    end_plan(instance, made, hours)
    return made


def waited(instance: Any, run: dg.DagsterRun, say: Callable[[str], None] = lambda line: None) -> float:
    """Seconds."""
    step = SimpleNamespace(op_handle=SimpleNamespace(name=STEP))
    context: Any = SimpleNamespace(
        instance=instance, run=run, asset_key=dg.AssetKey(STEP), op_execution_context=step
    )
    began = time.monotonic()
    give_way(context, say)
    return time.monotonic() - began


def test_a_higher_one_is_awaited_until_it_begins_to_train(instance: dg.DagsterInstance) -> None:
    low, high = run(instance, 0), run(instance, 1)
    begin(instance, high, "training_plan")
    later = threading.Timer(0.5, begin, (instance, high))
    later.start()
    assert 0.5 < waited(instance, low) < giving_way.PATIENCE
    later.join()
    assert waited(instance, low) < giving_way.PATIENCE / 2


def test_the_uis_run_of_another_job_is_awaited_by_its_assets(instance: dg.DagsterInstance) -> None:
    low = run(instance, 0)
    high = run(instance, 1, job_name="__ASSET_JOB", asset_selection={dg.AssetKey(STEP)})
    later = threading.Timer(0.3, begin, (instance, high))
    later.start()
    assert 0.3 < waited(instance, low) < giving_way.PATIENCE
    later.join()


def test_a_tag_that_is_no_number_is_no_priority(instance: dg.DagsterInstance) -> None:
    run(instance, 0, tags={PRIORITY_TAG: "--5"})
    run(instance, 0, tags={PRIORITY_TAG: "²"})
    assert waited(instance, run(instance, 0)) < giving_way.PATIENCE / 2


def test_none_is_awaited_for_longer_than_a_moment(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(giving_way, "PATIENCE", 0.3)
    low, _ = run(instance, -1), run(instance, 0)
    assert 0.3 <= waited(instance, low) < 5


@pytest.mark.parametrize(
    "other",
    [
        {"priority": 0},
        {"priority": -5},
        {"priority": 1, "status": dg.DagsterRunStatus.NOT_STARTED},
        {"priority": 1, "status": dg.DagsterRunStatus.FAILURE},
        {"priority": 1, "job_name": "other"},
        {"priority": 1, "asset_selection": {dg.AssetKey("evaluation")}},
        {"priority": 1, "step_keys_to_execute": ["evaluation"]},
    ],
    ids=["alike", "lower", "not begun", "ended", "another job's", "of other assets", "again, but for it"],
)
def test_nobody_else_is(instance: dg.DagsterInstance, other: dict[str, Any]) -> None:
    run(instance, **other)
    assert waited(instance, run(instance, 0)) < giving_way.PATIENCE / 2


def test_a_longer_one_is_awaited_until_it_begins_to_train(instance: dg.DagsterInstance) -> None:
    short, long = planned(instance, 0.5), planned(instance, 2.0)
    later = threading.Timer(0.5, begin, (instance, long))
    later.start()
    assert 0.5 < waited(instance, short) < giving_way.PATIENCE
    later.join()
    assert waited(instance, short) < giving_way.PATIENCE / 2


@pytest.mark.parametrize(("hours", "places"), [(2.0, 1), (1.0, 2)], ids=["the middle one", "the shortest"])
def test_of_three_that_begin_at_once_each_asks_in_its_place(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, hours: float, places: int
) -> None:
    """While the middle one waits for the longest, its step has begun as well."""
    monkeypatch.setattr(giving_way, "TO_ASK", 0.5)
    runs = {each: planned(instance, each) for each in (1.0, 3.0, 2.0)}
    began = time.time()
    for each in runs.values():
        begin(instance, each)
    assert waited(instance, runs[hours]) < giving_way.PATIENCE / 2
    assert time.time() - began > places * giving_way.TO_ASK


@pytest.mark.long
def test_who_gives_way_itself_is_awaited_once_it_has(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The middle one's step began first, and it waits for the longest, as the shortest must for both."""
    monkeypatch.setattr(giving_way, "TO_ASK", 0.5)
    short, middle, long = (planned(instance, hours) for hours in (1.0, 2.0, 3.0))
    begin(instance, middle)
    time.sleep(0.6)
    began = time.time()
    begin(instance, long)
    assert waited(instance, short) < giving_way.PATIENCE / 2
    assert time.time() - began > 2 * giving_way.TO_ASK


def test_one_that_is_being_planned_is_awaited_until_it_is_known_to_be_shorter(
    instance: dg.DagsterInstance,
) -> None:
    long, unknown = planned(instance, 2.0), run(instance, 0)
    begin(instance, unknown, PLAN)
    later = threading.Timer(0.5, end_plan, (instance, unknown, 1.0))
    later.start()
    assert 0.5 < waited(instance, long) < giving_way.PATIENCE
    later.join()


@pytest.mark.parametrize(
    ("own", "theirs"),
    [(1.0, 0.5), (1.0, 1.0), (1.0, None), (None, 2.0)],
    ids=["shorter", "as long", "none", "own"],
)
def test_no_other_of_the_same_priority_is(
    instance: dg.DagsterInstance, own: float | None, theirs: float | None
) -> None:
    """Where nobody knows how long, nobody is waited for."""
    planned(instance, theirs)
    assert waited(instance, planned(instance, own)) < giving_way.PATIENCE / 2


def test_a_longer_one_of_a_lower_priority_is_not(instance: dg.DagsterInstance) -> None:
    planned(instance, 9.0)
    assert waited(instance, planned(instance, 1.0, priority=1)) < giving_way.PATIENCE / 2


@pytest.mark.long
def test_one_that_tries_settings_while_it_is_planned_is_not(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(giving_way, "PATIENCE", 3.0)
    begin(instance, run(instance, 0), PLAN)
    time.sleep(2.0)
    assert waited(instance, planned(instance, 1.0)) < giving_way.PATIENCE


@pytest.mark.long
def test_one_that_is_known_to_go_after_is_looked_at_once(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(giving_way, "PATIENCE", 3.0)
    short, long, looked_at = planned(instance, 0.5), planned(instance, 2.0), list[str]()
    stats = instance.get_run_step_stats

    def noted(run_id: str, steps: list[str]) -> Any:
        looked_at.append(run_id)
        return stats(run_id, steps)

    monkeypatch.setattr(instance, "get_run_step_stats", noted)
    waited(instance, planned(instance, 1.0))
    assert looked_at.count(long.run_id) > looked_at.count(short.run_id) == 1


@pytest.mark.parametrize("priority", mostly_long([0, 1], [0]))
def test_one_that_was_planned_long_ago_and_never_asked_is_not(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, priority: int
) -> None:
    """Its run was killed, which Dagster has not noticed."""
    planned(instance, 2.0, priority)
    monkeypatch.setattr(giving_way, "PATIENCE", 1.0)
    time.sleep(1.5)
    said: list[str] = []
    waited(instance, planned(instance, 1.0), said.append)
    assert said == []


@pytest.mark.long
def test_dagsters_database_is_asked_at_leisure(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes to answer."""
    monkeypatch.setattr(giving_way, "PATIENCE", 2.0)
    planned(instance, 2.0)
    looks, get_runs = list[float](), instance.get_runs

    def slow(*given: Any, **named: Any) -> Any:
        looks.append(time.monotonic())
        time.sleep(0.05)
        return get_runs(*given, **named)

    monkeypatch.setattr(instance, "get_runs", slow)
    waited(instance, planned(instance, 1.0))
    pauses = [after - before for before, after in pairwise(looks)]
    assert pauses
    assert min(pauses) >= 0.05 * giving_way.LEISURE


def test_one_whose_plan_failed_is_not(instance: dg.DagsterInstance) -> None:
    failed = run(instance, 0)
    begin(instance, failed, PLAN)
    report(instance, failed, DagsterEventType.STEP_FAILURE, PLAN, FAILED(None, None))
    assert waited(instance, planned(instance, 1.0)) < giving_way.PATIENCE / 2


def plain_error() -> Exception:
    return sa.exc.OperationalError("select", {}, Exception("gone"))


def as_postgres_has_it() -> Exception:
    error = DagsterPostgresException("too many retries for DB connection")
    error.__cause__ = plain_error()
    return error


@pytest.mark.parametrize("error", [plain_error, as_postgres_has_it])
def test_where_the_database_is_away_nobody_is(error: Callable[[], Exception]) -> None:
    def away(*_: Any) -> None:
        raise error()

    broken = SimpleNamespace(get_runs=away)
    assert waited(broken, dg.DagsterRun(job_name=JOB, run_id="1")) < giving_way.PATIENCE / 2


def test_another_error_is_raised() -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        waited(SimpleNamespace(get_runs=broken), dg.DagsterRun(job_name=JOB, run_id="1"))
