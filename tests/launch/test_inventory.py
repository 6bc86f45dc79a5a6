"""Which devices a host lends."""

from __future__ import annotations

import os

import pytest

from ft_dagster.errors import UserError
from ft_dagster.launch.inventory import Device, declared, find_devices, visible
from ft_dagster.settings import Host

GPUS = [Device(str(n), 80 * 10**9, "GPU", f"GPU-{n}{n}ab-cd") for n in range(4)]


def ids(gpus: tuple[Device, ...]) -> list[str]:
    return [gpu.id for gpu in gpus]


def test_cpu_slots_are_the_cores_of_this_process_where_none_are_declared() -> None:
    inventory = find_devices(Host(gpus=()))
    assert (inventory.kind, len(inventory.devices)) == ("cpu", len(os.sched_getaffinity(0)))


def test_declared_cpu_slots_are_lent() -> None:
    assert ids(find_devices(Host(gpus=(), cpu_slots=5)).devices) == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("value", "left"),
    [
        (None, ["0", "1", "2", "3"]),
        ("", []),
        ("-1", []),
        ("2,0", ["2", "0"]),
        ("GPU-33ab-cd, 1", ["3", "1"]),
        ("GPU-2", ["2"]),
        ("1,9,2", ["1"]),
    ],
)
def test_cuda_visible_devices_from_outside_limits_what_is_lent(value: str | None, left: list[str]) -> None:
    assert ids(visible(GPUS, value)) == left


def test_declared_gpus_are_lent_by_index_or_uuid() -> None:
    assert ids(declared(("3", "GPU-00ab-cd"), GPUS, {})) == ["3", "0"]


def test_declared_gpus_are_taken_at_their_word_where_no_driver_answers() -> None:
    assert ids(declared(("0", "1"), [], {})) == ["0", "1"]


@pytest.mark.parametrize(
    ("names", "environment", "problem"),
    [
        (("7",), {}, "no such GPU"),
        (("0", "GPU-00ab-cd"), {}, "named twice"),
        (("../0",), {}, "not a GPU"),
        (("0", "1"), {"CUDA_VISIBLE_DEVICES": "1"}, "hidden by CUDA_VISIBLE_DEVICES='1'"),
    ],
)
def test_a_wrong_gpu_in_the_settings_is_refused(
    names: tuple[str, ...], environment: dict[str, str], problem: str
) -> None:
    with pytest.raises(UserError, match=problem) as error:
        declared(names, GPUS, environment)
    assert error.value.field == "host.gpus"
