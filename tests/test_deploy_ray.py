"""deploy/ray/: what is to be copied is accepted as written, and limits what the project's instance does."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from ft_dagster.automation.coordinator import VariantRunCoordinator
from ft_dagster.automation.processes.instance import dagster_yaml
from ft_dagster.automation.ray.launcher import RunJobLauncher
from ft_dagster.launch.offer import inventory_of
from ft_dagster.settings import load_settings

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "deploy" / "ray"


def without_storage() -> dict[str, Any]:
    """The dagster.yaml, without its Postgres."""
    content: dict[str, Any] = yaml.safe_load((FOLDER / "dagster.yaml").read_text("utf-8"))
    del content["storage"]
    return content


def test_its_settings_are_accepted_and_planned_for(tmp_path: Path) -> None:
    (tmp_path / "tenants").mkdir()
    shutil.copy(FOLDER / "ft_dagster.yaml", tmp_path)
    settings = load_settings(tmp_path)
    assert settings.runs_in_cluster
    inventory = inventory_of(settings.cluster)
    assert (inventory.kind, len(inventory.devices)) == ("gpu", 8)


def test_what_it_says_of_several_nodes_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "tenants").mkdir()
    content = (FOLDER / "ft_dagster.yaml").read_text("utf-8")
    for field in ("nodes", "shared_folder"):
        content = content.replace(f"# {field}:", f"{field}:")
    (tmp_path / "ft_dagster.yaml").write_text(content)
    assert load_settings(tmp_path).cluster.nodes == 4


def test_its_instance_opens_and_limits_as_the_projects_own(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(without_storage()))
    (tmp_path / "tenants").mkdir()
    shutil.copy(FOLDER / "ft_dagster.yaml", tmp_path)
    settings = load_settings(tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert isinstance(instance.run_coordinator, VariantRunCoordinator)
        assert isinstance(instance.run_launcher, RunJobLauncher)
        assert instance.run_launcher.supports_check_run_worker_health
        assert not instance.run_launcher.supports_resume_run
        assert instance.run_monitoring_enabled
        assert settings.ray is not None
        assert instance.run_monitoring_cancel_timeout_seconds > 2 * settings.ray.grace_seconds
        assert instance.run_retries_max_retries == 2
    (tmp_path / "project" / "tenants").mkdir(parents=True)
    own, given = dagster_yaml(load_settings(tmp_path / "project")), without_storage()
    limits = [each["run_coordinator"]["config"]["tag_concurrency_limits"] for each in (own, given)]
    assert limits[0] == limits[1]
    assert own["run_retries"] == given["run_retries"]
