"""Two projects on one instance have a variant of the same name, and each sees its own runs alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import dagster as dg
import pytest

from ft_dagster.automation.fleet_now import FleetReader
from ft_dagster.automation.processes.activity import waiting_runs
from ft_dagster.automation.processes.instance import open_instance, submitted, unfinished_of
from ft_dagster.automation.processes.own_runs import own_runs
from ft_dagster.automation.tags import PROJECT_VARIANT, VARIANT, changed_tags
from ft_dagster.dagster_private import PARTITION
from ft_dagster.fleet.live_page import FleetQuery, fleet_page
from ft_dagster.launch.leases import of_host
from ft_dagster.report.pages.live import as_live_html
from ft_dagster.settings import Settings, load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.spec.variant import ResourcesSpec
from tests.automation.declarations import declare
from tests.instances import ORIGIN

pytestmark = pytest.mark.slow
STATUS = dg.DagsterRunStatus
KEY = VariantKey.parse("acme.places")


@dg.job
def variant_chain() -> None:
    """Nothing of it is run."""


@pytest.fixture
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    declare(tmp_path, str(KEY))
    return load_settings(tmp_path)


@pytest.fixture
def instance(ours: Settings) -> Iterator[dg.DagsterInstance]:
    with open_instance(ours) as instance:
        yield instance


def run_of(instance: dg.DagsterInstance, status: STATUS, project: Path | str) -> dg.DagsterRun:
    tags = {VARIANT: str(KEY), PARTITION: str(KEY), PROJECT_VARIANT: f"{project}:{KEY}"}
    return instance.create_run_for_job(variant_chain, status=status, tags=tags, remote_job_origin=ORIGIN)


def test_each_sees_its_own_runs_alone(instance: dg.DagsterInstance, ours: Settings) -> None:
    elsewhere = ours.project / "elsewhere"
    made = {
        (status, project): run_of(instance, status, project)
        for status in (STATUS.QUEUED, STATUS.STARTED, STATUS.SUCCESS)
        for project in (ours.project, elsewhere)
    }
    own = {status: made[status, ours.project].run_id for status, _ in made}
    assert [run.run_id for run in submitted(instance, ours, KEY, [STATUS.QUEUED])] == [own[STATUS.QUEUED]]
    going = {run.run_id for run in unfinished_of(instance, ours, KEY)}
    assert going == {own[STATUS.QUEUED], own[STATUS.STARTED]}
    reader = FleetReader(instance, ours)
    assert {run.run_id for run in reader.past_runs(KEY)} == set(own.values())
    assert {run.run_id for run in reader.now().runs} == {own[STATUS.QUEUED], own[STATUS.STARTED]}
    assert list(waiting_runs(instance, ours)) == [str(KEY)]


def test_a_variant_that_only_the_other_project_runs_waits_for_nothing(
    instance: dg.DagsterInstance, ours: Settings
) -> None:
    run_of(instance, STATUS.QUEUED, ours.project / "elsewhere")
    assert waiting_runs(instance, ours) == {}


def test_a_device_that_another_project_holds_is_not_shown_as_a_variant_of_this_one(
    instance: dg.DagsterInstance, ours: Settings
) -> None:
    theirs = run_of(instance, STATUS.STARTED, ours.project / "elsewhere").run_id
    own = run_of(instance, STATUS.STARTED, ours.project).run_id
    leases, resources = of_host(ours.host), ResourcesSpec(cpu_slots=1)
    reader = FleetReader(instance, ours)
    with ExitStack() as held:
        for run_id in (theirs, own):
            held.enter_context(leases.acquire(leases.ask_of(KEY, resources, run_id=run_id)))
        now = reader.now()
    assert now.devices is not None
    shown = {row.run_id: row.variant for row in now.devices.devices if row.state == "held"}
    assert shown == {theirs: f"{KEY}, of another instance or project", own: str(KEY)}
    row = next(
        line for line in as_live_html(fleet_page(now, FleetQuery())).split("<tr") if theirs[:8] in line
    )
    assert "<a " not in row.partition("another instance")[0]


def test_a_run_of_definitions_that_name_no_project_is_anyones_before_the_first_tick(
    instance: dg.DagsterInstance, ours: Settings
) -> None:
    run = run_of(instance, STATUS.QUEUED, "")
    assert own_runs(instance, ours)(run)
    bare = instance.create_run_for_job(variant_chain, tags={PARTITION: str(KEY)}, remote_job_origin=ORIGIN)
    assert changed_tags(bare)[PROJECT_VARIANT] == f":{KEY}"
