"""deploy/: each dagster.yaml is one by Dagster's own rules, each ft_dagster.yaml by ours; the files agree."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.instance.config import dagster_instance_config

from ft_dagster.automation.patience import PATIENCE
from ft_dagster.automation.processes.instance import WORKSPACE_YAML, dagster_yaml
from ft_dagster.settings import Settings, load_settings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
PAGE = (ROOT / "docs/deploy.md").read_text("utf-8")
INSTANCES = sorted(DEPLOY.glob("*/dagster.yaml"))
SETTINGS = sorted(DEPLOY.glob("*/ft_dagster.yaml"))
UNITS = sorted(DEPLOY.glob("one-machine/*.service"))
CAMEL = re.compile(r"(?<!^)(?=[A-Z])")


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text("utf-8"))


def snake(content: Any) -> Any:
    """As Dagster's chart writes names of its values into dagster.yaml."""
    if isinstance(content, dict):
        return {CAMEL.sub("_", name).lower(): snake(value) for name, value in content.items()}
    return content


@pytest.mark.parametrize("file", INSTANCES, ids=lambda file: file.parent.name)
def test_each_instance_is_one_by_dagsters_own_rules(file: Path, tmp_path: Path) -> None:
    shutil.copy(file, tmp_path / "dagster.yaml")
    config, _ = dagster_instance_config(str(tmp_path))
    assert config["run_coordinator"]["class"] == "VariantRunCoordinator"


@pytest.mark.parametrize("file", INSTANCES, ids=lambda file: file.parent.name)
def test_each_queue_releases_retries_and_counts_as_our_own_instances_do(file: Path) -> None:
    own, given = dagster_yaml(Settings(project=ROOT)), read(file)
    limits = own["run_coordinator"]["config"]["tag_concurrency_limits"]
    assert given["run_coordinator"]["config"]["tag_concurrency_limits"] == limits
    assert given["run_retries"] == own["run_retries"]
    assert given["run_monitoring"]["enabled"] is True
    assert given["run_monitoring"]["start_timeout_seconds"] >= own["run_monitoring"]["start_timeout_seconds"]


@pytest.mark.parametrize("file", INSTANCES, ids=lambda file: file.parent.name)
def test_each_instance_has_a_launcher_by_which_killed_runs_are_ended(file: Path) -> None:
    """Without one, Dagster's monitoring finds nothing."""
    own, given = dagster_yaml(Settings(project=ROOT)), read(file)
    asked = {  # pods and jobs are asked about
        "kubernetes": ("ft_dagster.automation.kubernetes_launcher", "RunPodLauncher"),
        "ray": ("ft_dagster.automation.ray.launcher", "RunJobLauncher"),
        "slurm": ("ft_dagster.automation.slurm.launcher", "SlurmRunLauncher"),
    }
    if file.parent.name in asked:
        launcher = given["run_launcher"]
        assert (launcher["module"], launcher["class"]) == asked[file.parent.name]
        return
    assert given["run_launcher"] == own["run_launcher"]
    assert given["run_monitoring"] == own["run_monitoring"]


@pytest.mark.slow
def test_one_machines_instance_opens_and_has_the_queue(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "one-machine" / "dagster.yaml", tmp_path / "dagster.yaml")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert type(instance.run_coordinator).__name__ == "VariantRunCoordinator"
        assert instance.run_monitoring_enabled
        assert instance.run_retries_enabled


@pytest.mark.parametrize("file", ["Dockerfile", *(f"one-machine/{unit.name}" for unit in UNITS)])
def test_dagsters_programs_wait_for_each_other_as_those_of_our_commands_do(file: str) -> None:
    """Dagster reads it when it is imported: only the environment of a program can say it."""
    found = re.findall(r"(DAGSTER_GRPC_\w+)=(\d+)", (DEPLOY / file).read_text("utf-8"))
    assert dict(found) == PATIENCE


def test_one_machines_workspace_is_the_one_that_we_would_write() -> None:
    assert read(DEPLOY / "one-machine/workspace.yaml") == WORKSPACE_YAML


@pytest.mark.parametrize("file", SETTINGS, ids=lambda file: file.parent.name)
def test_each_settings_file_is_accepted(file: Path, tmp_path: Path) -> None:
    (tmp_path / "tenants").mkdir()
    shutil.copy(file, tmp_path / "ft_dagster.yaml")
    load_settings(tmp_path)


def test_the_charts_values_make_the_instance_beside_them() -> None:
    values, made = read(DEPLOY / "kubernetes/values.yaml"), read(DEPLOY / "kubernetes/dagster.yaml")
    daemon, launcher = values["dagsterDaemon"], values["runLauncher"]
    coordinator = daemon["runCoordinator"]
    assert (coordinator["enabled"], coordinator["type"]) == (True, "CustomRunCoordinator")
    assert coordinator["config"]["customRunCoordinator"] == made["run_coordinator"]
    assert snake(daemon["runMonitoring"]) == made["run_monitoring"]
    assert values["additionalInstanceConfig"]["run_retries"] == made["run_retries"]
    assert daemon["runRetries"] == {"enabled": False}
    assert launcher["type"] == "CustomRunLauncher"
    assert launcher["config"]["customRunLauncher"] == made["run_launcher"]
    logs = values["computeLogManager"]
    assert logs["type"] == made["compute_logs"]["class"]
    assert logs["config"]["s3ComputeLogManager"] == made["compute_logs"]["config"]
    database, said = values["postgresql"], made["storage"]["postgres"]["postgres_db"]
    assert database["enabled"] is False  # the chart would make one of its own
    named = (
        database["postgresqlHost"],
        database["postgresqlUsername"],
        database["postgresqlDatabase"],
    )
    assert named == (said["hostname"], said["username"], said["db_name"])
    assert said["password"] == {"env": "DAGSTER_PG_PASSWORD"}
    secrets = {
        values["global"]["postgresqlSecretName"],
        made["run_launcher"]["config"]["postgres_password_secret"],
    }
    assert len(secrets) == 1


def test_the_page_says_each_variable_that_slurms_instance_takes_from_the_environment() -> None:
    told = re.findall(r"env: (\w+)", (DEPLOY / "slurm/dagster.yaml").read_text("utf-8"))
    (lines,) = re.findall(r"run\.env <<'END'\n(.*?)END\n", PAGE, re.DOTALL)
    written = [line.partition("=") for line in lines.splitlines()]
    assert [name for name, _, _ in written] == told
    assert [shlex.split(value) for _, _, value in written] == [["..."]] * len(told)


def test_manifests_and_settings_name_the_same_things() -> None:
    settings, values = read(DEPLOY / "kubernetes/ft_dagster.yaml"), read(DEPLOY / "kubernetes/values.yaml")
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    mounted = {mount["name"]: mount["mountPath"] for mount in deployment["volumeMounts"]}
    assert (settings["work"], settings["keys"]) == (mounted["work"], mounted["keys"])
    launcher = values["runLauncher"]["config"]["customRunLauncher"]["config"]
    project = {"name": "FT_DAGSTER_PROJECT", "value": mounted["project"]}
    for place in (deployment, values["dagsterWebserver"], values["dagsterDaemon"]):
        assert project in place["env"]
        assert {each["name"] for each in place["volumeMounts"]} <= {each["name"] for each in place["volumes"]}
    assert launcher["env_vars"] == [f"FT_DAGSTER_PROJECT={mounted['project']}"]
    assert launcher["volumes"] == values["dagsterWebserver"]["volumes"]
    given = {settings["store_profiles"]["default"], *settings["store_profiles"]["per_tenant"].values()}
    assert given == {*settings["kubernetes"]["profiles"]}
    assert (
        settings["kubernetes"]["grace_seconds"]
        < values["dagsterDaemon"]["runMonitoring"]["cancelTimeoutSeconds"]
    )


def test_the_page_names_files_that_exist() -> None:
    for name in re.findall(r"(?:deploy|tests)/[\w./-]+\w", PAGE):
        assert (ROOT / name).exists() or list(ROOT.glob(f"{name}*")), name
