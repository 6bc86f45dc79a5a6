"""What is asked of a Ray cluster, told without one; `tests/e2e/test_ray.py` has a real one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.cluster import Cluster, RaySettings
from ft_dagster.errors import UserError
from ft_dagster.launch.choice import launcher_of, refuse_lacking
from ft_dagster.launch.leases import Ask, Leases
from ft_dagster.launch.on_ray.launcher import RayLauncher, Unknown, answered
from ft_dagster.launch.remote.staging import Staging
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey, VariantSpec
from ft_dagster.store.blobs import Store
from tests.launch.helpers import slots

SPEC = {
    "description": "answers",
    "owners": ["ml@acme.example"],
    "base_model": "models/base",
    "data": {"sources": ["rows.jsonl"]},
}
ASK = Ask("acme.support", "acme", 4, 0, "a test", "run", nodes=2)


def launcher(folder: Path, cluster: Cluster, **ray: Any) -> RayLauncher:
    return RayLauncher(RaySettings(**ray), Staging(Store(str(folder)), cluster), "{}")


def test_devices_and_the_tenants_resource_are_asked_of_each_node(tmp_path: Path) -> None:
    gpus = Cluster(gpus=8, gpu="A100", gpu_memory_gb=80, nodes=2, shared_folder=Path("/mnt"))
    assert launcher(tmp_path, gpus).resources(ASK) == {"GPU": 4}
    assert launcher(tmp_path, Cluster(cpus=8)).resources(ASK) == {"CPU": 4}
    more = {"tenant_resource": "tenant-{tenant}", "resources": {"accelerator_type:A100": 0.001}}
    assert launcher(tmp_path, gpus, **more).resources(ASK) == {
        "GPU": 4, "tenant-acme": 4, "accelerator_type:A100": 0.001,
    }  # fmt: skip


def test_without_its_library_the_way_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "tenants").mkdir()
    (tmp_path / "ft_dagster.yaml").write_text("launcher: ray\n")
    settings, leases = load_settings(tmp_path), Leases(tmp_path / "leases", slots(1))
    launcher_of(settings, leases)  # judging needs none
    with pytest.raises(UserError, match="ray is not installed here") as error:
        refuse_lacking(settings, leases, VariantKey("acme", "support"), VariantSpec.model_validate(SPEC))
    assert (error.value.field, error.value.value) == ("launcher", "ray")
    assert "pip install 'ft-dagster[ray]'" in str(error.value)


@pytest.mark.parametrize(
    ("status", "kind"), [(404, Unknown), (500, ConnectionError), (503, ConnectionError), (400, RuntimeError)]
)
def test_answers_of_a_head_are_told_apart(status: int, kind: type[Exception]) -> None:
    def refuse() -> None:
        raise RuntimeError(f"Request failed with status code {status}: for a reason")

    with pytest.raises(kind):
        answered(refuse)
    assert answered(lambda: "an answer") == "an answer"
