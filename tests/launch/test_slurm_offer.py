"""What is planned for where runs are jobs of Slurm: the devices of its nodes on the host of Dagster, those
that a job was given inside of one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ft_dagster.errors import UserError
from ft_dagster.launch.choice import ask_of, refuse_lacking
from ft_dagster.launch.leases import Leases
from ft_dagster.planning.context import hardware_of
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey, VariantSpec
from ft_dagster.workspace.workspace import Workspace
from tests.launch.helpers import slots

KEY = VariantKey("acme", "support")
GPUS = {
    "l4": {"name": "NVIDIA L4", "memory_gb": 24.2},
    "a100": {"name": "NVIDIA A100-SXM4-80GB", "memory_gb": 85.9},
}


@pytest.fixture(autouse=True)
def outside_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DAGSTER_HOME", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)


def head_node(project: Path, config: dict[str, Any], **resources: Any) -> tuple[Workspace, VariantSpec]:
    """A host of a core, whose instance has runs be jobs of Slurm."""
    home = project / ".ft_dagster" / "dagster_home"
    home.mkdir(parents=True)
    launcher = {"module": "ft_dagster.automation.slurm.launcher", "class": "SlurmRunLauncher"}
    (home / "dagster.yaml").write_text(yaml.safe_dump({"run_launcher": {**launcher, "config": config}}))
    declared = project / "tenants/acme/support.yaml"
    declared.parent.mkdir(parents=True)
    content = {
        "description": "answers",
        "owners": ["ml@acme.example"],
        "base_model": "models/base",
        "data": {"sources": ["rows.jsonl"]},
        "resources": resources,
    }
    declared.write_text(yaml.safe_dump(content))
    workspace = Workspace(load_settings(project), KEY)
    workspace.__dict__["leases"] = Leases(project / "leases", slots(1))
    return workspace, workspace.declared().spec


@pytest.mark.parametrize(
    ("resources", "name", "memory"),
    [
        ({"gpu_kind": "A100", "gpus": 2}, "NVIDIA A100-SXM4-80GB", 85_900_000_000),
        ({"gpu_memory_gb": 40}, "NVIDIA A100-SXM4-80GB", 85_900_000_000),
        ({}, "NVIDIA L4", 24_200_000_000),  # Slurm gives any: the smaller one has to do
    ],
)
def test_a_plan_is_for_the_gpus_that_its_job_asks_for(
    tmp_path: Path, resources: dict[str, Any], name: str, memory: int
) -> None:
    workspace, spec = head_node(tmp_path, {"gpus": GPUS}, **resources)
    hardware = hardware_of(spec, workspace.trains_on(spec.resources), tmp_path)
    count = resources.get("gpus", 1)
    assert (hardware.kind, hardware.count, hardware.name) == ("gpu", count, name)
    assert hardware.memory_bytes == memory
    refuse_lacking(workspace.settings, workspace.leases, KEY, spec)
    assert (workspace.device, len(workspace.judges(spec).devices)) == ("cuda", count)  # type: ignore[union-attr]


def test_a_plan_is_for_the_cores_and_the_memory_of_a_job_however_few_the_host_of_dagster_has(
    tmp_path: Path,
) -> None:
    workspace, spec = head_node(tmp_path, {"memory_gb": 8}, cpu_slots=64)
    refuse_lacking(workspace.settings, workspace.leases, KEY, spec)
    inventory = workspace.trains_on(spec.resources)
    assert (inventory.kind, len(inventory.devices), inventory.memory_bytes) == ("cpu", 64, 8 * 10**9)


@pytest.mark.parametrize(
    ("resources", "field"),
    [
        ({"gpu_kind": "H100"}, "resources.gpu_kind"),
        ({"gpu_memory_gb": 141}, "resources.gpu_memory_gb"),
        ({"nodes": 2}, "resources.nodes"),
    ],
)
def test_what_no_job_can_have_is_refused_by_the_plan(
    tmp_path: Path, resources: dict[str, Any], field: str
) -> None:
    workspace, spec = head_node(tmp_path, {"gpus": GPUS}, **resources)
    with pytest.raises(UserError) as error:
        refuse_lacking(workspace.settings, workspace.leases, KEY, spec)
    assert error.value.field == field
    assert "\n" not in str(error.value)


def test_a_program_that_needs_a_gpu_does_not_run_on_the_host_of_dagster(tmp_path: Path) -> None:
    workspace, spec = head_node(tmp_path, {"gpus": GPUS})
    with pytest.raises(UserError, match="start a run, which goes there"):
        ask_of(workspace.settings, workspace.leases, KEY, spec, program="evaluation", run_id="run")


def test_a_job_plans_for_the_devices_that_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    workspace, spec = head_node(tmp_path, {"gpus": GPUS})
    assert workspace.trains_on(spec.resources) == workspace.leases.inventory
