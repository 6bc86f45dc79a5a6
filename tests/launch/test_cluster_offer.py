"""What a cluster has for a training, and what a plan says of a declaration that asks for more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ft_dagster.cluster import Cluster
from ft_dagster.errors import UserError
from ft_dagster.launch.choice import TrainingsAway, ask_of, launcher_of, refuse_lacking
from ft_dagster.launch.launcher import Job, LocalLauncher
from ft_dagster.launch.leases import Leases
from ft_dagster.launch.remote.offer import ask_of_cluster, inventory_of, refuse_beyond, threads_of
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
        ({"sharing": "shared"}, "resources.sharing", "gives whole devices"),
    ],
)
def test_what_its_nodes_cannot_give_is_refused(resources: dict[str, Any], field: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        refuse_beyond(Cluster(**GPUS, **SHARED), "ray", KEY, spec(resources=resources))
    assert error.value.field == field
    assert said in str(error.value)


def test_what_is_on_this_host_alone_is_refused() -> None:
    asked = {"training": {"watch": {"questions": 4}}, "evaluation": {"general": ["tasks/quiz.yaml"]}}
    with pytest.raises(UserError, match="does not bring benchmarks") as error:
        refuse_beyond(Cluster(**GPUS), "ray", KEY, spec(**asked))
    assert error.value.field == "training.watch.questions"
    disk = {"training": {"deepspeed": {"stage": 3, "offload": "nvme", "nvme_path": "/nvme"}}}
    with pytest.raises(UserError, match="no training is sharded by ZeRO on a cluster"):
        refuse_beyond(Cluster(**GPUS), "ray", KEY, spec(**disk))


def test_what_they_can_give_is_planned_for(tmp_path: Path) -> None:
    cluster = Cluster(**GPUS, **SHARED)
    asked = spec(resources={"gpus": 4, "nodes": 2, "gpu_kind": "A100", "gpu_memory_gb": 80})
    refuse_beyond(cluster, "ray", KEY, asked)
    hardware = hardware_of(asked, inventory_of(cluster), tmp_path)
    assert (hardware.kind, hardware.count, hardware.memory_bytes) == ("gpu", 8, 85_900_000_000)
    ask = ask_of_cluster(cluster, KEY, asked.resources)
    assert (ask.count, ask.nodes, threads_of(cluster, ask)) == (4, 2, 32)


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


def test_only_trainings_are_asked_of_the_cluster(tmp_path: Path, leases: Leases) -> None:
    settings = settings_of(tmp_path, launcher="ray", cluster={**GPUS, "nodes": 2, "shared_folder": "/mnt"})
    assert inventory_of(settings.cluster).kind == "gpu"
    asked = spec(resources={"gpus": 4, "nodes": 2, "gpu_memory_gb": 80})
    trains = ask_of(settings, leases, KEY, asked, program="training", run_id="run")
    judges = ask_of(settings, leases, KEY, asked, program="evaluation", run_id="run")
    assert (trains.count, trains.nodes, trains.memory_bytes) == (4, 2, 80e9)
    assert (judges.count, judges.nodes, judges.memory_bytes) == (2, 1, 0)
    assert leases.candidates(judges)


def test_each_program_goes_to_its_launcher(tmp_path: Path, leases: Leases) -> None:
    here, away = LocalLauncher(leases), {"acme": LocalLauncher(leases), "globex": LocalLauncher(leases)}
    both = TrainingsAway(here, away.pop)

    def job(program: str, variant: str = "acme.support") -> Job:
        return Job(program, tmp_path, spec(), None, {}, variant)

    assert both._of(job("evaluation")) is here
    assert len(away) == 2
    first, second = both._of(job("training")), both._of(job("training", "globex.support"))
    assert len({id(launcher) for launcher in (here, first, second)}) == 3
    assert both._of(job("training")) is first
    assert isinstance(launcher_of(settings_of(tmp_path), leases), LocalLauncher)


@pytest.mark.parametrize(
    ("content", "field", "said"),
    [
        ({"launcher": "slurm"}, "launcher", "local"),
        ({"cluster": {"gpus": 8}}, "cluster", "gpus need gpu and gpu_memory_gb"),
        ({"cluster": {"nodes": 2}}, "cluster", "more than 1 node needs shared_folder"),
        ({"ray": {"address": "ray://head:10001"}}, "ray.address", "http"),
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
