"""Which launcher an installation has, and what it can give a declaration.

Programs run where their run is, under leases of its devices: on this host, in a pod of Kubernetes, in a job
of Slurm or Ray. Those of a variant that trains on several nodes Ray places beside the run's job.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.kubernetes_settings import KubernetesSettings
from ft_dagster.launch.launcher import Launcher, LocalLauncher
from ft_dagster.launch.leases import Ask, Leases
from ft_dagster.launch.offer import ask_of_cluster, refuse_resources
from ft_dagster.launch.passed import (
    refuse_credentials,
    refuse_secret_variables,
    refuse_users_in_addresses,
)
from ft_dagster.launch.warm.choice import as_environment
from ft_dagster.program import TRAINING
from ft_dagster.roots import is_address
from ft_dagster.settings import FILE, Settings
from ft_dagster.spec import VariantKey, VariantSpec

SEVERAL_ON_KUBERNETES = "several nodes take Ray on KubeRay (docs/deploy.md#several-nodes)"


def launcher_of(settings: Settings, leases: Leases) -> Launcher[Any]:
    """Return what runs programs where a run is, as the settings say."""
    here = LocalLauncher(leases, as_environment(settings.host))
    if settings.ray is None:
        return here
    from ft_dagster.launch.on_ray.launcher import PlacedLauncher

    return PlacedLauncher(here, settings.ray, settings.cluster)


def ask_of(
    settings: Settings, leases: Leases, key: VariantKey, spec: VariantSpec, *, program: str, run_id: str
) -> Ask:
    """What a declaration asks for a program, where that runs. Raises UserError in a pod, or a job of Ray,
    that has no GPU.
    """
    reason = f"{program} for run {run_id[:8]}"
    if settings.runs_in_cluster and spec.resources.nodes > 1:
        _refuse_outside_ray(key)
        ask = ask_of_cluster(settings.cluster, key, spec.resources, reason, run_id)
        return replace(ask, nodes=ask.nodes if program == TRAINING else 1, placed=True)
    if settings.runs_in_cluster and settings.cluster.gpus and leases.inventory.kind != "gpu":
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
    else:
        leases.candidates(leases.ask_of(key, spec.resources))


def refuse_run(settings: Settings, key: VariantKey, spec: VariantSpec) -> None:
    """Raises UserError where no pod, or no job of Ray, can be a run of a declaration, on any host."""
    if settings.kubernetes is not None:
        refuse_pod(settings, settings.kubernetes, key.tenant)
        _refuse_nodes(spec, "a run on Kubernetes is one pod, on one node", SEVERAL_ON_KUBERNETES)
    else:
        refuse_job(settings)
    refuse_resources(settings.cluster, ask_of_cluster(settings.cluster, key, spec.resources))


def refuse_pod(settings: Settings, pods: KubernetesSettings, tenant: str | None) -> None:
    """Raises UserError where the settings make no pod that could run something of a tenant."""
    file, profile = settings.project / FILE, settings.store_profiles.of(tenant)

    def refuse(problem: str, field: str, value: object, fix: str) -> None:
        raise UserError(problem, file=file, field=field, value=value, fix=fix)

    fix = "Take one of them out"
    if settings.ray is not None:
        refuse("runs are pods, and no jobs of Ray", "ray", "beside kubernetes", fix)
    if not is_address(settings.store):
        refuse("a folder of a pod goes with it", "store", settings.store, "Name s3://bucket/prefix")
    if settings.work_folder.is_relative_to(settings.project):
        fix = "Name a folder outside the project, whose volume is only read: /work"
        refuse("scratch space of a pod in the project", "work", str(settings.work), fix)
    if settings.cluster.nodes > 1:
        refuse("a run is one pod, on one node", "cluster.nodes", settings.cluster.nodes, "Say 1")
    if profile is not None and profile not in pods.profiles:
        fix = "Name under it the Secret, or the service account, that gives them to a pod"
        refuse("no pod can have the credentials of this profile", "kubernetes.profiles", profile, fix)
    if "profile" in settings.store_options:
        fix = "Name it in store_profiles, and under kubernetes.profiles what gives its credentials to a pod"
        refuse("no pod has it", "store_options.profile", settings.store_options["profile"], fix)
    refuse_credentials(settings.store_options, file)
    refuse_secret_variables(settings.cluster.environment, "cluster.environment", file)


def refuse_job(settings: Settings) -> None:
    """Raises UserError where the settings make no job of Ray that could run something: what a job is told can
    be read by all who see the cluster.
    """
    file, field = settings.project / FILE, "ray.runtime_env.env_vars"
    variables = {} if settings.ray is None else settings.ray.runtime_env.get("env_vars", {})
    if not isinstance(variables, dict):
        fix = "Write {NAME: value}"
        raise UserError("not variables by their names", file=file, field=field, fix=fix)
    refuse_secret_variables(settings.cluster.environment, "cluster.environment", file)
    refuse_secret_variables(variables, field, file)
    refuse_users_in_addresses(
        {} if settings.ray is None else settings.ray.runtime_env, "ray.runtime_env", file
    )


def _refuse_outside_ray(key: VariantKey) -> None:
    if "RAY_ADDRESS" not in os.environ:  # Ray sets it in each job
        raise UserError(
            f"{key} trains on several nodes, and this is no job of Ray that could place its programs",
            field="resources.nodes",
            fix="Start a run, which is such a job",
        )


def _refuse_nodes(spec: VariantSpec, problem: str, elsewhere: str) -> None:
    if spec.resources.nodes > 1:
        raise UserError(
            problem,
            field="resources.nodes",
            value=spec.resources.nodes,
            fix=f"Ask for more GPUs of one node (resources.gpus); {elsewhere}",
        )
