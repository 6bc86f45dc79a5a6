"""Is Dagster's own launcher of runs as Jobs of Kubernetes, with what it lacks for tenants: a namespace for
each, why a run does not start while it waits, and patience with an API server that is silent.

dagster-k8s takes a run's namespace from the instance or the code location alone, says why a pod does not
start only once it gives the run up, and counts a run whose Job it cannot ask about as lost.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from typing import Any

import dagster as dg
from dagster_k8s import K8sRunLauncher
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import get_job_name_from_run_id

from ft_dagster.automation.run_pods import CONFIG, is_of_a_tenant, namespace_in
from ft_dagster.automation.tags import NOBODY, TENANT
from ft_dagster.dagster_private import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from ft_dagster.errors import UserError

LOOK_SECONDS = 20.0  # between two looks at the runs that are to start
MISSING = "could not be found"  # dagster-k8s' words for a Job that is not there
MEND = "Make the Secret or the volume, or mend the image, that it names: the pod then starts by itself"
log = logging.getLogger(__name__)


class RunPodLauncher(K8sRunLauncher):
    """Launches runs as `K8sRunLauncher` does, in the namespace that the coordinator wrote into their tag."""

    _watch: threading.Thread | None = None

    def get_container_context_for_run(self, dagster_run: dg.DagsterRun) -> K8sContainerContext:
        context = super().get_container_context_for_run(dagster_run)
        namespace = namespace_in(_pod(dagster_run))
        return context if namespace is None else context.merge(K8sContainerContext(namespace=namespace))

    def launch_run(self, context: LaunchRunContext) -> None:
        run = context.dagster_run
        if run.tags.get(TENANT, NOBODY) != NOBODY and not is_of_a_tenant(_pod(run)):
            raise UserError(
                "nothing says what the pod of this run is: its log says why, or webserver or daemon, which "
                "submitted it, has no settings with `kubernetes`",
                fix="Mount the project where these run, name it there with FT_DAGSTER_PROJECT "
                "(deploy/kubernetes/values.yaml), and start the run again",
            )
        super().launch_run(context)
        self._watch_starts()

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Return RUNNING while the API server does not answer: Dagster ends a run of WorkerStatus.UNKNOWN,
        and its pod would go on.
        """
        found = super().check_run_worker_health(run)
        if found.status != WorkerStatus.UNKNOWN or MISSING in (found.msg or ""):
            return found
        return CheckRunHealthResult(WorkerStatus.RUNNING, found.msg)

    def _watch_starts(self) -> None:
        """Have a thread of the daemon say why runs do not start, for as long as any is to start."""
        if self._watch is None or not self._watch.is_alive():
            self._watch = threading.Thread(target=self._say_waits, name="run-pods", daemon=True)
            self._watch.start()

    def _say_waits(self) -> None:
        said = dict[str, str]()
        starting = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTING])
        while True:
            time.sleep(LOOK_SECONDS)
            try:
                runs = self._instance.get_runs(starting)
                for run in runs:
                    why = self.why_it_waits(run)
                    if why and said.get(run.run_id) != why:
                        self._instance.report_engine_event(f"The run's pod does not run yet: {why}", run)
                        said[run.run_id] = why
            except Exception as error:
                log.warning("cannot see why runs do not start: %s", error)
                continue
            if not runs:
                return

    def why_it_waits(self, run: dg.DagsterRun) -> str | None:
        """Return why a run's pod does not run, in Kubernetes' words, and the way out; None where it runs, or
        is on its way.
        """
        job = get_job_name_from_run_id(run.run_id)
        namespace = self.get_container_context_for_run(run).namespace
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
