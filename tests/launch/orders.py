"""Small words of the tests of Kubernetes' Jobs: settings with all in them, and what a pod is to run."""

from __future__ import annotations

from typing import Any

from ft_dagster.kubernetes_settings import KubernetesSettings
from ft_dagster.launch.on_kubernetes.job import PodOrder
from ft_dagster.spec import VariantKey

SETTINGS: dict[str, Any] = {
    "image": "ft-dagster-trainer:0.1.0",
    "image_pull_secrets": ["registry"],
    "namespace": "training",
    "namespaces": {"acme": "training-acme"},
    "cpus": 6,
    "memory_gb": 100,
    "shared_memory_gb": 16,
    "disk_gb": 300,
    "node_selector": {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "priority_class": "training",
    "queue": "gpus",
    "queues": {"acme": "gpus-acme"},
    "service_account": "trainer",
    "profiles": {"acme-prod": {"secrets": ["acme-store"]}, "role": {"service_account": "acme-trainer"}},
    "grace_seconds": 90,
}


def settings(**changed: Any) -> KubernetesSettings:
    return KubernetesSettings.model_validate({**SETTINGS, **changed})


def order(key: str = "acme.support", **changed: Any) -> PodOrder:
    given = {
        "program": "training",
        "work": "s3://store/tenants/acme/support/fine_tuned_model/0123/nodes/evidence",
        "command": ("python", "-P", "-m", "ft_dagster.launch.remote.node", "place", "--store", "s3://store"),
        "folder": "/work",
        "gpus": 2,
        "profile": "acme-prod",
        "run_id": "d5b2b4a2-5d0e-4c53-a2a1-4b9a7e4f7b6e",
        **changed,
    }
    return PodOrder(VariantKey.parse(key), **given)


def pod_of(job: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = job["spec"]["template"]["spec"]
    return pod
