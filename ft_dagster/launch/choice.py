"""Which launcher an installation has, and what it can give a declaration; each other one has a line here.

A launcher of a cluster runs trainings. All else (judging, exports, questions' texts) runs where the run is,
under leases of its devices. Where the run is a pod of Kubernetes or a job of Ray, all of it is local there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.kubernetes_settings import KubernetesSettings
from ft_dagster.launch.launcher import Job, Launcher, LocalLauncher, Say
from ft_dagster.launch.leases import Ask, Leases
from ft_dagster.launch.remote.offer import ask_of_cluster, refuse_beyond, refuse_resources
from ft_dagster.launch.remote.passed import (
    options_to_pass,
    refuse_secret_variables,
    refuse_users_in_addresses,
)
from ft_dagster.launch.warm.choice import as_environment
from ft_dagster.program import TRAINING, ProgramResult
from ft_dagster.roots import is_address
from ft_dagster.settings import FILE, LOCAL, Settings
from ft_dagster.spec import VariantKey, VariantSpec


class ClusterLauncher(NamedTuple):
    """How one is opened for a tenant, and what raises UserError where it cannot be: a library or a setting is
    missing.
    """

    open: Callable[[Settings, str], Launcher[Any]]
    check: Callable[[Settings], None]


def _on_ray() -> ClusterLauncher:
    from ft_dagster.launch.on_ray import launcher

    return ClusterLauncher(launcher.open_launcher, launcher.check)


SEVERAL_ON_KUBERNETES = "several nodes take Ray on KubeRay (docs/deploy.md#several-nodes)"
SEVERAL_ON_RAY = "several nodes take `launcher: ray`, which sends trainings alone (docs/deploy.md#ray)"
CLUSTERS = {"ray": _on_ray}  # each is imported where the settings name it


def launcher_of(settings: Settings, leases: Leases) -> Launcher[Any]:
    """As the settings name it; that of a cluster is opened for a tenant's first training."""
    here = LocalLauncher(leases, as_environment(settings.host))
    if settings.launcher == LOCAL:
        return here
    return TrainingsAway(here, partial(CLUSTERS[settings.launcher]().open, settings))


def ask_of(
    settings: Settings, leases: Leases, key: VariantKey, spec: VariantSpec, *, program: str, run_id: str
) -> Ask:
    """What a declaration asks for a program, where that runs. Raises UserError in a pod, or a job of Ray,
    that has no GPU.
    """
    if settings.runs_in_cluster and settings.cluster.gpus and leases.inventory.kind != "gpu":
        raise UserError(
            f"{program} of {key} needs a GPU, and there is none here",
            fix="In a run that was started as one that computes nothing: start it again, now that the fleet "
            "knows better. On a machine outside the cluster: start a run, which goes there",
        )
    reason = f"{program} for run {run_id[:8]}"
    ask = leases.ask_of(key, spec.resources, reason, run_id)
    if settings.launcher == LOCAL:
        return ask
    if program == TRAINING:
        return ask_of_cluster(settings.cluster, key, spec.resources, reason, run_id)
    # What was asked for was devices of the cluster.
    count = min(ask.count, leases.most(key.tenant))
    return replace(ask, count=count, memory_bytes=0, gpu_kind=None, nodes=1)


def refuse_lacking(settings: Settings, leases: Leases, key: VariantKey, spec: VariantSpec) -> None:
    """Raises UserError where a declaration's training needs what the launcher can never give, or where the
    launcher itself cannot be opened.
    """
    if settings.runs_in_cluster:
        refuse_run(settings, key, spec)
    elif settings.launcher == LOCAL:
        leases.candidates(leases.ask_of(key, spec.resources))
    else:
        CLUSTERS[settings.launcher]().check(settings)
        refuse_beyond(settings.cluster, settings.launcher, key, spec)


def refuse_run(settings: Settings, key: VariantKey, spec: VariantSpec) -> None:
    """Raises UserError where no pod, or no job of Ray, can be a run of a declaration, on any host."""
    if settings.kubernetes is not None:
        refuse_pod(settings, settings.kubernetes, key.tenant)
        _refuse_nodes(spec, "a run on Kubernetes is one pod, on one node", SEVERAL_ON_KUBERNETES)
    else:
        refuse_job(settings)
        _refuse_nodes(spec, "a run on Ray is one job, on one node", SEVERAL_ON_RAY)
    refuse_resources(settings.cluster, ask_of_cluster(settings.cluster, key, spec.resources))


def refuse_pod(settings: Settings, pods: KubernetesSettings, tenant: str | None) -> None:
    """Raises UserError where the settings make no pod that could run something of a tenant."""
    file, profile = settings.project / FILE, settings.store_profiles.of(tenant)

    def refuse(problem: str, field: str, value: object, fix: str) -> None:
        raise UserError(problem, file=file, field=field, value=value, fix=fix)

    fix = "Take one of them out. Runs that are pods and send their trainings to Ray are not supported"
    if settings.launcher != LOCAL:
        refuse("runs are pods, in which trainings are local", "launcher", settings.launcher, fix)
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
    options_to_pass(settings.store_options, file)
    refuse_secret_variables(settings.cluster.environment, "cluster.environment", file)


def refuse_job(settings: Settings) -> None:
    """Raises UserError where the settings make no job of Ray that could run something: what a job is told can
    be read by all who see the cluster.
    """
    from ft_dagster.launch.on_ray.launcher import VARIABLES, variables_of

    file = settings.project / FILE
    refuse_secret_variables(settings.cluster.environment, "cluster.environment", file)
    refuse_secret_variables(variables_of(settings), VARIABLES, file)
    refuse_users_in_addresses(
        {} if settings.ray is None else settings.ray.runtime_env, "ray.runtime_env", file
    )


def _refuse_nodes(spec: VariantSpec, problem: str, elsewhere: str) -> None:
    if spec.resources.nodes > 1:
        raise UserError(
            problem,
            field="resources.nodes",
            value=spec.resources.nodes,
            fix=f"Ask for more GPUs of one node (resources.gpus); {elsewhere}",
        )


@dataclass(frozen=True)
class SentJob:
    """A started job, and who started it."""

    launcher: Launcher[Any]
    run: Any


@dataclass(frozen=True)
class TrainingsAway:
    """Runs trainings by launchers of another place, each opened for the first one of a tenant, and all other
    programs here.
    """

    here: Launcher[Any]
    open_away: Callable[[str], Launcher[Any]]
    _opened: dict[str, Launcher[Any]] = field(default_factory=dict)

    def stage_in(self, job: Job) -> None:
        self._of(job).stage_in(job)

    def start(self, job: Job, say: Say) -> SentJob:
        launcher = self._of(job)
        return SentJob(launcher, launcher.start(job, say))

    def report(self, started: SentJob, say: Say) -> int | None:
        return started.launcher.report(started.run, say)

    def cancel(self, started: SentJob) -> None:
        started.launcher.cancel(started.run)

    def collect(self, job: Job, started: SentJob, exit_code: int) -> ProgramResult:
        return started.launcher.collect(job, started.run, exit_code)

    def _of(self, job: Job) -> Launcher[Any]:
        if job.program != TRAINING:
            return self.here
        tenant = VariantKey.parse(job.lessee).tenant
        if tenant not in self._opened:
            self._opened[tenant] = self.open_away(tenant)
        return self._opened[tenant]
