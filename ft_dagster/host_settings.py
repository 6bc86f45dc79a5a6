"""Settings: what this host lends, and whether its programs start warm."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from ft_dagster.settings_part import Part, Tenant
from ft_dagster.spec.plain import plain_value

WARM_IDLE_SECONDS = 600.0
RUN_POD = "FT_DAGSTER_RUN_POD"  # in the environment of a run that is a pod of Kubernetes: of whom
RAY_JOB = "FT_DAGSTER_RAY_JOB"  # in the environment of a run that is a job of Ray: a name of its own


def _whole(value: Any) -> Any:
    return plain_value(value, int)


def default_warm_folder() -> Path:
    """Return the folder of this user on this host."""
    return Path("/tmp") / f"ft_dagster-warm-{os.getuid()}"


class Host(Part):
    """Says what this host lends to trainings."""

    cpu_slots: int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="Cores lent; where there are GPUs, their programs share them; null: all",
    )
    memory_gb: float | None = Field(
        None, gt=0, le=1_000_000, description="Memory lent where there is no GPU, GB of 1e9 bytes; null: all"
    )
    gpus: tuple[str, ...] | None = Field(None, description="GPU indices or UUIDs lent; null: found with NVML")
    shares_per_device: int = Field(
        1, ge=1, le=64, description="Trainings declared `sharing: shared` that use one GPU or slot at once"
    )
    quota: dict[Tenant, Annotated[int, Field(ge=1, le=65_536), BeforeValidator(_whole)]] = Field(
        {}, description="Devices a tenant may hold at once; `default`: who is not named; none: any number"
    )
    lock_folder: Path = Field(
        Path("/tmp") / f"ft_dagster-leases-{os.getuid()}", description="Shared by all instances on this host"
    )

    warm_start: Literal["auto", "off"] = Field(
        "auto",
        description="Fork programs, and the runs of the daemon that commands share, from processes that have "
        "imported what they need; off: start each",
    )
    warm_folder: Path = Field(
        default_warm_folder(), description="Where that process is found; of this user alone"
    )
    warm_idle_seconds: float = Field(
        WARM_IDLE_SECONDS,
        gt=0,
        le=86_400,
        description="After which it ends when nobody asked it; until then it is the one process that is left",
    )
    warm_imports: tuple[str, ...] | None = Field(
        None, description="Modules that it imports; null: what the programs need on this host"
    )
    offload_folders: tuple[str, ...] = Field(
        (), description="Folders where a declaration's training.deepspeed.nvme_path may lie"
    )

    def within(self, environment: Mapping[str, str]) -> Host:
        """Return what this process may lend: in a pod, or a job of Slurm or Ray, what that was given,
        and nothing that another job of the host would wait for or end with.
        """
        if RUN_POD in environment:  # whose devices, disk and processes are its own
            return self.model_copy(update={"gpus": None, "quota": {}})
        if RAY_JOB in environment:  # also where the cluster was started in a job of Slurm
            job = f"ray-{environment[RAY_JOB]}"
            given: dict[str, Any] = {"warm_start": "off"}  # Ray would not end a process that the job leaves
        elif "SLURM_JOB_ID" in environment:
            memory = float(environment.get("SLURM_MEM_PER_NODE", "0")) * 2**20 / 1e9
            job = f"slurm-{environment['SLURM_JOB_ID']}"
            given = {
                "cpu_slots": int(environment.get("SLURM_CPUS_ON_NODE", "1")),
                "memory_gb": memory or self.memory_gb,
            }
        else:
            return self
        given |= {
            # Both set it where a job has GPUs.
            "gpus": None if "CUDA_VISIBLE_DEVICES" in environment else self.gpus or (),
            "quota": {},
            "lock_folder": self.lock_folder / job,
            "warm_folder": self.warm_folder / job,
        }
        return Host(**{**self.model_dump(exclude_unset=True), **given})
