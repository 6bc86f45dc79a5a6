"""Which launcher an installation has, and what it can give a declaration.

Programs run where their run is, under leases of its devices: on this host, in a pod of Kubernetes, in a job
of Slurm or Ray. Those of a variant that trains on several nodes Ray places beside the run's job.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from ft_dagster.cluster_refusals import refuse_job, refuse_pod
from ft_dagster.errors import UserError
from ft_dagster.launch.launcher import Launcher, LocalLauncher
from ft_dagster.launch.leases import Ask, Leases
from ft_dagster.launch.offer import ask_of_cluster, refuse_resources
from ft_dagster.launch.warm.choice import as_environment
from ft_dagster.program import TRAINING
from ft_dagster.settings import Settings
from ft_dagster.spec import VariantKey, VariantSpec


def launcher_of(settings: Settings, leases: Leases) -> Launcher[Any]:
    """Return what runs programs where a run is, as the settings say."""
    here = LocalLauncher(leases, as_environment(settings.host))
    if settings.ray is None:
        return here
    from ft_dagster.launch.on_ray.launcher import PlacedLauncher

    return PlacedLauncher(here, settings.ray, settings.cluster)


def are_placed(settings: Settings, spec: VariantSpec) -> bool:
    """Say whether Ray places the programs of a declaration on nodes beside its run."""
    return settings.ray is not None and spec.resources.nodes > 1


def ask_of(
    settings: Settings, leases: Leases, key: VariantKey, spec: VariantSpec, *, program: str, run_id: str
) -> Ask:
    """What a declaration asks for a program, where that runs. Raises UserError in a pod, or a job of Ray,
    that has no GPU.
    """
    reason = f"{program} for run {run_id[:8]}"
    if are_placed(settings, spec):
        _refuse_outside_ray(key)
        ask = ask_of_cluster(settings.cluster, key, spec.resources, reason, run_id)
        return replace(ask, nodes=ask.nodes if program == TRAINING else 1, placed=True)
    nodes = settings.nodes(spec.resources)
    if nodes is not None and nodes.gpus and leases.inventory.kind != "gpu":
        raise UserError(
            f"{program} of {key} needs a GPU, and there is none here",
            fix="In a run that was started as one that computes nothing: start it again, now that the fleet "
            "knows better. On a machine outside the cluster: start a run, which goes there",
        )
    return leases.ask_of(key, spec.resources, reason, run_id)


def refuse_lacking(settings: Settings, leases: Leases, key: VariantKey, spec: VariantSpec) -> None:
    """Raises UserError where a declaration's training needs what the launcher can never give, or where the
    launcher itself cannot be opened.
    """
    if settings.runs_in_cluster:
        refuse_run(settings, key, spec)
    elif settings.nodes(spec.resources) is None:
        leases.candidates(leases.ask_of(key, spec.resources))


def refuse_run(settings: Settings, key: VariantKey, spec: VariantSpec) -> None:
    """Raises UserError where no pod, or no job of Ray, can be a run of a declaration, on any host."""
    if settings.kubernetes is not None:
        refuse_pod(settings, settings.kubernetes, key.tenant)
        if spec.resources.nodes > 1:
            raise UserError(
                "a run on Kubernetes is one pod, on one node",
                field="resources.nodes",
                value=spec.resources.nodes,
                fix="Ask for more GPUs of one node (resources.gpus); several nodes take Ray on KubeRay "
                "(docs/deploy.md#several-nodes)",
            )
    else:
        refuse_job(settings)
    refuse_resources(settings.cluster, ask_of_cluster(settings.cluster, key, spec.resources))


def _refuse_outside_ray(key: VariantKey) -> None:
    if "RAY_ADDRESS" not in os.environ:  # Ray sets it in each job
        raise UserError(
            f"{key} trains on several nodes, and this is no job of Ray that could place its programs",
            field="resources.nodes",
            fix="Start a run, which is such a job",
        )
