"""Says what describes the nodes that runs go to: the settings' `cluster`, or on Slurm what a job asks for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import yaml

from ft_dagster.cluster import Cluster, is_called
from ft_dagster.errors import UserError
from ft_dagster.settings import Settings
from ft_dagster.spec.variant import ResourcesSpec

LAUNCHER, CONFIG = "SlurmRunLauncher", "run_launcher.config"  # of an instance's dagster.yaml
CPUS_PER_GPU, CPUS = 4, 1  # unless that says others
Gpus = Mapping[str, Mapping[str, Any]]  # by Slurm's type: `name`, as the driver has it, and `memory_gb`


def nodes_of(settings: Settings, resources: ResourcesSpec) -> Cluster | None:
    """Return what describes the nodes that a run goes to; None where it stays on this host, and in a job of
    Slurm, whose devices are its own. Raises UserError for what no job of Slurm can have.
    """
    if settings.runs_in_cluster:
        return settings.cluster
    config = _launcher_config(settings)
    if config is None:
        return None
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
        fix = f"There are: {there}; {CONFIG}.gpus in dagster.yaml lists them"
        raise UserError("no GPU of the cluster is such", field=wanted[0], value=wanted[1], fix=fix)
    return fitting


def _launcher_config(settings: Settings) -> Mapping[str, Any] | None:
    """Return what the project's instance says of its launcher of jobs of Slurm; None where it has none."""
    file = settings.dagster_home / "dagster.yaml"
    text = file.read_text("utf-8") if "SLURM_JOB_ID" not in os.environ and file.is_file() else ""
    if LAUNCHER not in text:
        return None
    try:
        launcher = yaml.safe_load(text)["run_launcher"]
        return launcher.get("config") or {} if launcher["class"] == LAUNCHER else None
    except (yaml.YAMLError, TypeError, KeyError):  # which Dagster says
        return None
