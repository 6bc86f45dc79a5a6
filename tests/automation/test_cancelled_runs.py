"""A run that is cancelled has dealt with nothing: what asked for it is tried again, and then parked."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ft_dagster.automation.fleet_table import open_fleet
from ft_dagster.automation.tags import DUE
from ft_dagster.fleet.due.reasons import CauseKind, News
from ft_dagster.fleet.picture import picture_of
from ft_dagster.settings import load_settings
from tests.automation.declarations import declare, start_from, tick, ticked
from tests.automation.ticks import DAY, HOUR, STATUS, run_of, settings
from tests.present import present
from tests.releases import adapter, release

pytestmark = pytest.mark.slow
KEY = "acme.child"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "tenants").mkdir()
    settings(tmp_path, spread_hours=0)
    return tmp_path


def cancelled(instance: dg.DagsterInstance, request: dg.RunRequest) -> None:
    """A run of it that began, and that somebody cancels."""
    run = present(instance.get_run_by_id(run_of(instance, request, STATUS.STARTED)))
    instance.report_run_canceled(run)


def first_asked(project: Path, instance: dg.DagsterInstance, kind: CauseKind) -> dg.RunRequest:
    """The run that a cause of this kind asks for, of a variant that was trained before."""
    asks: dict[str, Any] = {"cron": {"cron": "* * * * *"}, "data": {"on_new_data": True, "quiet_minutes": 0}}
    declare(project, "acme.medical")
    store = load_settings(project).open_store()
    release(store, "acme.medical", adapter(1))
    base: dict[str, Any] = {"base_model": {"variant": "acme.medical"}} if kind == "parent" else {}
    declare(project, KEY, retrain=asks.get(kind, {"on_new_base": True}), **base)
    start_from(project, KEY, "acme.medical")
    run_of(instance, dg.RunRequest("by hand", partition_key=KEY), STATUS.SUCCESS)
    tick(project, instance, datetime.now(UTC))
    since = datetime.now(UTC)
    if kind == "parent":
        release(store, "acme.medical", adapter(2))
    elif kind != "cron":
        news = (News("data" if kind == "data" else "base", f"{kind}-x", since, since, f"{kind} changed"),)
        open_fleet(instance, load_settings(project)).set_news({KEY: news}, lambda _: since)
    tick(project, instance, since)
    (request,) = tick(project, instance, since + 2 * HOUR / 60)
    return request


@pytest.mark.long
@pytest.mark.parametrize("kind", ["cron", "data", "base", "parent"])
def test_a_cancelled_run_leaves_its_cause_open_with_back_off_and_status_says_so(
    project: Path, instance: dg.DagsterInstance, kind: CauseKind
) -> None:
    asked = first_asked(project, instance, kind)
    if kind == "parent":
        start_from(project, KEY, "acme.medical")  # it was cancelled after that
    cancelled(instance, asked)
    now = datetime.now(UTC) + 3 * HOUR / 60
    held = ticked(project, instance, now)
    assert [each.kind for each in held.decisions.not_done] == ["back-off"]
    shown = picture_of(open_fleet(instance, load_settings(project)), load_settings(project), now)
    (status,) = [each for each in shown.rows if each.variant == KEY]
    assert (status.state, status.cause) == ("failing", "1 run failed: it was cancelled")
    assert status.why == "run 1 failed: it was cancelled"
    assert now < datetime.fromisoformat(present(status.next)) < now + HOUR / 2
    (again,) = tick(project, instance, now + HOUR)
    assert again.tags[DUE] == f"{asked.tags[DUE]}.try2"
    cancelled(instance, again)
    assert [each.kind for each in ticked(project, instance, now + HOUR / 2).decisions.not_done] == [
        "back-off"
    ]
    (third,) = tick(project, instance, now + DAY)
    cancelled(instance, third)
    (parked,) = ticked(project, instance, now + 9 * DAY).decisions.not_done
    assert (parked.kind, "3 runs in a row failed: it was cancelled" in parked.why) == ("parked", True)
