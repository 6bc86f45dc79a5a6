"""Which devices a host lends."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ft_dagster.errors import UserError
from ft_dagster.host_settings import RAY_JOB, RUN_POD, Host
from ft_dagster.launch.inventory import Device, declared, find_devices, visible
from ft_dagster.settings import load_settings

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


JOB = {"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "3", "SLURM_MEM_PER_NODE": "2048"}


def test_a_job_of_slurm_lends_what_it_was_given_and_shares_no_lock_and_no_server_with_another() -> None:
    declared = Host(cpu_slots=64, quota={"default": 1}, shares_per_device=2)
    host = declared.within(JOB)
    assert (host.cpu_slots, host.gpus) == (3, ())
    assert host.memory_gb == pytest.approx(2.147, rel=1e-3)
    assert (host.quota, host.shares_per_device) == ({}, 2)
    other = declared.within({**JOB, "SLURM_JOB_ID": "8"})
    assert len({each.lock_folder for each in (host, other, declared)}) == 3
    assert len({each.warm_folder for each in (host, other, declared)}) == 3


def test_a_job_of_slurm_has_the_gpus_that_slurm_made_visible() -> None:
    given = {**JOB, "CUDA_VISIBLE_DEVICES": "2,3"}
    assert Host(gpus=("0",)).within(given).gpus is None  # those that are found within them
    assert ids(visible(GPUS, given["CUDA_VISIBLE_DEVICES"])) == ["2", "3"]


def test_a_job_of_ray_lends_the_cores_and_gpus_that_it_was_given_and_leaves_no_server(tmp_path: Path) -> None:
    declared = Host(cpu_slots=2, gpus=("7",), quota={"default": 1})
    host, other = (declared.within({RAY_JOB: job, "CUDA_VISIBLE_DEVICES": "2,3"}) for job in ("a", "b"))
    assert (host.cpu_slots, host.gpus, host.quota, host.warm_start) == (2, None, {}, "off")
    assert len({each.lock_folder for each in (host, other, declared)}) == 3


def test_a_job_of_a_ray_cluster_that_was_started_in_a_job_of_slurm_is_one_of_ray() -> None:
    host = Host(cpu_slots=4).within({**JOB, RAY_JOB: "a"})
    assert (host.cpu_slots, host.lock_folder.name, host.warm_start) == (4, "ray-a", "off")


def test_a_pod_lends_all_that_it_was_given_whatever_the_settings_say_of_hosts() -> None:
    host = Host(cpu_slots=2, gpus=(), quota={"default": 1}).within({RUN_POD: "acme"})
    assert (host.cpu_slots, host.gpus, host.quota) == (2, None, {})


def test_outside_of_a_job_of_slurm_a_host_is_what_its_settings_say() -> None:
    host = Host(cpu_slots=4, quota={"default": 2})
    assert host.within({"SLURM_CPUS_ON_NODE": "3"}) is host


def test_settings_are_loaded_as_the_job_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tenants").mkdir()
    (tmp_path / "ft_dagster.yaml").write_text("host: {cpu_slots: 64}\n")
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert len(find_devices(load_settings(tmp_path).host).devices) == 3
