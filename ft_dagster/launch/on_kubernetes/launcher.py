"""Trainings as Jobs of Kubernetes: what they read and leave goes through the store, one Job for one work."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any, TypeVar

from ft_dagster.errors import UserError
from ft_dagster.launch.launcher import Job, Say, ending
from ft_dagster.launch.local import ProgramFailed
from ft_dagster.launch.on_kubernetes.api import ApiServerSilent, Json, KubernetesApi
from ft_dagster.launch.on_kubernetes.follow import POLL_SECONDS, JobFollower, JobPatience
from ft_dagster.launch.on_kubernetes.job import PodOrder, job_of
from ft_dagster.launch.on_kubernetes.pods import has_failed
from ft_dagster.launch.remote.folders import NodeDisk
from ft_dagster.launch.remote.node import OPTIONS, OWN
from ft_dagster.launch.remote.order import read_order
from ft_dagster.launch.remote.passed import options_to_pass, refuse_secret_variables
from ft_dagster.launch.remote.relay import Relay, relay_of
from ft_dagster.launch.remote.staging import Staging, belongings_of
from ft_dagster.program import ProgramResult
from ft_dagster.settings import FILE, Settings
from ft_dagster.spec.keys import VariantKey
from ft_dagster.store.blobs import Store

NODE_PROGRAM = ("python", "-P", "-m", "ft_dagster.launch.remote.node")
TRIES, FIRST_WAIT = 6, 2.0  # of a call that the API server does not answer: about a minute in all
BROKEN_PATIENCE = 180.0  # seconds for an image, a Secret or a volume that a pod lacks to come
T = TypeVar("T")


@dataclass(frozen=True)
class KubernetesRun:
    """A Job that is followed. `relay`: what of its lines are messages for Dagster."""

    follower: JobFollower
    relay: Relay


def check(settings: Settings) -> None:
    """Raises UserError where the client is not installed, or no Job could be made of the settings."""
    file, own = settings.project / FILE, settings.kubernetes
    if own.image is None:
        fix = "Build deploy/Dockerfile and name its image"
        raise UserError("no image to run trainings in", file=file, field="kubernetes.image", fix=fix)
    if settings.cluster.nodes > 1:
        raise UserError(
            "launcher: k8s gives a training one pod, on one node",
            file=file,
            field="cluster.nodes",
            value=settings.cluster.nodes,
            fix="Say 1",
        )
    given = settings.store_profiles
    for profile in sorted({given.default, *given.per_tenant.values()} - {None, *own.profiles}, key=str):
        fix = "Name under it the Secret, or the service account, that gives them to a pod"
        problem = "no pod can have the credentials of this profile"
        raise UserError(problem, file=file, field="kubernetes.profiles", value=profile, fix=fix)
    if "profile" in settings.store_options:
        fix = "Name it in store_profiles, and under kubernetes.profiles what gives its credentials to a pod"
        raise UserError("no pod has it", file=file, field="store_options.profile", fix=fix)
    options_to_pass(settings.store_options, file)
    refuse_secret_variables(settings.cluster.environment, "cluster.environment", file)
    if find_spec("kubernetes") is None:
        fix = "pip install 'ft-dagster[k8s]'"
        raise UserError("kubernetes is not installed here", file=file, field="launcher", value="k8s", fix=fix)


def open_launcher(settings: Settings, _tenant: str) -> KubernetesLauncher:
    """Each of its jobs says whose it is."""
    return KubernetesLauncher(settings)


class KubernetesLauncher:
    """Runs programs as Jobs. A Job is named by its work, so that a step which was started again finds the
    one that its former self made, follows that, and never makes a second.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings, self._own = settings, settings.kubernetes

    @cached_property
    def _api(self) -> KubernetesApi:
        return KubernetesApi(self._own.context)

    def stage_in(self, job: Job) -> None:
        """A Job that does this very work, or has done it, is left alone; another of its name goes first.
        Raises UserError for settings that no Job can be made of, and where no cluster is configured.
        """
        manifest, staging = self._manifest(job), self._staging(job)
        with ending(lambda: self._remove(*_where(manifest))):
            stands = _patiently(lambda: self._stands(manifest))
            order = staging.prepare(job)
            before = staging.order_before(job)
            if stands and before is not None and before.does_what(order):
                return
            self._remove(*_where(manifest))
            staging.send(job, order)

    def start(self, job: Job, say: Say) -> KubernetesRun:
        manifest = self._manifest(job)
        namespace, name = _where(manifest)
        with ending(lambda: self._remove(namespace, name)):
            made = _patiently(lambda: self._api.create(manifest))
            say(f"Job {namespace}/{name} {'made' if made else 'is there already, and is followed from here'}")
        patience = JobPatience(60 * self._own.pending_minutes, BROKEN_PATIENCE)
        follower = JobFollower(self._api, namespace, name, patience)
        return KubernetesRun(follower, relay_of(job.environment))

    def report(self, started: KubernetesRun, say: Say) -> int | None:
        def pass_on(line: str) -> None:
            if line.startswith(OWN):
                say(line.removeprefix(OWN))
            elif (rest := started.relay.pass_on(line)) or not line:
                print(rest, flush=True)

        code = started.follower.poll(say, pass_on)
        if code is None:
            time.sleep(POLL_SECONDS)
        return code

    def cancel(self, started: KubernetesRun) -> None:
        self._remove(started.follower.namespace, started.follower.name)

    def collect(self, job: Job, started: KubernetesRun, exit_code: int) -> ProgramResult:
        staging = self._staging(job)
        staging.collect(job, read_order(staging.store, belongings_of(job).place).attempt)
        with suppress(ApiServerSilent):  # then its time to live ends it, or whoever asks for the same work
            self._api.delete(started.follower.namespace, started.follower.name)
        return job.read_result(exit_code)

    def _stands(self, manifest: Json) -> bool:
        """Whether a Job of this name works, or has succeeded. One that failed has a step that died before it
        could say so.
        """
        found = self._api.job(*_where(manifest))
        return found is not None and "deletionTimestamp" not in found["metadata"] and not has_failed(found)

    def _remove(self, namespace: str, name: str) -> None:
        """Have a Job and its pods removed, and wait until they are gone; an interrupt does not hurry it."""
        patience = self._own.grace_seconds + 60.0
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            try:
                if self._is_gone(namespace, name):
                    return
                time.sleep(1.0)
            except Exception:
                raise
            except BaseException as error:
                print(f"still ending Job {name} ({type(error).__name__})", file=sys.stderr, flush=True)
        print(
            f"Job {namespace}/{name} is not gone after {patience:.0f} s: "
            f"see `kubectl -n {namespace} get pods -l batch.kubernetes.io/job-name={name}`",
            file=sys.stderr,
            flush=True,
        )

    def _is_gone(self, namespace: str, name: str) -> bool:
        try:
            self._api.delete(namespace, name)
            return self._api.job(namespace, name) is None
        except ApiServerSilent:
            return False

    def _manifest(self, job: Job) -> Json:
        place, url, cluster = belongings_of(job).place, self._store(job).url, self._settings.cluster
        options = options_to_pass(self._settings.store_options, self._settings.project / FILE)
        count = 0 if job.ask is None else job.ask.count
        order = PodOrder(
            key=VariantKey.parse(job.lessee),
            program=job.program,
            work=f"{url}/{place}",
            command=(*NODE_PROGRAM, place, "--store", url, *NodeDisk.of(cluster).arguments),
            folder=str(cluster.work_folder),
            environment={**self._staging(job).environment, OPTIONS: options},
            gpus=count if cluster.gpus else 0,
            cpus=None if cluster.gpus or not count else count,
            profile=job.profile,
            run_id="" if job.ask is None else job.ask.run_id,
        )
        return job_of(order, self._own)

    def _store(self, job: Job) -> Store:
        return self._settings.open_store(VariantKey.parse(job.lessee).tenant)

    def _staging(self, job: Job) -> Staging:
        return Staging(self._store(job), self._settings.cluster)


def _where(manifest: Mapping[str, Any]) -> tuple[str, str]:
    return manifest["metadata"]["namespace"], manifest["metadata"]["name"]


def _patiently(call: Callable[[], T]) -> T:
    """What a call returns, tried again while the API server is silent. Raises ProgramFailed."""
    for tried in range(TRIES):
        try:
            return call()
        except ApiServerSilent as silent:
            if tried == TRIES - 1:
                raise ProgramFailed(str(silent), "Try again once it answers", mendable=True) from silent
            time.sleep(FIRST_WAIT * 1.6**tried)
    raise AssertionError("the last try returns or raises")
