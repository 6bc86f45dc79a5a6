"""Each path by which a run can start, through Dagster's own code: its tags, and what the queue admits."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import PythonFileTarget
from dagster._daemon.auto_run_reexecution.auto_run_reexecution import retry_run
from dagster._daemon.backfill import execute_backfill_iteration
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon
from dagster._daemon.sensor import execute_sensor_iteration

from ft_dagster.assets.partitions import PARTITIONS
from ft_dagster.automation.processes.instance import LOCATION, write_home
from ft_dagster.settings import load_settings
from tests.automation.declarations import declare, tick
from tests.automation.house import BACKFILL, LOG, REPOSITORY, House
from tests.e2e.workshop import said_of
from tests.present import present

pytestmark = pytest.mark.slow
VARIANTS = ["acme.first", "acme.second", "acme.third", "acme.sensed", "globex.first", "globex.due"]
SENSORS = ("ft/charges", "ft/due", "dagster/run_key")  # what only a sensor may say


def start(folder: Path, **settings: Any) -> None:
    (folder / "ft_dagster.yaml").write_text(yaml.safe_dump(settings), "utf-8")
    for key in VARIANTS:
        priority = 7 if key.startswith("acme") else 0
        retrain = "* * * * *" if key == "globex.due" else None
        declare(folder, key, retrain, resources={"priority": priority})


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("paths")
    start(folder, tenant_runs=2, host={"lock_folder": str(folder / "locks"), "gpus": []})
    patch = pytest.MonkeyPatch()
    patch.delenv("DAGSTER_HOME", raising=False)
    for name, value in write_home(load_settings(folder)).items():
        patch.setenv(name, value)
    target = PythonFileTarget(
        str(Path(__file__).with_name("location.py")), attribute="defs", working_directory=os.getcwd(),
        location_name=LOCATION,
    )  # fmt: skip
    with dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions(PARTITIONS, VARIANTS)
        with WorkspaceProcessContext(instance, target) as process:
            tick(
                folder, instance, datetime.now(UTC) - timedelta(minutes=5)
            )  # crons count from the first look
            yield House(instance, process, folder)
    patch.undo()


def expect(tags: Mapping[str, str], variant: str, reason: str, priority: int) -> None:
    found = {name: tags.get(name) for name in ("ft/tenant", "ft/variant", "ft/reason", "dagster/priority")}
    assert found == {
        "ft/tenant": variant.split(".", maxsplit=1)[0], "ft/variant": variant, "ft/reason": reason,
        "dagster/priority": str(priority),
    }  # fmt: skip


def test_the_materialize_button_tags_its_run(house: House) -> None:
    run_id = house.press_materialize({"dagster/partition": "acme.first"})
    expect(house.tags(run_id), "acme.first", "ui", 7)


def test_a_single_run_over_a_range_of_one_partition_is_tagged(house: House) -> None:
    ends = {f"dagster/asset_partition_range_{end}": "acme.first" for end in ("start", "end")}
    expect(house.tags(house.press_materialize(ends)), "acme.first", "ui", 7)


def test_a_backfill_of_assets_tags_each_of_its_runs(house: House) -> None:
    keys = ["acme.first", "acme.third", "globex.first"]
    params = {"assetSelection": [{"path": ["declaration"]}], "partitionNames": keys}
    backfill = house.ask(BACKFILL, params=params)["backfillId"]
    assert [e for e in execute_backfill_iteration(house.process, LOG) if e] == []
    runs = house.newest(dagster__backfill=backfill)
    assert sorted(map(present, runs)) == keys
    for key in keys:
        expect(runs[key], key, "backfill", 7 if key.startswith("acme") else 0)


@pytest.mark.long
def test_a_backfill_of_the_job_tags_each_of_its_runs(house: House) -> None:
    selector = {"partitionSetName": "variant_chain_partition_set", "repositorySelector": REPOSITORY}
    params = {"selector": selector, "partitionNames": ["acme.second", "globex.first"]}
    backfill = house.ask(BACKFILL, params=params)["backfillId"]
    assert [e for e in execute_backfill_iteration(house.process, LOG) if e] == []
    runs = house.newest(dagster__backfill=backfill)
    expect(runs["acme.second"], "acme.second", "backfill", 7)
    expect(runs["globex.first"], "globex.first", "backfill", 0)


def test_a_sensor_tags_its_run(house: House) -> None:
    with ThreadPoolExecutor(1) as pool:
        errors = [e for e in execute_sensor_iteration(house.process, LOG, None, pool) if e]
    assert errors == []
    expect(house.newest(dagster__sensor_name="asks")["acme.sensed"], "acme.sensed", "sensor", 7)


def test_a_due_variant_tags_its_run(house: House) -> None:
    with ThreadPoolExecutor(1) as pool:
        assert [e for e in execute_sensor_iteration(house.process, LOG, None, pool) if e] == []
    tags = house.newest(dagster__sensor_name="due_retrains")["globex.due"]
    expect(tags, "globex.due", "schedule", 0)
    assert tags["dagster/run_key"] == f"globex.due@{tags['ft/due']}"
    assert json.loads(tags["ft/charges"])["amount"] == [1.0, 0.0]
    (run,) = house.instance.get_runs(dg.RunsFilter(tags={"ft/due": tags["ft/due"]}))
    house.instance.report_run_failed(run, "killed")
    retry_run(house.run(run.run_id), house.process)
    again = house.tags(house.tags(run.run_id)["dagster/auto_retry_run_id"])
    assert [again[name] for name in SENSORS] == [tags[name] for name in SENSORS]


def test_what_only_a_sensor_may_say_a_run_of_a_person_does_not(house: House) -> None:
    """Nor where it claims that a sensor asked for it, as one does that is copied from a sensor's run."""
    forged = dict.fromkeys(SENSORS, "yes")
    for claimed in ({}, {"dagster/sensor_name": "due_retrains"}):
        run_id = house.press_materialize({"dagster/partition": "acme.first", **forged, **claimed})
        assert [house.tags(run_id)[name] for name in SENSORS] == ["none"] * 3
    listed = [{"key": name, "value": "yes"} for name in (*SENSORS, "dagster/sensor_name")]
    params = {"assetSelection": [{"path": ["declaration"]}], "partitionNames": ["acme.first"], "tags": listed}
    backfill = house.ask(BACKFILL, params=params)["backfillId"]
    assert [e for e in execute_backfill_iteration(house.process, LOG) if e] == []
    (tags,) = house.newest(dagster__backfill=backfill).values()
    assert [tags[name] for name in SENSORS] == ["none"] * 3


def test_the_command_line_tags_its_run(house: House) -> None:
    command: list[str | Path] = [
        Path(sys.executable).with_name("ft-dagster"), "run", "acme.third", "--detach", "--json"
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    (launched,) = yaml.safe_load(done.stdout)
    expect(house.tags(launched["run_id"]), "acme.third", "cli", 7)


def test_run_configuration_that_names_another_project_is_refused(house: House) -> None:
    before = house.instance.get_runs_count()
    config = {"resources": {"tenants": {"config": {"project": str(house.project)}}}}
    answer = house.launch_answer({"dagster/partition": "acme.first"}, runConfigData=config)
    assert answer["__typename"] == "RunConfigValidationInvalid"
    assert "unexpected config entry" in answer["errors"][0]["message"]
    assert house.instance.get_runs_count() == before


@pytest.mark.parametrize(
    "partition",
    [
        {"dagster/partition": "acme.first"},
        {"dagster/partition": "globex.first", "dagster/partition/x": "acme.first"},
    ],
    ids=["plain", "of several dimensions"],
)
def test_identity_and_priority_are_those_of_the_partition_whatever_the_user_wrote(
    house: House, partition: dict[str, str]
) -> None:
    forged = {"ft/variant": "globex.first", "ft/tenant": "globex", "dagster/priority": "99"}
    run_id = house.launch_answer({**partition, **forged})["run"]["runId"]
    expect(house.tags(run_id), "acme.first", "ui", 7)


def test_a_run_without_a_variant_counts_as_nobodys(house: House) -> None:
    forged = {"ft/variant": "acme.first", "ft/tenant": "acme", "dagster/priority": "99"}
    run_id = house.launch_answer(forged)["run"]["runId"]
    assert [house.tags(run_id)[name] for name in forged] == ["none", "none", "0"]


@pytest.mark.long
def test_a_single_run_over_several_variants_is_refused_by_its_assets(house: House) -> None:
    ends = {"start": "acme.first", "end": "acme.second"}
    run_id = house.press_materialize(
        {f"dagster/asset_partition_range_{end}": key for end, key in ends.items()}
    )
    assert "ft/variant" not in house.tags(run_id)
    house.instance.launch_run(run_id, house.process.create_request_context())
    wait_until_ended(house, [run_id])
    failures = house.instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    said = said_of(present(failures[0].dagster_event))
    assert "a run is for one variant (got 'acme.first...acme.second')" in said


@pytest.fixture
def queued(house: House) -> Iterator[list[tuple[str, str]]]:
    """Variant and id of five runs in an otherwise empty queue."""
    for run in house.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED])):
        house.instance.run_coordinator.cancel_run(run.run_id)
    keys = ["globex.first", "acme.first", "acme.first", "acme.second", "acme.third"]
    runs = [(key, house.press_materialize({"dagster/partition": key})) for key in keys]
    yield runs
    for _, run_id in runs:
        if house.run(run_id).status == dg.DagsterRunStatus.QUEUED:
            house.instance.run_coordinator.cancel_run(run_id)
    wait_until_ended(house, [run_id for _, run_id in runs])


def admit(house: House, daemon: QueuedRunCoordinatorDaemon) -> None:
    assert [error for error in daemon.run_iteration(house.process) if error] == []


@pytest.mark.long
def test_the_queue_admits_one_run_per_variant_and_the_declared_number_per_tenant(
    house: House, queued: list[tuple[str, str]]
) -> None:
    with QueuedRunCoordinatorDaemon(interval_seconds=1) as daemon:
        admit(house, daemon)
    waits = [
        key for key, run in queued
        if house.run(run).status == dg.DagsterRunStatus.QUEUED
    ]  # fmt: skip
    assert waits == ["acme.first", "acme.third"]


@pytest.mark.long
def test_two_daemons_admit_together_no_more_than_one_and_no_run_twice(
    house: House, queued: list[tuple[str, str]]
) -> None:
    with QueuedRunCoordinatorDaemon(1) as one, QueuedRunCoordinatorDaemon(1) as two:
        while not all(house.run(run).is_finished for _, run in queued):
            admit(house, one)
            admit(house, two)
            time.sleep(0.3)
    launches = [house.instance.all_logs(run, dg.DagsterEventType.RUN_STARTING) for _, run in queued]
    assert [len(events) for events in launches] == [1] * 5
    spans = [
        (key, events[0].timestamp, present(present(house.instance.get_run_record_by_id(run)).end_time))
        for (key, run), events in zip(queued, launches, strict=True)
    ]
    for key, began, _ in spans:
        beside = [other for other, start, end in spans if start <= began < end]
        assert beside.count(key) == 1
        assert sum(other.startswith("acme.") for other in beside) <= 2


def wait_until_ended(house: House, runs: list[str], patience: float = 120) -> None:
    end = time.monotonic() + patience
    while not all(house.run(run).is_finished for run in runs):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.3)
