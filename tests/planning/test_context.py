"""What of a host a training is planned for."""

from pathlib import Path
from typing import Any

import pytest

from ft_dagster.launch.inventory import Device, Inventory
from ft_dagster.planning.context import hardware_of
from ft_dagster.spec import VariantSpec

A100 = Device("0", 80 * 10**9, "NVIDIA A100-SXM4-80GB")
T4 = Device("1", 16 * 10**9, "Tesla T4")


def spec(**resources: Any) -> VariantSpec:
    return VariantSpec.model_validate(
        {
            "description": "x", "owners": ["a"], "base_model": "models/x",
            "data": {"sources": ["r.jsonl"]}, "resources": resources,
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("resources", "memory", "bf16"),
    [
        ({}, 16 * 10**9, False),
        ({"gpu_kind": "A100"}, 80 * 10**9, True),
        ({"gpu_kind": "a100", "sharing": "shared"}, 20 * 10**9, True),
    ],
)
def test_a_plan_is_made_for_the_declared_kind_and_its_share(
    tmp_path: Path, resources: dict[str, Any], memory: int, bf16: bool
) -> None:
    hardware = hardware_of(spec(**resources), Inventory("gpu", (A100, T4), shares=4), tmp_path)
    assert (hardware.memory_bytes, hardware.bf16) == (memory, bf16)


def test_of_mig_instances_a_training_on_several_gpus_is_lent_none(tmp_path: Path) -> None:
    instance = Device("MIG-0", 10 * 10**9, "NVIDIA A100-SXM4-80GB MIG 1g.10gb")
    other = Device("2", 80 * 10**9, "NVIDIA A100-SXM4-80GB")
    inventory = Inventory("gpu", (instance, A100, other))
    hardware = hardware_of(spec(gpus=2), inventory, tmp_path)
    assert (hardware.count, hardware.memory_bytes) == (2, 80 * 10**9)
