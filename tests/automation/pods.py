"""Small words of the tests of runs' pods: settings with all in them, and a project that has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ft_dagster.settings import Settings, load_settings

KUBERNETES: dict[str, Any] = {
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
    "service_account": "runs",
    "profiles": {
        "acme-prod": {"secrets": ["acme-store"]},
        "globex-file": {"credentials": "globex-store"},
        "platform": {"service_account": "platform-store"},
    },
    "grace_seconds": 90,
    "deadline_hours": 48,
}
GPUS: dict[str, Any] = {"gpus": 8, "gpu": "NVIDIA A100-SXM4-80GB", "gpu_memory_gb": 85.9, "cpus": 64}


def content(folder: Path, **changed: Any) -> dict[str, Any]:
    """Settings of a project whose runs are pods."""
    return {
        "store": "s3://models/ft_dagster",
        "store_profiles": {
            "default": "platform",
            "per_tenant": {"acme": "acme-prod", "globex": "globex-file"},
        },
        "work": "/work",
        "cluster": GPUS,
        "kubernetes": KUBERNETES,
        "host": {"lock_folder": str(folder / "locks"), "gpus": []},
        **changed,
    }


def settings_in(folder: Path, **changed: Any) -> Settings:
    (folder / "tenants").mkdir(exist_ok=True, parents=True)
    (folder / "ft_dagster.yaml").write_text(yaml.safe_dump(content(folder, **changed)))
    return load_settings(folder)
