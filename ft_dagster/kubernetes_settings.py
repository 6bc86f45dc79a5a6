"""Says what the pods of runs get on Kubernetes, as `kubernetes` of `ft_dagster.yaml` does: the platform's
alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

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
TENANT = "{tenant}"  # in `record_keys`
MOVED = {  # fields that said how a training's own Job was made
    "image": "runs have the image of their code location",
    "image_pull_secrets": "they are the run launcher's (the chart's imagePullSecrets)",
    "context": "it is the run launcher's (kubeconfig_file)",
    "pending_minutes": "it is start_timeout_seconds of run_monitoring in dagster.yaml",
}


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
    """Says how the pod of a run gets the credentials of a profile."""

    secrets: tuple[ObjectName, ...] = Field(
        (), description="Secrets of the pod's namespace; each of their keys becomes an environment variable"
    )
    credentials: ObjectName | None = Field(
        None,
        description="A Secret whose key `credentials` is a file of AWS profiles with this one in it: what is "
        "written there later is read by runs in progress",
    )
    service_account: ObjectName | None = Field(
        None, description="In place of `kubernetes.service_account`: what the cloud gives it, the pod has"
    )

    @model_validator(mode="after")
    def _gives_credentials_once(self) -> PodProfile:
        given = [name for name in type(self).model_fields if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"say one of secrets, credentials and service_account (got {given or 'none'})")
        return self


class KubernetesSettings(Part):
    """Says how the pods of runs are made; cores and memory are of a pod without GPUs; of one with, for each
    GPU.
    """

    namespace: Namespace | None = Field(
        None, description="Where runs are made; null: where the run launcher makes them"
    )
    namespaces: dict[Tenant, Namespace] = Field({}, description="By tenant, in place of it")
    cpus: float = Field(4, gt=0, le=1024, description="Cores")
    memory_gb: float = Field(16, gt=0, le=100_000, description="Memory, GB of 1e9 bytes; a pod's limit too")
    shared_memory_gb: float = Field(
        2, gt=0, le=100_000, description="Of that, at most so much in /dev/shm, where NCCL's ranks meet"
    )
    disk_gb: float = Field(
        100, gt=0, le=1_000_000, description="Of a pod's `work`: base, data and checkpoints; GB of 1e9 bytes"
    )
    gpu_resource: LabelKey = Field("nvidia.com/gpu", description="What a node calls its GPUs")
    node_selector: dict[LabelKey, LabelValue] = Field(
        {}, description="Labels that the node of a run which trains or judges must have"
    )
    tolerations: tuple[Toleration, ...] = Field((), description="Taints of nodes that such a run may be on")
    priority_class: ObjectName | None = Field(None, description="Of such runs; it must exist")
    queue: QueueName | None = Field(
        None, description="Kueue's LocalQueue of such runs; null: Kueue is not used"
    )
    queues: dict[Tenant, QueueName] = Field({}, description="By tenant, in place of it")
    service_account: ObjectName = Field("default", description="Of pods; its token is not mounted")
    profiles: dict[str, PodProfile] = Field({}, description="By name, as `store_profiles` has it")
    record_keys: str = Field(
        "ft-dagster-keys-{tenant}",
        pattern=r"^[a-z0-9{]([-a-z0-9.{}]*[a-z0-9}])?$",
        description="The Secret with a tenant's record keys (`audit key backup keys.json --tenant`); "
        "{tenant} stands in it for the tenant's name",
    )
    shared_record_keys: ObjectName = Field(
        "ft-dagster-keys", description="The Secret of runs of no tenant (`audit key backup --shared`)"
    )
    grace_seconds: int = Field(
        120,
        ge=15,
        le=86_400,
        description="From SIGTERM to a pod's end: to save and upload a checkpoint",
    )
    lost_node_seconds: int = Field(
        60,
        ge=0,
        le=86_400,
        description="For how long a node may not answer before its run counts as lost, and is run again",
    )
    deadline_hours: float | None = Field(
        None,
        gt=0,
        le=100_000,
        description="After which a pod is ended, and its run is run again; null: never",
    )

    @model_validator(mode="before")
    @classmethod
    def _names_what_moved(cls, content: Any) -> Any:
        for name in MOVED if isinstance(content, Mapping) else ():
            if name in content:
                raise ValueError(f"{name}: take it out; {MOVED[name]} (docs/deploy.md#kubernetes)")
        return content

    @model_validator(mode="after")
    def _each_tenant_has_keys_of_its_own(self) -> KubernetesSettings:
        if TENANT not in self.record_keys:
            raise ValueError(f"record_keys: has no {TENANT} in it")
        return self

    @model_validator(mode="after")
    def _shared_memory_is_part_of_it(self) -> KubernetesSettings:
        if self.shared_memory_gb >= self.memory_gb:
            raise ValueError(f"shared_memory_gb: it is part of memory_gb, which is {self.memory_gb:g}")
        return self

    def namespace_of(self, tenant: str | None) -> str | None:
        """Return the namespace of a tenant's runs; None as `tenant`: of runs of no variant."""
        return self.namespaces.get(tenant or "", self.namespace)

    def queue_of(self, tenant: str | None) -> str | None:
        return self.queues.get(tenant or "", self.queue)

    def keys_of(self, tenant: str | None) -> str:
        """Return the Secret of a tenant's record keys; None as `tenant`: of what all share."""
        return self.shared_record_keys if tenant is None else self.record_keys.replace(TENANT, tenant)
