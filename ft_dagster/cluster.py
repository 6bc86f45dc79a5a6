"""Describes the machines of a cluster that runs, or their trainings, go to: what each has, and what Ray is
asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from ft_dagster.settings_part import Part

TENANT = "{tenant}"  # in `tenant_resource`


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
