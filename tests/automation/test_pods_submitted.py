"""What of a run's pod its submitter can say, on each path by which a run can start: nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._daemon.auto_run_reexecution.auto_run_reexecution import retry_run
from dagster._daemon.backfill import execute_backfill_iteration
from dagster._daemon.sensor import execute_sensor_iteration

from ft_dagster.assets.partitions import PARTITIONS
from ft_dagster.automation.coordinator import is_known_to_stand
from ft_dagster.automation.fleet_table import open_fleet
from ft_dagster.automation.processes.instance import LOCATION, write_home
from ft_dagster.automation.ray.order import CONFIG as JOB_CONFIG
from ft_dagster.automation.ray.order import job_of
from ft_dagster.automation.run_pods import CONFIG, RESOURCES, pod_of
from ft_dagster.fleet.refresh.sync_declarations import as_declared
from ft_dagster.fleet.table.version import KnownVersion
from ft_dagster.lineage.stale import StaleCause
from ft_dagster.settings import load_settings
from ft_dagster.spec import Declarations, VariantKey
from tests.automation.declarations import declare
from tests.automation.house import BACKFILL, LAUNCH, LOG, REPOSITORY, House
from tests.automation.pods import settings_in
from tests.long import mostly_long

pytestmark = pytest.mark.slow
OTHERS = "others"
VARIANTS = ["acme.first", "acme.sensed", "globex.first"]
REEXECUTE = """
mutation($params: ReexecutionParams!) { launchRunReexecution(reexecutionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }
"""
FORGED = {
    "another tenant's Secret": {"container_config": {"env_from": [{"secret_ref": {"name": "globex-store"}}]}},
    "another tenant's keys": {
        "pod_spec_config": {"volumes": [{"name": "x", "secret": {"secret_name": "ft-dagster-keys-globex"}}]}
    },
    "a privileged container": {"container_config": {"security_context": {"privileged": True}}},
    "a path of the node": {
        "pod_spec_config": {"volumes": [{"name": "root", "host_path": {"path": "/"}}], "host_pid": True}
    },
    "another namespace": {"job_metadata": {"namespace": "training-globex"}},
    "another account": {"pod_spec_config": {"service_account_name": "cluster-admin"}},
    "a command and an image": {"container_config": {"command": ["sh"], "image": "evil:1"}},
    "a container beside it": {"pod_spec_config": {"containers": [{"name": "x", "image": "evil:1"}]}},
    "more GPUs": {"container_config": {"resources": {"limits": {"nvidia.com/gpu": "8"}}}},
    "no JSON": None,
}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("pods")
    for key in VARIANTS:
        declare(folder, key, None, resources={"gpus": 2 if key == "acme.first" else 1})
    settings = settings_in(folder)
    patch = pytest.MonkeyPatch()
    patch.delenv("DAGSTER_HOME", raising=False)
    for name, value in write_home(settings).items():
        patch.setenv(name, value)
    files = {LOCATION: "pods_location.py", OTHERS: "other_location.py"}
    locations = [
        {"python_file": {"relative_path": str(Path(__file__).with_name(file)), "location_name": name,
                         "attribute": "defs", "working_directory": os.getcwd()}}
        for name, file in files.items()
    ]  # fmt: skip
    workspace = folder / "workspace.yaml"
    workspace.write_text(yaml.safe_dump({"load_from": locations}), "utf-8")
    target = WorkspaceFileTarget([str(workspace)])
    with dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions(PARTITIONS, VARIANTS)
        with WorkspaceProcessContext(instance, target) as process:
            yield House(instance, process, folder)
    patch.undo()


def expected(house: House, key: str, *, computes: bool) -> dict[str, Any]:
    settings, variant = load_settings(house.project), VariantKey.parse(key)
    one = Declarations(house.project).declared(variant)
    return pod_of(settings, variant.tenant, one, computes=computes)


def pod(tags: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(tags[CONFIG])
    return found


def launch(
    house: House, job: str, tags: dict[str, str], *assets: str, location: str = LOCATION
) -> Mapping[str, str]:
    """As the UI's Launchpad does; the tags of the run."""
    selector: dict[str, Any] = {**REPOSITORY, "repositoryLocationName": location, "pipelineName": job}
    selector |= {"assetSelection": [{"path": [asset]} for asset in assets]} if assets else {}
    listed = [{"key": key, "value": value} for key, value in tags.items()]
    params = {"selector": selector, "mode": "default", "executionMetadata": {"tags": listed}}
    return house.tags(house.ask(LAUNCH, params=params)["run"]["runId"])


@pytest.mark.parametrize("forged", mostly_long(FORGED.values(), every=3), ids=FORGED)
def test_a_users_own_pod_is_dropped(house: House, forged: dict[str, Any] | None) -> None:
    text = "{no JSON" if forged is None else json.dumps(forged)
    claims = {
        "dagster/partition": "acme.first",
        CONFIG: text,
        RESOURCES: '{"limits": {"nvidia.com/gpu": "8"}}',
    }
    tags = launch(house, "variant_chain", claims)
    wanted = expected(house, "acme.first", computes=True)
    assert pod(tags) == wanted
    assert json.loads(tags[RESOURCES]) == wanted["container_config"]["resources"]
    assert "globex" not in tags[CONFIG]


def test_what_a_user_says_of_a_job_of_ray_is_dropped_where_runs_are_such_and_where_they_are_pods(
    house: House,
) -> None:
    forged = {"num_gpus": 8, "runtime_env": {"env_vars": {"AWS_PROFILE": "globex-file"}, "pip": ["evil"]}}
    claims = {"dagster/partition": "acme.first", JOB_CONFIG: json.dumps(forged)}
    assert launch(house, "variant_chain", claims)[JOB_CONFIG] == "{}"
    settings_in(house.project, kubernetes=None, ray={"runtime_env": {"pip": ["good"]}})
    try:
        tags = launch(house, "variant_chain", claims)
        (run,) = house.instance.get_runs(dg.RunsFilter(tags={"ft/variant": "acme.first"}), limit=1)
        settings, variant = load_settings(house.project), VariantKey("acme", "first")
        one = Declarations(house.project).declared(variant)
        wanted = job_of(settings, run.run_id, "acme", one, computes=True)
        assert json.loads(tags[JOB_CONFIG]) == wanted
        assert (wanted["num_gpus"], wanted["runtime_env"]["pip"]) == (2, ["good"])
        assert CONFIG not in tags
        data = {"dagster/partition": "acme.first"}
        alone = launch(house, "__ASSET_JOB", data, "declaration", "task_dataset")
        assert "num_gpus" not in json.loads(alone[JOB_CONFIG])
        of_others = launch(house, "plain", {JOB_CONFIG: json.dumps(forged)})
        assert of_others[JOB_CONFIG] == "{}"
    finally:
        settings_in(house.project)


def test_a_run_of_data_alone_gets_no_gpu(house: House) -> None:
    tags = launch(house, "__ASSET_JOB", {"dagster/partition": "acme.first"}, "declaration", "task_dataset")
    assert pod(tags) == expected(house, "acme.first", computes=False)
    tags = launch(house, "__ASSET_JOB", {"dagster/partition": "acme.first"}, "declaration", "evaluation")
    assert pod(tags) == expected(house, "acme.first", computes=True)


def test_a_backfills_runs_have_each_its_own_tenants(house: House) -> None:
    keys = ["acme.first", "globex.first"]
    listed = [{"key": CONFIG, "value": json.dumps(FORGED["another tenant's Secret"])}]
    params = {"assetSelection": [{"path": ["declaration"]}], "partitionNames": keys, "tags": listed}
    backfill = house.ask(BACKFILL, params=params)["backfillId"]
    assert [e for e in execute_backfill_iteration(house.process, LOG) if e] == []
    runs = house.newest(dagster__backfill=backfill)
    assert {key: pod(tags) for key, tags in runs.items()} == {
        key: expected(house, key, computes=False) for key in keys
    }


def test_a_sensors_run_and_its_retry_have_what_the_declaration_says(house: House) -> None:
    with ThreadPoolExecutor(1) as pool:
        list(execute_sensor_iteration(house.process, LOG, None, pool))
    (run,) = house.instance.get_runs(dg.RunsFilter(tags={"dagster/sensor_name": "asks"}))
    wanted = expected(house, "acme.sensed", computes=True)
    assert pod(run.tags) == wanted
    house.instance.report_run_failed(run, "its pod is gone")
    retry_run(house.run(run.run_id), house.process)
    assert pod(house.tags(house.tags(run.run_id)["dagster/auto_retry_run_id"])) == wanted


def test_a_run_that_is_executed_again_with_other_tags_has_the_same(house: House) -> None:
    tags = launch(house, "variant_chain", {"dagster/partition": "acme.first"})
    (run,) = house.instance.get_runs(dg.RunsFilter(tags={"ft/variant": "acme.first"}), limit=1)
    house.instance.report_run_failed(run, "failed")
    listed = [{"key": CONFIG, "value": json.dumps(FORGED["a path of the node"])}]
    params = {"parentRunId": run.run_id, "strategy": "ALL_STEPS", "extraTags": listed}
    again = house.ask(REEXECUTE, params=params)["run"]["runId"]
    assert house.tags(again)["dagster/parent_run_id"] == run.run_id
    assert pod(house.tags(again)) == pod(tags)


def test_a_run_of_what_all_share_has_the_platforms_pod_without_a_gpu(house: House) -> None:
    claims = {CONFIG: json.dumps(FORGED["another tenant's Secret"]), "ft/tenant": "acme"}
    tags = launch(house, "__ASSET_JOB", claims, "general_corpus")
    assert pod(tags) == pod_of(load_settings(house.project), None, None, computes=False)
    assert "acme" not in tags[CONFIG]


@pytest.mark.parametrize("forged", mostly_long(FORGED.values(), every=5), ids=FORGED)
def test_a_run_of_others_code_has_what_that_code_says(house: House, forged: dict[str, Any] | None) -> None:
    claims = {CONFIG: json.dumps(forged), RESOURCES: json.dumps({"limits": {"nvidia.com/gpu": "8"}})}
    tags = launch(house, "others", claims)
    assert pod(tags) == {"container_config": {"resources": {"limits": {"cpu": "1"}}}}
    assert json.loads(tags[RESOURCES]) == {}
    assert pod(launch(house, "plain", claims)) == {}
    assert CONFIG not in launch(house, "plain", {})


@pytest.mark.parametrize("job", ["variant_chain", "__ASSET_JOB"])
def test_a_run_of_another_code_location_whose_job_has_our_name_is_no_tenants(house: House, job: str) -> None:
    claims = {"dagster/partition": "acme.first", "ft/tenant": "acme", "ft/variant": "acme.first"}
    claims[CONFIG] = json.dumps(FORGED["another tenant's Secret"])
    tags = launch(house, job, claims, location=OTHERS)
    said = {"container_config": {"resources": {"limits": {"cpu": "1"}}}} if job == "variant_chain" else {}
    assert pod(tags) == said
    assert {tags.get(name, "none") for name in ("ft/tenant", "ft/variant")} == {"none"}


def test_settings_by_which_no_pod_can_be_made_are_said_in_the_runs_log(house: House) -> None:
    settings_in(house.project, store="/srv/store")
    try:
        claims = {"dagster/partition": "acme.first", CONFIG: json.dumps(FORGED["another namespace"])}
        tags = launch(house, "variant_chain", claims)
    finally:
        settings_in(house.project)
    assert pod(tags) == {}
    (run,) = house.instance.get_runs(dg.RunsFilter(tags={"ft/variant": "acme.first"}), limit=1)
    told = [str(each.message) for each in house.instance.all_logs(run.run_id)]
    assert any("No pod and no job can be made" in each and "s3://bucket/prefix" in each for each in told)


def test_what_the_fleet_knows_to_stand_gets_no_gpu(house: House) -> None:
    settings, key = load_settings(house.project), VariantKey("globex", "first")
    assert not is_known_to_stand(house.instance, settings, key)  # nothing is known of it
    table = open_fleet(house.instance, settings)
    declarations = Declarations(house.project)
    declared = as_declared(str(key), None, declarations, declarations.stamp(key), datetime.now(UTC))
    row = partial(replace, declared, learnt=True)
    stands = KnownVersion(version=1, digest="0" * 64)
    table.put([row(version=stands)])
    assert is_known_to_stand(house.instance, settings, key)
    tags = launch(house, "variant_chain", {"dagster/partition": str(key)})
    assert pod(tags) == expected(house, str(key), computes=False)
    stale = StaleCause("source", "data", "the data changed")
    for other in (
        row(version=KnownVersion(version=1, digest="0" * 64, causes=(stale,))),
        row(version=KnownVersion(version=1, digest="0" * 64, unseen="nobody looks at s3://rows")),
        row(version=stands, stamp="edited since"),
        row(version=stands, learnt=False),
        row(version=None),
    ):
        table.put([other])
        assert not is_known_to_stand(house.instance, settings, key)
        tags = launch(house, "variant_chain", {"dagster/partition": str(key)})
        assert pod(tags) == expected(house, str(key), computes=True)
