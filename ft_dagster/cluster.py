"""Describes the machines of a cluster that runs, or their trainings, go to: what each has, and what Ray and
Slurm are asked for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, field_validator, model_validator

from ft_dagster.errors import UserError
from ft_dagster.settings_part import Part
from ft_dagster.spec.variant import ResourcesSpec

TENANT = "{tenant}"  # in `tenant_resource`
SLURM_LAUNCHER, SLURM_CONFIG = "SlurmRunLauncher", "run_launcher.config"  # of an instance's dagster.yaml
CPUS_PER_GPU, CPUS = 4, 1  # of a job of Slurm, unless that says others
Gpus = Mapping[str, Mapping[str, Any]]  # by Slurm's type: `name`, as the driver has it, and `memory_gb`


def is_called(name: str, kind: str | None) -> bool:
    """Say whether a device's name has `kind` in it, or one of its parts between `|`; None: any name does."""
    parts = [part.strip().casefold() for part in (kind or "").split("|") if part.strip()]
    return kind is None or any(part in name.casefold() for part in parts)


class Cluster(Part):
    """Says what each node has that trains, and where programs keep things there. All nodes are of one
    kind.
    """

    nodes: int = Field(1, ge=1, le=1024, description="Nodes that one training may have at once")
    gpus: int = Field(0, ge=0, le=1024, description="GPUs of each node; 0: trainings get cores")
    gpu: str | None = Field(None, description="What the driver calls these GPUs: NVIDIA A100-SXM4-80GB")
    gpu_memory_gb: float | None = Field(
        None, gt=0, le=10_000, description="Memory of each GPU, GB of 1e9 bytes"
    )
    cpus: int = Field(1, ge=1, le=65_536, description="Cores of each node")
    memory_gb: float | None = Field(
        None,
        gt=0,
        le=1_000_000,
        description="Of a node without a GPU, GB of 1e9 bytes; null: as this host",
    )
    work_folder: Path = Field(
        Path("/tmp/ft_dagster-node"), description="Scratch space and cache, on each node's own disk"
    )
    cache_gb: float | None = Field(
        None,
        gt=0,
        le=1_000_000,
        description="What copies of bases and data may take on a node, GB of 1e9 bytes; null: any amount",
    )
    shared_folder: Path | None = Field(
        None,
        description="A folder that all nodes have under this path: needed by a training on more than one",
    )
    environment: dict[str, str] = Field(
        {},
        description="Of the programs there (NCCL_SOCKET_IFNAME: eth0); all who see the cluster can read it",
    )

    @field_validator("work_folder", "shared_folder")
    @classmethod
    def _is_absolute(cls, folder: Path | None) -> Path | None:
        if folder is not None and not folder.is_absolute():
            raise ValueError("not a whole path: it is one of other machines")
        return folder

    @model_validator(mode="after")
    def _gpus_are_described(self) -> Cluster:
        if self.gpus and (self.gpu is None or self.gpu_memory_gb is None):
            raise ValueError("gpus need gpu and gpu_memory_gb beside them: a plan is made for what they are")
        return self

    @model_validator(mode="after")
    def _nodes_share_a_folder(self) -> Cluster:
        if self.nodes > 1 and self.shared_folder is None:
            raise ValueError("more than 1 node needs shared_folder: they write one checkpoint together")
        return self

    @property
    def cache_bytes(self) -> float | None:
        return None if self.cache_gb is None else self.cache_gb * 1e9


class RaySettings(Part):
    """Says what the jobs of runs get on Ray."""

    resources: dict[str, Annotated[float, Field(gt=0, le=1e9)]] = Field(
        {}, description="What a job that computes asks of a node besides: {accelerator_type:A100: 0.001}"
    )
    tenant_resource: str | None = Field(
        None,
        description="Custom resource of which such a job takes 1 for each device; {tenant} stands in it for "
        "the tenant's name",
    )
    runtime_env: dict[str, Any] = Field({}, description="Ray's runtime environment of the job")
    grace_seconds: int = Field(
        120,
        ge=15,
        le=86_400,
        description="From a cancel to the end of a run's job: to save and upload a checkpoint",
    )

    @model_validator(mode="before")
    @classmethod
    def _names_what_moved(cls, content: Any) -> Any:
        for name in ("address", "silent_seconds") if isinstance(content, dict) else ():
            if name in content:
                raise ValueError(f"{name}: take it out; dagster.yaml names the head (docs/deploy.md#ray)")
        return content

    @model_validator(mode="after")
    def _resource_names_the_tenant(self) -> RaySettings:
        if self.tenant_resource is not None and TENANT not in self.tenant_resource:
            raise ValueError(f"tenant_resource: has no {TENANT} in it")
        return self


def slurm_launcher(home: Path) -> Mapping[str, Any] | None:
    """Return what a Dagster home says of its launcher of jobs of Slurm; None where it has none, and in a job,
    whose devices are its own.
    """
    file = home / "dagster.yaml"
    text = file.read_text("utf-8") if "SLURM_JOB_ID" not in os.environ and file.is_file() else ""
    if SLURM_LAUNCHER not in text:
        return None
    try:
        launcher = yaml.safe_load(text)["run_launcher"]
        return launcher.get("config") or {} if launcher["class"] == SLURM_LAUNCHER else None
    except (yaml.YAMLError, TypeError, KeyError):  # which Dagster says
        return None


def slurm_node(config: Mapping[str, Any], resources: ResourcesSpec) -> Cluster:
    """Return what a job of Slurm that declares `resources` asks for. Raises UserError for what none can
    have.
    """
    refuse_several_nodes(resources)
    gpus: Gpus = config.get("gpus") or {}
    if not gpus:
        return Cluster(
            cpus=resources.cpu_slots or config.get("cpus", CPUS), memory_gb=config.get("memory_gb")
        )
    asked = gpu_type(gpus, resources)
    gpu = gpus[asked] if asked else min(gpus.values(), key=lambda each: float(each["memory_gb"]))
    cores = config.get("cpus_per_gpu", CPUS_PER_GPU) * resources.gpus
    return Cluster(gpus=resources.gpus, gpu=gpu["name"], gpu_memory_gb=gpu["memory_gb"], cpus=cores)


def refuse_several_nodes(resources: ResourcesSpec) -> None:
    """Raises UserError for a declaration that no job of Slurm can be."""
    if resources.nodes > 1:
        fix = "Ask for 1; several nodes take Ray (docs/deploy.md#ray)"
        raise UserError(
            "a job of Slurm is on one node", field="resources.nodes", value=resources.nodes, fix=fix
        )


def gpu_type(gpus: Gpus, resources: ResourcesSpec) -> str:
    """Return Slurm's type of the first GPUs that fit; "" where any do. Raises UserError where none fits."""
    kind, least_gb = resources.gpu_kind, resources.gpu_memory_gb
    if kind is None and least_gb is None:
        return ""
    named = {name: float(each["memory_gb"]) for name, each in gpus.items() if is_called(each["name"], kind)}
    fitting = next((name for name, memory_gb in named.items() if memory_gb >= (least_gb or 0)), None)
    if fitting is None:
        wanted = ("resources.gpu_memory_gb", least_gb) if named else ("resources.gpu_kind", kind)
        there = ", ".join(f"{each['name']} ({each['memory_gb']:g} GB)" for each in gpus.values())
        fix = f"There are: {there}; {SLURM_CONFIG}.gpus in dagster.yaml lists them"
        raise UserError("no GPU of the cluster is such", field=wanted[0], value=wanted[1], fix=fix)
    return fitting
