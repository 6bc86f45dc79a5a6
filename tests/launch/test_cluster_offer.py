"""What a cluster has for a training, and what a plan says of a declaration that asks for more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ft_dagster.cluster import Cluster
from ft_dagster.errors import UserError
from ft_dagster.launch.choice import ask_of, launcher_of, refuse_lacking
from ft_dagster.launch.launcher import LocalLauncher
from ft_dagster.launch.leases import Leases
from ft_dagster.launch.offer import ask_of_cluster, inventory_of, refuse_resources
from ft_dagster.launch.on_ray.launcher import PlacedLauncher
from ft_dagster.planning.context import hardware_of
from ft_dagster.settings import Settings, load_settings
from ft_dagster.spec import VariantKey, VariantSpec
from tests.launch.helpers import slots

KEY = VariantKey("acme", "support")
GPUS: dict[str, Any] = {"gpus": 8, "gpu": "NVIDIA A100-SXM4-80GB", "gpu_memory_gb": 85.9, "cpus": 64}
SHARED: dict[str, Any] = {"nodes": 4, "shared_folder": "/mnt/shared"}


def spec(**more: Any) -> VariantSpec:
    content = {
        "description": "answers",
        "owners": ["ml@acme.example"],
        "base_model": "models/base",
        "data": {"sources": ["rows.jsonl"]},
    }
    return VariantSpec.model_validate({**content, **more})


def settings_of(folder: Path, **content: Any) -> Settings:
    (folder / "tenants").mkdir(exist_ok=True)
    (folder / "ft_dagster.yaml").write_text(yaml.safe_dump(content))
    return load_settings(folder)


def refuse(cluster: Cluster, asked: VariantSpec) -> None:
    refuse_resources(cluster, ask_of_cluster(cluster, KEY, asked.resources))


@pytest.fixture
def leases(tmp_path: Path) -> Leases:
    return Leases(tmp_path / "leases", slots(2))


@pytest.mark.parametrize(
    ("resources", "field", "said"),
    [
        ({"gpus": 9}, "resources.gpus", "Ask for 8 at most, on more nodes"),
        ({"nodes": 5}, "resources.nodes", "Ask for 4 at most"),
        ({"gpu_kind": "H100"}, "resources.gpu_kind", "There are: NVIDIA A100"),
        ({"gpu_memory_gb": 90}, "resources.gpu_memory_gb", "Each has 85.9"),
    ],
)
def test_what_its_nodes_cannot_give_is_refused(resources: dict[str, Any], field: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        refuse(Cluster(**GPUS, **SHARED), spec(resources=resources))
    assert error.value.field == field
    assert said in str(error.value)


def test_what_they_can_give_is_planned_for(tmp_path: Path) -> None:
    cluster = Cluster(**GPUS, **SHARED)
    asked = spec(resources={"gpus": 4, "nodes": 2, "gpu_kind": "A100", "gpu_memory_gb": 80})
    refuse(cluster, asked)
    hardware = hardware_of(asked, inventory_of(cluster), tmp_path)
    assert (hardware.kind, hardware.count, hardware.memory_bytes) == ("gpu", 8, 85_900_000_000)
    ask = ask_of_cluster(cluster, KEY, asked.resources)
    assert (ask.count, ask.nodes, inventory_of(cluster).threads(ask.count)) == (4, 2, 32)


def test_ranks_of_several_nodes_without_a_gpu_are_counted_together(tmp_path: Path) -> None:
    cluster = Cluster(cpus=4, memory_gb=16, **SHARED)
    asked = spec(resources={"nodes": 2, "cpu_ranks": 2})
    hardware = hardware_of(asked, inventory_of(cluster), tmp_path)
    one_node = hardware_of(spec(resources={"cpu_ranks": 2}), inventory_of(cluster), tmp_path)
    assert (hardware.count, hardware.memory_bytes) == (4, one_node.memory_bytes)


def test_one_host_has_no_other_nodes(tmp_path: Path, leases: Leases) -> None:
    settings = settings_of(tmp_path)
    refuse_lacking(settings, leases, KEY, spec())
    with pytest.raises(UserError, match="trains on one host") as error:
        refuse_lacking(settings, leases, KEY, spec(resources={"nodes": 2}))
    assert error.value.field == "resources.nodes"


def test_programs_of_several_nodes_are_placed_by_a_job_of_ray_alone(
    tmp_path: Path, leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(tmp_path, ray={}, cluster={**GPUS, "nodes": 2, "shared_folder": "/mnt"})
    asked = spec(resources={"gpus": 4, "nodes": 2, "gpu_memory_gb": 80})
    refuse_lacking(settings, leases, KEY, asked)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match="Start a run"):
        ask_of(settings, leases, KEY, asked, program="training", run_id="run")
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    trains = ask_of(settings, leases, KEY, asked, program="training", run_id="run")
    judges = ask_of(settings, leases, KEY, asked, program="evaluation", run_id="run")
    assert (trains.count, trains.nodes, trains.memory_bytes, trains.placed) == (4, 2, 80e9, True)
    assert (judges.count, judges.nodes, judges.placed) == (4, 1, True)


def test_where_runs_are_jobs_of_ray_programs_may_be_placed(tmp_path: Path, leases: Leases) -> None:
    assert isinstance(launcher_of(settings_of(tmp_path), leases), LocalLauncher)
    assert isinstance(launcher_of(settings_of(tmp_path, ray={}), leases), PlacedLauncher)


@pytest.mark.parametrize(
    ("content", "field", "said"),
    [
        ({"launcher": "slurm"}, "launcher", "local"),
        ({"cluster": {"gpus": 8}}, "cluster", "gpus need gpu and gpu_memory_gb"),
        ({"cluster": {"nodes": 2}}, "cluster", "more than 1 node needs shared_folder"),
        ({"ray": {"address": "http://head:8265"}}, "ray", "dagster.yaml names the head"),
        ({"ray": {"tenant_resource": "acme"}}, "ray", "has no {tenant} in it"),
        ({"cluster": {"work_folder": "runs"}}, "cluster.work_folder", "a whole path"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_field(
    content: dict[str, Any], field: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        settings_of(tmp_path, **content)
    assert error.value.field == field
    assert said in str(error.value)
    assert str(tmp_path / "ft_dagster.yaml") in str(error.value)
