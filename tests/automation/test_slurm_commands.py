"""What a job of Slurm asks for and is told, and how its answers are read: without a Slurm."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.automation.slurm import commands as slurm
from ft_dagster.automation.slurm.commands import (
    SlurmError,
    SlurmJob,
    SlurmOptions,
    devices,
    job_name,
    script_of,
    way_out,
)
from ft_dagster.errors import UserError
from ft_dagster.spec.variant import ResourcesSpec

KINDS = {
    "a100": {"name": "NVIDIA A100-SXM4-80GB", "memory_gb": 85.9},
    "h100": {"name": "NVIDIA H100 PCIe", "memory_gb": 85.5},
    "l4": {"name": "NVIDIA L4", "memory_gb": 24.2},
}


@pytest.mark.parametrize(
    ("declared", "gres"),
    [
        ({}, "gpu:1"),
        ({"gpus": 4}, "gpu:4"),
        ({"gpu_kind": "h100"}, "gpu:h100:1"),
        ({"gpu_kind": "H100|L4"}, "gpu:h100:1"),
        ({"gpu_memory_gb": 40, "gpus": 2}, "gpu:a100:2"),
        ({"gpu_kind": "NVIDIA", "gpu_memory_gb": 85.9}, "gpu:a100:1"),
    ],
)
def test_gpus_are_asked_for_by_what_is_declared(declared: dict[str, Any], gres: str) -> None:
    resources = ResourcesSpec(**declared)
    asked = devices(SlurmOptions(gpus=KINDS, cpus_per_gpu=8), resources)
    assert asked == [f"--gres={gres}", f"--cpus-per-task={8 * resources.gpus}"]


def test_a_cluster_without_gpus_gives_cores() -> None:
    options = SlurmOptions(cpus=3)
    assert devices(options, ResourcesSpec(gpus=8, gpu_kind="H100")) == ["--cpus-per-task=3"]
    assert devices(options, ResourcesSpec(cpu_slots=5)) == ["--cpus-per-task=5"]


@pytest.mark.parametrize(
    ("declared", "field", "fix"),
    [
        ({"gpu_kind": "B200"}, "resources.gpu_kind", "NVIDIA L4 (24.2 GB)"),
        ({"gpu_kind": "L4", "gpu_memory_gb": 80}, "resources.gpu_memory_gb", "run_launcher.config.gpus"),
        ({"nodes": 2}, "resources.nodes", "take Ray"),
    ],
)
def test_what_no_node_has_is_refused(declared: dict[str, Any], field: str, fix: str) -> None:
    with pytest.raises(UserError) as refused:
        devices(SlurmOptions(gpus=KINDS), ResourcesSpec(**declared))
    assert refused.value.field == field
    assert fix in refused.value.fix


def test_options_of_the_platform_are_arguments_and_nothing_of_the_daemons_environment_is_passed() -> None:
    options = SlurmOptions(
        partition="gpu", account="a b", time_limit="1-00:00:00", memory_gb=8, grace_seconds=90
    )
    arguments = options.arguments()
    assert {"--partition=gpu", "--account=a b", "--time=1-00:00:00", "--mem=7629M"} <= set(arguments)
    assert {"--export=NIL", "--no-requeue", "--signal=B:TERM@90", "--nodes=1"} <= set(arguments)
    assert not any(argument.startswith("--qos") for argument in arguments)


@pytest.mark.parametrize("odd", ["a b", "$(reboot)", "x,y", "ü;|", "../..", "%j", "a\nb"])
def test_a_jobs_name_means_nothing_to_a_shell_or_to_slurm(odd: str) -> None:
    name = job_name("acme.places", odd)
    assert name.startswith("ft-acme.places-")
    assert shlex.quote(name) == name
    assert not {*name} & {*",%/|\n "}


def test_a_script_gives_odd_values_as_they_are(tmp_path: Path) -> None:
    secrets = tmp_path / "run env"
    secrets.write_text("PASSWORD='of a file' OVER='of a file'\n")
    odd = 'a\'b "$HOME" `id`\nc'
    options = SlurmOptions(environment={"ODD": odd, "OVER": "platform"}, environment_file=str(secrets))
    read = (
        "import os; print(repr([os.environ.get(n) for n in ('ODD', 'OVER', 'PASSWORD', 'SECRET', 'HOME')]))"
    )
    script = script_of(["/usr/bin/env", "python3", "-c", read], options, {"OVER": "run"})
    assert "of a file" not in script
    told = subprocess.run(["bash"], input=script, env={}, capture_output=True, text=True, check=True).stdout
    assert told.strip() == repr([odd, "run", "of a file", None, str(Path.home())])


def test_a_script_without_its_environment_file_ends_before_the_run(tmp_path: Path) -> None:
    options = SlurmOptions(environment_file=str(tmp_path / "none"))
    script = script_of(["touch", str(tmp_path / "ran")], options, {})
    done = subprocess.run(["bash"], input=script, text=True, check=False)
    assert done.returncode == 1
    assert not (tmp_path / "ran").exists()


def answering(folder: Path, monkeypatch: pytest.MonkeyPatch, **programs: str) -> None:
    """Programs of these names alone on the path, each a shell script."""
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_jobs_are_read_in_the_order_of_their_submission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "echo '10|ft-a|RUNNING|n2|None'; echo '9|ft-a|PENDING||ReqNodeNotAvail, UnavailableNodes:n|1'"
    answering(tmp_path, monkeypatch, squeue=lines)
    assert slurm.jobs_of("ft-a") == [
        SlurmJob("9", "ft-a", "PENDING", "", "ReqNodeNotAvail, UnavailableNodes:n|1"),
        SlurmJob("10", "ft-a", "RUNNING", "n2", "None"),
    ]


def test_thousands_of_jobs_are_asked_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = 'IFS=,; for name in ${4#--name=}; do echo "1|$name|RUNNING|n|None"; done'
    answering(tmp_path, monkeypatch, squeue=lines)
    names = [job_name("acme.places", f"{number:036}") for number in range(3000)]
    assert sorted(job.name for job in slurm.jobs_of(*names)) == names


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ("Invalid partition name specified", "run_launcher.config.partition"),
        ("Invalid account or account/partition combination specified", "run_launcher.config.account"),
        ("Invalid qos specification", "run_launcher.config.qos"),
        ("Requested node configuration is not available", "run_launcher.config.gpus"),
        ("Invalid generic resource (gres) specification", "run_launcher.config.gpus"),
        ("CPU count per node can not be satisfied", "run_launcher.config.cpus"),
        ("Something new", "run_launcher.config"),
    ],
)
def test_what_sbatch_refuses_names_the_field(
    said: str, field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(tmp_path, monkeypatch, sbatch=f"echo 'sbatch: error: {said}' >&2; exit 1")
    with pytest.raises(UserError, match=re.escape(said)) as refused:
        slurm.submit("ft-a", [], "")
    assert refused.value.field == field
    assert refused.value.fix


def test_of_a_partition_that_takes_no_jobs_it_is_not_said_that_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "sbatch: error: Batch job submission failed: Required partition not available (inactive or drain)"
    answering(tmp_path, monkeypatch, sbatch=f"echo '{said}' >&2; exit 1")
    with pytest.raises(UserError, match="inactive or drained") as refused:
        slurm.submit("ft-a", [], "")
    assert refused.value.field == "run_launcher.config.partition"


def test_a_controller_that_is_away_is_no_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)"
    answering(tmp_path, monkeypatch, sbatch=f"echo '{said}' >&2; exit 1")
    with pytest.raises(SlurmError) as away:
        slurm.submit("ft-a", [], "")
    assert away.value.silent


@pytest.mark.parametrize(
    ("said", "silent"),
    [
        ("Zero Bytes were transmitted or received", True),
        ("Controller is in standby mode, try a different controller", True),
        ("Batch job submission failed: Resource temporarily unavailable", True),
        ("Munge encode failed: Failed to access munge.socket.2", True),
        ("Batch job submission failed: Protocol authentication error", True),
        ("Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)", False),
    ],
)
def test_what_may_pass_is_no_mistake_either(
    said: str, silent: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(tmp_path, monkeypatch, sbatch=f"echo {shlex.quote(said)} >&2; exit 1")
    with pytest.raises(SlurmError) as refused:
        slurm.submit("ft-a", [], "")
    assert refused.value.silent == silent
    assert silent or "max_concurrent_runs" in str(refused.value)


def test_a_host_without_slurms_commands_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(tmp_path, monkeypatch)
    with pytest.raises(UserError, match="not on the path") as refused:
        slurm.jobs_of("ft-a")
    assert (refused.value.value, "slurm-client" in refused.value.fix) == ("squeue", True)


@pytest.mark.parametrize(
    ("reason", "out"),
    [
        ("Resources", "squeue --start -j 7"),
        ("QOSMaxJobsPerUserLimit", "account or QOS"),
        ("AssocGrpGRES", "account or QOS"),
        ("PartitionTimeLimit", "time_limit"),
        ("PartitionDown", "partition is down"),
        ("ReqNodeNotAvail, UnavailableNodes:n1", "sinfo -R"),
        ("SomethingNew", "scontrol show job 7"),
    ],
)
def test_each_reason_to_wait_has_a_way_out(reason: str, out: str) -> None:
    assert out in way_out(SlurmJob("7", "ft-a", "PENDING", "", reason))


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("TIMEOUT", "raise run_launcher.config.time_limit"),
        ("OUT_OF_MEMORY", "config.memory_gb"),
        ("NODE_FAIL", "n1"),
    ],
)
def test_an_end_by_a_limit_says_which_to_raise(state: str, said: str) -> None:
    assert said in slurm.said_of_end(SlurmJob("7", "ft-a", state, "n1", "None"))
