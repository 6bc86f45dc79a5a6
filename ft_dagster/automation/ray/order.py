"""Makes what a run's job is on Ray: the tag `dagster-ray/config`, from the variant's declaration and the
platform's settings alone. Of a run's tags dagster-ray reads that one, and makes any job that it describes:
it is the coordinator's, whatever a submitter wrote into it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ft_dagster.automation.clusters.devices import ask_of_run
from ft_dagster.cluster import RaySettings
from ft_dagster.cluster_refusals import refuse_job
from ft_dagster.errors import UserError
from ft_dagster.host_settings import RAY_JOB
from ft_dagster.launch.launcher import credentials
from ft_dagster.launch.offer import inventory_of
from ft_dagster.launch.on_ray.launcher import beside_devices
from ft_dagster.launch.processes import GRACE
from ft_dagster.settings import PROJECT_VARIABLE, Settings
from ft_dagster.spec import Declared

CONFIG = "dagster-ray/config"
NO_TENANT = ""
Json = dict[str, Any]


def job_of(
    settings: Settings, run_id: str, tenant: str | None, declared: Declared | None, *, computes: bool
) -> Json:
    """Return the value of CONFIG for a run of a variant of `tenant`; None: for a run of no variant.

    `declared`: None where the declaration cannot be read, which its run will say. `computes`: whether the run
    is known to need devices. Raises UserError for settings by which no job can be made.
    """
    if settings.ray is None:
        raise UserError("runs are no jobs of Ray here", field="ray", fix="See docs/deploy.md#ray")
    refuse_job(settings)
    ask = ask_of_run(settings, declared) if computes else None
    places = ask is not None and ask.nodes > 1
    ask = None if places else ask  # Ray places its programs beside it
    gpus = ask.count if ask and settings.cluster.gpus else 0
    cores = inventory_of(settings.cluster).threads(ask.count) if ask else 1
    environment = {
        **settings.ray.runtime_env.get("env_vars", {}),
        **settings.cluster.environment,
        **credentials(settings.store_profiles.of(tenant)),
        **_of_node(settings, settings.ray, shared=places),
        "FT_DAGSTER_HOST__CPU_SLOTS": str(cores),
        RAY_JOB: run_id,
    }
    return {
        "num_cpus": cores,
        **({"num_gpus": gpus} if gpus else {}),
        **({"resources": beside_devices(settings.ray, ask)} if ask else {}),
        "runtime_env": {**settings.ray.runtime_env, "env_vars": environment},
        "metadata": {"ft_dagster_tenant": NO_TENANT if tenant is None else tenant},
    }


def is_of_a_tenant(job: Mapping[str, Any]) -> bool:
    """Say whether a value of CONFIG was made for a tenant's run."""
    return job.get("metadata", {}).get("ft_dagster_tenant", NO_TENANT) != NO_TENANT


def needs_of(job: Mapping[str, Any]) -> dict[str, float]:
    """Return what a value of CONFIG asks of a node, by Ray's names."""
    own = {"CPU": job.get("num_cpus", 1), "GPU": job.get("num_gpus", 0)}
    return {name: float(amount) for name, amount in {**own, **job.get("resources", {})}.items() if amount}


def _of_node(settings: Settings, ray: RaySettings, *, shared: bool) -> dict[str, str]:
    """Return what a run finds its place on a node by, in a folder of its own or of all nodes, and how it is
    ended: interrupted, and after `grace_seconds` killed.
    """
    cluster = settings.cluster
    cache, work = cluster.cache_gb, cluster.shared_folder if shared else cluster.work_folder
    return {
        PROJECT_VARIABLE: str(settings.project),
        "FT_DAGSTER_WORK": str(work),
        **({} if cache is None else {"FT_DAGSTER_CACHE_GB": f"{cache:g}"}),
        "RAY_JOB_STOP_SIGNAL": "SIGTERM",
        "RAY_JOB_STOP_WAIT_TIME_S": str(ray.grace_seconds),
        GRACE: str(ray.grace_seconds // 2),  # the other half is for sending what was saved
    }
