"""deploy/ray/: what is to be copied is accepted as written, and limits what the project's instance does."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import pytest
import yaml

from ft_dagster.automation.coordinator import VariantRunCoordinator
from ft_dagster.automation.processes.instance import dagster_yaml
from ft_dagster.launch.remote.offer import inventory_of
from ft_dagster.settings import load_settings

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "deploy" / "ray"


def test_its_settings_are_accepted_and_planned_for(tmp_path: Path) -> None:
    (tmp_path / "tenants").mkdir()
    shutil.copy(FOLDER / "ft_dagster.yaml", tmp_path)
    settings = load_settings(tmp_path)
    assert (settings.launcher, settings.cluster.nodes) == ("ray", 4)
    inventory = inventory_of(settings.cluster)
    assert (inventory.kind, len(inventory.devices)) == ("gpu", 8)


def test_its_instance_opens_and_limits_as_the_projects_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(FOLDER / "dagster.yaml", tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with dg.DagsterInstance.get() as instance:
        assert isinstance(instance.run_coordinator, VariantRunCoordinator)
        assert instance.run_monitoring_enabled
        assert instance.run_retries_max_retries == 2
    (tmp_path / "project" / "tenants").mkdir(parents=True)
    own = dagster_yaml(load_settings(tmp_path / "project"))
    given = yaml.safe_load((FOLDER / "dagster.yaml").read_text("utf-8"))
    limits = [each["run_coordinator"]["config"]["tag_concurrency_limits"] for each in (own, given)]
    assert limits[0] == limits[1]
    assert own["run_retries"] == given["run_retries"]
