"""The Job of one program: from what the variant declares and what the platform's settings say."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.kubernetes_settings import KubernetesSettings, PodProfile
from ft_dagster.launch import processes
from ft_dagster.spec.keys import VariantKey

PREFIX = "ft-dagster"  # of labels and annotations
WORK = f"{PREFIX}/work"  # label: what a Job does, the same for a step that was restarted
NAME_CHARS = 40  # of a Job's name that say the variant; a pod's name adds six to it
KEPT_SECONDS = 86_400  # that a Job which ended stays, where nobody collected what it made
USER = 1000  # of deploy/Dockerfile


@dataclass(frozen=True)
class PodOrder:
    """One program, as a pod is to run it.

    `work`: names what it does in one store; the same work is one Job, whoever asks for it and how often.
    `folder`: the pod's own disk, where the program reads and writes. `gpus` 0: on cores alone, `cpus` of them
    (None: what the settings say). `profile`: of credentials. `environment`: nothing secret, for anybody who
    may look at a pod can read it.
    """

    key: VariantKey
    program: str
    work: str
    command: tuple[str, ...]
    folder: str
    environment: Mapping[str, str] = field(default_factory=dict)
    gpus: int = 0
    cpus: int | None = None
    profile: str | None = None
    run_id: str = ""

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of the variant and its work."""
        return hashlib.sha256(f"{self.key}\0{self.work}".encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """The Job's: of two that are made under one name Kubernetes takes the first."""
        said = f"ft-{self.key.tenant}-{self.key.variant}"[:NAME_CHARS].rstrip("-")
        return f"{said}-{self.digest[:12]}"


def job_of(order: PodOrder, settings: KubernetesSettings) -> dict[str, Any]:
    """The Job (batch/v1) as the API server takes it.

    Kubernetes starts a pod again only where it took the first one away itself (eviction, drain, preemption),
    and not before that one has ended; any other end is the Job's, and the step decides. Raises UserError for
    what the settings have no answer to.
    """
    tenant, queue = order.key.tenant, settings.queue_of(order.key.tenant)
    labels = _labels(order)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": order.name,
            "namespace": settings.namespace_of(tenant),
            "labels": {**labels, **({"kueue.x-k8s.io/queue-name": queue} if queue else {})},
            "annotations": {f"{PREFIX}/run-id": order.run_id},
        },
        "spec": {
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "Ignore",
                        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                    }
                ]
            },
            "suspend": queue is not None,  # until Kueue admits it
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            "template": {"metadata": {"labels": labels}, "spec": _pod(order, settings)},
        },
    }


def _labels(order: PodOrder) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": PREFIX,
        "app.kubernetes.io/component": order.program.replace(".", "-"),
        f"{PREFIX}/tenant": order.key.tenant,
        f"{PREFIX}/variant": str(order.key),
        WORK: order.digest,
    }


def _pod(order: PodOrder, settings: KubernetesSettings) -> dict[str, Any]:
    profile = _profile(order, settings)
    optional = {
        "nodeSelector": dict(settings.node_selector),
        "tolerations": [toleration.model_dump(exclude_none=True) for toleration in settings.tolerations],
        "priorityClassName": settings.priority_class,
        "imagePullSecrets": [{"name": name} for name in settings.image_pull_secrets],
    }
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": settings.grace_seconds,
        "serviceAccountName": profile.service_account or settings.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(order, settings, profile)],
        "volumes": [
            {"name": "work", "emptyDir": {"sizeLimit": _bytes(settings.disk_gb)}},
            {
                "name": "shared-memory",
                "emptyDir": {"medium": "Memory", "sizeLimit": _bytes(settings.shared_memory_gb)},
            },
        ],
        **{name: value for name, value in optional.items() if value},
    }


def _container(order: PodOrder, settings: KubernetesSettings, profile: PodProfile) -> dict[str, object]:
    return {
        "name": "program",
        "image": _image(settings),
        "command": list(order.command),
        "env": [{"name": name, "value": value} for name, value in sorted(_environment(order, settings))],
        "envFrom": [{"secretRef": {"name": name}} for name in profile.secrets],
        "resources": _resources(order, settings),
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "work", "mountPath": order.folder},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
        ],
    }


def _environment(order: PodOrder, settings: KubernetesSettings) -> list[tuple[str, str]]:
    threads = str(max(1, int(_cores(order, settings))))
    own = {
        processes.GRACE: str(settings.grace_seconds // 2),  # the other half is for sending what was saved
        "HOME": order.folder,
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": order.folder,
    }
    return list({**own, **order.environment}.items())


def _resources(order: PodOrder, settings: KubernetesSettings) -> dict[str, dict[str, str]]:
    """Memory and GPUs are limits as well; cores are not: a limit would only slow who has idle neighbours."""
    each = max(1, order.gpus)
    bound = {"memory": _bytes(settings.memory_gb * each)}
    if order.gpus:
        bound[settings.gpu_resource] = str(order.gpus)
    cores = {"cpu": f"{round(_cores(order, settings) * 1000)}m"}
    return {"requests": {**cores, **bound, "ephemeral-storage": _bytes(settings.disk_gb)}, "limits": bound}


def _cores(order: PodOrder, settings: KubernetesSettings) -> float:
    if order.gpus:
        return settings.cpus * order.gpus
    return settings.cpus if order.cpus is None else float(order.cpus)


def _profile(order: PodOrder, settings: KubernetesSettings) -> PodProfile:
    if order.profile is None:
        return PodProfile()
    if order.profile not in settings.profiles:
        raise UserError(
            f"no pod can have the credentials of {order.key.tenant}",
            field="kubernetes.profiles",
            value=order.profile,
            fix="Name under it the Secret, or the service account, that gives them to a pod",
        )
    return settings.profiles[order.profile]


def _image(settings: KubernetesSettings) -> str:
    if settings.image is None:
        fix = "Build deploy/Dockerfile and name its image in ft_dagster.yaml"
        raise UserError("no image to run programs in", field="kubernetes.image", fix=fix)
    return settings.image


def _bytes(gigabytes: float) -> str:
    """As a quantity of Kubernetes; from GB of 1e9 bytes."""
    return str(round(gigabytes * 1e9))
