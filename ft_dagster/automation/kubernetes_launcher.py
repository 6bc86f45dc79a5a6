"""Is Dagster's own launcher of runs as Jobs of Kubernetes, with what it lacks for tenants: a namespace for
each, why a run does not start while it waits, and patience with an API server that is silent.

dagster-k8s takes a run's namespace from the instance or the code location alone, says why a pod does not
start only once it gives the run up, counts a run whose Job it cannot ask about as lost, and one whose Job it
could not delete as cancelled.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import dagster as dg
from dagster_k8s import K8sRunLauncher
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import get_job_name_from_run_id
from kubernetes.client.rest import ApiException

from ft_dagster.automation.clusters.waiting import (
    JOB,
    TellsWaiting,
    WaitingRun,
    fail_for_good,
    said,
)
from ft_dagster.automation.clusters.watch import EndsJobs
from ft_dagster.automation.run_pods import CONFIG, is_of_a_tenant, namespace_in
from ft_dagster.automation.tags import NOBODY, TENANT
from ft_dagster.dagster_private import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from ft_dagster.errors import UserError

PATIENCE = 10.0  # seconds for the API server to answer
NOT_FOUND = 404
MISSING = "could not be found"  # dagster-k8s' words for a Job that is not there
MEND = "Make the Secret or the volume, or mend the image, that it names: the pod then starts by itself"
log = logging.getLogger(__name__)


class RunPodLauncher(K8sRunLauncher, TellsWaiting, EndsJobs):
    """Launches runs as `K8sRunLauncher` does, in the namespace that the coordinator wrote into their tag."""

    submitting_seconds = 120.0

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        for api in (self._api_client.batch_api, self._api_client.core_api):
            api.api_client.request = partial(_asked, api.api_client.request)

    def get_container_context_for_run(self, dagster_run: dg.DagsterRun) -> K8sContainerContext:
        context = super().get_container_context_for_run(dagster_run)
        namespace = namespace_in(_pod(dagster_run))
        return context if namespace is None else context.merge(K8sContainerContext(namespace=namespace))

    def launch_run(self, context: LaunchRunContext) -> None:
        """Make a run's Job, or fail the run in one line; Dagster runs it again, unless that mends nothing."""
        run = context.dagster_run
        try:
            self._make_job(context)
        except UserError as error:
            fail_for_good(run, self._instance, error)
        except Exception as error:
            why = _first(error.__cause__ or error)
            self._instance.report_run_failed(run, f"Kubernetes took no Job of it: {why}")
        else:
            job, namespace = self._place_of(run)
            said(run, self._instance, f"Its Job is {job} in the namespace {namespace}", {JOB: job})

    def _make_job(self, context: LaunchRunContext) -> None:
        run = context.dagster_run
        if run.tags.get(TENANT, NOBODY) != NOBODY and not is_of_a_tenant(_pod(run)):
            raise UserError(
                "nothing says what the pod of this run is: its log says why, or webserver or daemon, which "
                "submitted it, has no settings with `kubernetes`",
                fix="Mount the project where these run, name it there with FT_DAGSTER_PROJECT "
                "(deploy/kubernetes/values.yaml), and start the run again",
            )
        super().launch_run(context)

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Return RUNNING while the API server does not answer: Dagster ends a run of WorkerStatus.UNKNOWN,
        and its pod would go on.
        """
        found = super().check_run_worker_health(run)
        if found.status != WorkerStatus.UNKNOWN or MISSING in (found.msg or ""):
            return found
        return CheckRunHealthResult(WorkerStatus.RUNNING, found.msg)

    def terminate(self, run_id: str) -> bool:
        """Delete a run's Job. A run is left as it is where the API server does not answer: it would count as
        cancelled and train on.
        """
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        try:
            self._job_of(run)
        except Exception as error:
            message = f"Not cancelled: its Job cannot be asked about. Cancel it again. {_first(error)}"
            self._instance.report_engine_event(message, run)
            return False
        return bool(super().terminate(run_id))

    def waiting(self, runs: Sequence[dg.DagsterRun]) -> Iterable[WaitingRun]:
        for run in runs:
            try:
                found = self._waiting_run(run)
            except Exception as error:  # of one run, whose namespace may be closed to us
                found = WaitingRun(
                    run, "silent", f"Kubernetes does not say whether its pod waits: {_first(error)}"
                )
            if found is not None:
                yield found

    def end_jobs(self, runs: Sequence[dg.DagsterRun]) -> Iterable[str]:
        gone = list[str]()
        for run in runs:
            try:
                if not self._lives(run):
                    gone.append(run.run_id)
                    continue
                job, namespace = self._place_of(run)
                self._api_client.delete_job(job, namespace)
            except Exception as error:
                log.warning("cannot end what is left of run %s: %s", run.run_id, error)
            else:
                self._instance.report_engine_event("Its Job was still there, and is deleted now", run)
        return gone

    def _waiting_run(self, run: dg.DagsterRun) -> WaitingRun | None:
        job = self._job_of(run)
        if job is None:
            return WaitingRun(run, "", "Its Job is gone, or was never made", ended=True)
        if _has_ended(job):
            printed = ""
            with suppress(Exception):  # what it printed may be gone with its node
                printed = self.get_run_worker_debug_info(run) or ""
            return WaitingRun(run, "", printed.strip(), ended=True)
        why = self.why_it_waits(run)
        return WaitingRun(run, why, f"The run's pod does not run yet: {why}") if why else None

    def _place_of(self, run: dg.DagsterRun) -> tuple[str, str]:
        """Return the name of a run's Job, and its namespace."""
        namespace = self.get_container_context_for_run(run).namespace
        return get_job_name_from_run_id(run.run_id), str(namespace)

    def _job_of(self, run: dg.DagsterRun) -> Any:
        """Return a run's Job; None where there is none. Raises what the client does of a silent server."""
        try:
            return self._api_client.batch_api.read_namespaced_job_status(*self._place_of(run))
        except ApiException as error:
            if error.status == NOT_FOUND:
                return None
            raise

    def _lives(self, run: dg.DagsterRun) -> bool:
        """Say whether a run's Job may still have it run, or a pod of it runs that nobody has deleted."""
        found, (job, namespace) = self._job_of(run), self._place_of(run)
        if found is not None and not _has_ended(found):
            return True
        pods = self._api_client.core_api.list_namespaced_pod(
            namespace, label_selector=f"job-name={job}"
        ).items
        left = [pod for pod in pods if pod.metadata.deletion_timestamp is None]
        return any(pod.status.phase in ("Pending", "Running") for pod in left)

    def why_it_waits(self, run: dg.DagsterRun) -> str | None:
        """Return why a run's pod does not run, in Kubernetes' words, and the way out; None where it runs, or
        is on its way.
        """
        job, namespace = self._place_of(run)
        core, batch = self._api_client.core_api, self._api_client.batch_api
        pods = core.list_namespaced_pod(namespace, label_selector=f"job-name={job}").items
        about = job if not pods else pods[-1].metadata.name
        events = core.list_namespaced_event(namespace, field_selector=f"involvedObject.name={about}").items
        warnings = [f"{each.reason}: {each.message}" for each in events if each.type == "Warning"]
        if not pods:
            if warnings:
                return f"{warnings[-1]}. Mend the quota or the admission that refuses it"
            suspended = batch.read_namespaced_job_status(job, namespace).spec.suspend
            return "it waits to be admitted by Kueue's queue" if suspended else None
        return _waiting(pods[-1], warnings)


def _asked(ask: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """Ask the API server, which the client by itself waits for without an end."""
    return ask(*given, **{**named, "_request_timeout": named.get("_request_timeout") or PATIENCE})


def _first(error: BaseException) -> str:
    """Return what an error says in one line: the client's have all of an answer in them."""
    if isinstance(error, ApiException):
        return f"{error.status} {error.reason}"
    return next(iter(str(error).splitlines()), type(error).__name__)


def _has_ended(job: Any) -> bool:
    return not job.status.active and bool(job.status.failed or job.status.succeeded)


def _waiting(pod: Any, warnings: list[str]) -> str | None:
    if pod.status.phase != "Pending":
        return None
    for status in pod.status.container_statuses or ():
        waiting = status.state.waiting
        if waiting is not None and waiting.reason not in (None, "ContainerCreating", "PodInitializing"):
            return f"{waiting.reason}: {waiting.message or ''}. {MEND}"
    for condition in pod.status.conditions or ():
        if condition.type == "PodScheduled" and condition.status == "False":
            fix = "Ask for less in `resources`, add nodes or quota, or mend kubernetes.node_selector"
            return f"{condition.reason}: {condition.message}. {fix}"
    return f"{warnings[-1]}. {MEND}" if warnings else None


def _pod(run: dg.DagsterRun) -> dict[str, Any]:
    """Return what the run's tag says of its pod; nothing where it has none."""
    pod: dict[str, Any] = json.loads(run.tags.get(CONFIG, "{}"))
    return pod
