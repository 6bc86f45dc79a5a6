"""Says where and how Kubernetes runs programs, as `kubernetes` of `ft_dagster.yaml` does: the platform's
alone.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ft_dagster.settings_part import Part, Tenant

LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"  # RFC 1123: what a namespace is called
SUBDOMAIN = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"  # and a secret, a service account, a priority class
Namespace = Annotated[str, Field(pattern=LABEL)]
ObjectName = Annotated[str, Field(pattern=SUBDOMAIN)]
WORD = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
LabelKey = Annotated[str, Field(pattern=rf"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?{WORD}$")]
QueueName = Annotated[str, Field(pattern=rf"^{WORD}$")]
LabelValue = Annotated[str, Field(pattern=rf"^({WORD})?$")]


class Toleration(Part):
    """Declares a pod's toleration, in Kubernetes' own words."""

    key: LabelKey | None = None
    operator: Literal["Equal", "Exists"] = "Equal"
    value: LabelValue | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None

    @model_validator(mode="after")
    def _says_what_it_tolerates(self) -> Toleration:
        if self.operator == "Exists" and self.value is not None:
            raise ValueError("value: `operator: Exists` takes none")
        if self.operator == "Equal" and self.key is None:
            raise ValueError("key: `operator: Equal` needs one")
        return self


class PodProfile(Part):
    """Says what the pods of a credentials profile get."""

    secrets: tuple[ObjectName, ...] = Field(
        (), description="Secrets of the pod's namespace; each of their keys becomes an environment variable"
    )
    service_account: ObjectName | None = Field(
        None, description="In place of `kubernetes.service_account`: what the cloud gives it, the pod has"
    )


class KubernetesSettings(Part):
    """Says how pods run; cores and memory are of a pod without GPUs; of one with, for each GPU."""

    image: str | None = Field(
        None,
        pattern=r"^\S+$",
        description="With ft-dagster[train] of this version in it",
    )
    image_pull_secrets: tuple[ObjectName, ...] = Field((), description="Secrets to pull it with")
    context: str | None = Field(
        None, description="Of the kubeconfig; null: the cluster this runs in, else the current context"
    )
    namespace: Namespace = Field("default", description="Where the Jobs are made")
    namespaces: dict[Tenant, Namespace] = Field({}, description="By tenant, in place of it")
    cpus: float = Field(4, gt=0, le=1024, description="Cores")
    memory_gb: float = Field(16, gt=0, le=100_000, description="Memory, GB of 1e9 bytes; a pod's limit too")
    shared_memory_gb: float = Field(
        2, gt=0, le=100_000, description="Of that, at most so much in /dev/shm, where NCCL's ranks meet"
    )
    disk_gb: float = Field(
        100, gt=0, le=1_000_000, description="Of a pod: base, data and checkpoints; GB of 1e9 bytes"
    )
    gpu_resource: LabelKey = Field("nvidia.com/gpu", description="What a node calls its GPUs")
    node_selector: dict[LabelKey, LabelValue] = Field({}, description="Labels that a pod's node must have")
    tolerations: tuple[Toleration, ...] = Field((), description="Taints of nodes that a pod may run on")
    priority_class: ObjectName | None = Field(None, description="Of pods; it must exist")
    queue: QueueName | None = Field(None, description="Kueue's LocalQueue; null: Kueue is not used")
    queues: dict[Tenant, QueueName] = Field({}, description="By tenant, in place of it")
    service_account: ObjectName = Field("default", description="Of pods; its token is not mounted")
    profiles: dict[str, PodProfile] = Field({}, description="By name, as `store_profiles` has it")
    grace_seconds: int = Field(
        120,
        ge=15,
        le=86_400,
        description="From SIGTERM to a pod's end: to save and upload a checkpoint",
    )
    pending_minutes: float = Field(
        60,
        gt=0,
        le=100_000,
        description="After which a pod that no node takes is given up; Kueue's wait not counted",
    )

    @model_validator(mode="after")
    def _shared_memory_is_part_of_it(self) -> KubernetesSettings:
        if self.shared_memory_gb >= self.memory_gb:
            raise ValueError(f"shared_memory_gb: it is part of memory_gb, which is {self.memory_gb:g}")
        return self

    def namespace_of(self, tenant: str) -> str:
        return self.namespaces.get(tenant, self.namespace)

    def queue_of(self, tenant: str) -> str | None:
        return self.queues.get(tenant, self.queue)
