"""A training lets live runs of a higher priority ask for devices first."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.storage.tags import PRIORITY_TAG
from dagster._core.test_utils import create_run_for_test
from dagster_postgres.utils import DagsterPostgresException

from ft_dagster.assets import giving_way
from ft_dagster.assets.giving_way import give_way

JOB, STEP = "variant_chain", "fine_tuned_model"
STARTED = dg.DagsterRunStatus.STARTED


@pytest.fixture
def instance(monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setattr(giving_way, "TO_ASK", 0.1)
    monkeypatch.setattr(giving_way, "PACE", 0.02)
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def run(instance: dg.DagsterInstance, priority: int, **more: Any) -> dg.DagsterRun:
    given = {"status": STARTED, "job_name": JOB, "tags": {PRIORITY_TAG: str(priority)}, **more}
    return create_run_for_test(instance, **given)


def begin(instance: dg.DagsterInstance, run: dg.DagsterRun, step: str = STEP) -> None:
    event = DagsterEvent(
        event_type_value=DagsterEventType.STEP_START.value, job_name=run.job_name, step_key=step
    )
    instance.report_dagster_event(event, run.run_id)


def waited(instance: Any, run: dg.DagsterRun) -> float:
    """Seconds."""
    step = SimpleNamespace(op_handle=SimpleNamespace(name=STEP))
    context: Any = SimpleNamespace(
        instance=instance, run=run, asset_key=dg.AssetKey(STEP), op_execution_context=step
    )
    began = time.monotonic()
    give_way(context, lambda line: None)
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
