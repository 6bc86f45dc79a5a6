"""Which launcher an installation has, and what it can give a declaration; each other one has a line here.

A launcher of a cluster runs trainings. All else (judging, exports, questions' texts) runs on the host of the
code location, under leases of its devices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

from ft_dagster.launch.launcher import Job, Launcher, LocalLauncher, Say
from ft_dagster.launch.leases import Ask, Leases
from ft_dagster.launch.remote.offer import ask_of_cluster, refuse_beyond
from ft_dagster.launch.warm.choice import as_environment
from ft_dagster.program import TRAINING, ProgramResult
from ft_dagster.settings import LOCAL, Settings
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


def _on_kubernetes() -> ClusterLauncher:
    from ft_dagster.launch.on_kubernetes import launcher

    return ClusterLauncher(launcher.open_launcher, launcher.check)


CLUSTERS = {"ray": _on_ray, "k8s": _on_kubernetes}  # each is imported where the settings name it


def launcher_of(settings: Settings, leases: Leases) -> Launcher[Any]:
    """As the settings name it; that of a cluster is opened for a tenant's first training."""
    here = LocalLauncher(leases, as_environment(settings.host))
    if settings.launcher == LOCAL:
        return here
    return TrainingsAway(here, partial(CLUSTERS[settings.launcher]().open, settings))


def ask_of(
    settings: Settings, leases: Leases, key: VariantKey, spec: VariantSpec, *, program: str, run_id: str
) -> Ask:
    """What a declaration asks for a program, where that runs."""
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
    if settings.launcher == LOCAL:
        leases.candidates(leases.ask_of(key, spec.resources))
    else:
        CLUSTERS[settings.launcher]().check(settings)
        refuse_beyond(settings.cluster, settings.launcher, key, spec)


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
