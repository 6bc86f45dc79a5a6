"""What dagster-k8s makes of the files that docs/deploy.md applies: the Jobs of runs, as an API server gets
them through the real client; it asks the rules of rbac.yaml before each call. No cluster has seen any of it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
import yaml
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.launcher import LaunchRunContext, WorkerStatus
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.test_utils import create_run_for_test
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster._daemon.monitoring.run_monitoring import monitor_started_run
from dagster._daemon.run_coordinator import QueuedRunCoordinatorDaemon

from ft_dagster.automation.clusters import watch
from ft_dagster.automation.run_pods import CONFIG, RESOURCES, pod_of, written
from ft_dagster.automation.tags import variant_tags
from ft_dagster.settings import Settings, load_settings
from ft_dagster.spec import Declarations, VariantKey, load_variant
from tests.automation.declarations import declare
from tests.automation.pods import settings_in
from tests.kubernetes_api import ApiServer, Call, may, serve
from tests.present import present

if TYPE_CHECKING:
    from ft_dagster.automation.kubernetes_launcher import RunPodLauncher

pytestmark = pytest.mark.long  # needs dagster-k8s and the client, of 126 MB
ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy" / "kubernetes"
ACCOUNT = "dagster:dagster"
NAMESPACES = ("dagster", "training", "training-acme")
USER = 1000  # of deploy/Dockerfile
Json = dict[str, Any]
STARTING, FAILURE = dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.FAILURE


def rules() -> list[Json]:
    """What docs/deploy.md has applied: rbac.yaml, once for each namespace of runs."""
    text = (DEPLOY / "rbac.yaml").read_text("utf-8")
    texts = [text.replace("namespace: training", f"namespace: {name}") for name in NAMESPACES]
    return [document for each in texts for document in yaml.safe_load_all(each)]


class Cluster:
    """The API server, an instance with the launcher of deploy/kubernetes/dagster.yaml, and a project."""

    def __init__(self, api: ApiServer, instance: dg.DagsterInstance, settings: Settings) -> None:
        self.api, self.instance, self.settings = api, instance, settings

    @property
    def launcher(self) -> RunPodLauncher:
        return self.instance.run_launcher  # type: ignore[return-value]

    def tags(self, key: str = "acme.support", **resources: Any) -> dict[str, str]:
        variant = VariantKey.parse(key)
        declare(self.settings.project, key, None, resources=resources)
        one = Declarations(self.settings.project).declared(variant)
        return {
            **variant_tags(variant, "ui"),
            **written(pod_of(self.settings, variant.tenant, one, computes=True), {}),
        }

    def run(
        self, tags: Mapping[str, str], context: Json | None = None, job: str = "variant_chain"
    ) -> dg.DagsterRun:
        repository = RepositoryPythonOrigin(
            sys.executable,
            ModuleCodePointer("tests.automation.pods_location", "defs", str(ROOT)),
            container_image="ft-dagster-trainer:0.1.0",
            container_context=context,
        )
        origin = JobPythonOrigin(job, repository)
        return create_run_for_test(self.instance, job, tags=dict(tags), job_code_origin=origin)

    def launched(
        self, tags: Mapping[str, str], context: Json | None = None
    ) -> tuple[dg.DagsterRun, str, Json]:
        """A launched run, the namespace that its Job was made in, and that Job."""
        run = self.run(tags, context)
        self.launcher.launch_run(LaunchRunContext(run, None))
        ((namespace, _), job), *_ = [
            (where, job) for where, job in self.api.jobs.items() if where[1] == f"dagster-run-{run.run_id}"
        ]
        return run, namespace, job


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr("dagster_k8s.client.time.sleep", lambda _: None)
    api = ApiServer(rules(), ACCOUNT)
    with serve(api, tmp_path) as kubeconfig:
        given = yaml.safe_load((DEPLOY / "dagster.yaml").read_text("utf-8"))
        own = {"load_incluster_config": False, "kubeconfig_file": str(kubeconfig)}
        given["run_launcher"]["config"] |= own
        (tmp_path / "home").mkdir()
        names = ("run_launcher", "run_coordinator", "run_monitoring", "run_retries")
        kept = {name: given[name] for name in names}
        with dg.DagsterInstance.local_temp(str(tmp_path / "home"), overrides=kept) as instance:
            yield Cluster(api, instance, settings_in(tmp_path / "project"))


def spec_of(job: Json) -> Json:
    spec: Json = job["spec"]["template"]["spec"]
    return spec


def test_the_job_that_dagster_makes_has_what_the_tag_says(cluster: Cluster) -> None:
    _, namespace, job = cluster.launched(cluster.tags(gpus=2))
    spec = spec_of(job)
    (container,) = spec["containers"]
    assert namespace == job["metadata"]["namespace"] == "training-acme"
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus-acme"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert container["image"] == "ft-dagster-trainer:0.1.0"
    assert container["args"][1:5] == ["-m", "dagster", "api", "execute_run"]
    assert spec["terminationGracePeriodSeconds"] == 90
    assert spec["serviceAccountName"] == "runs"
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["fsGroup"] == USER
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    memory = {"medium": "Memory", "sizeLimit": "16000000000"}
    assert {"name": "shared-memory", "emptyDir": memory} in spec["volumes"]
    assert {"secretRef": {"name": "acme-store"}} in container["envFrom"]
    mounted = {each["mountPath"] for each in container["volumeMounts"]}
    assert mounted == {"/project", "/work", "/dev/shm", "/var/run/ft-dagster/record-keys"}
    assert job["spec"]["backoffLimit"] == 0
    assert job["spec"]["activeDeadlineSeconds"] == 172_800
    assert "podFailurePolicy" not in job["spec"]  # with one, a pod whose node is gone would count as alive
    assert spec["restartPolicy"] == "Never"


def test_each_example_is_a_job_by_the_apis_schema_on_gpus_and_on_cores(cluster: Cluster) -> None:
    projects = [each for each in sorted((ROOT / "examples").iterdir()) if (each / "tenants").is_dir()]
    found = [load_variant(project, key) for project in projects for key in Declarations(project)]
    assert len(found) > 3
    on_cores = settings_in(
        cluster.settings.project.with_name("cores"), cluster={"cpus": 16}, store_profiles={}
    )
    for one in found:
        for settings in (on_cores, cluster.settings):
            cluster.launched(written(pod_of(settings, one.key.tenant, one, computes=True), {}))
    assert len(cluster.api.jobs) == 2 * len(found)


def test_the_settings_that_are_deployed_make_jobs(cluster: Cluster, tmp_path: Path) -> None:
    project = tmp_path / "deployed"
    (project / "tenants").mkdir(parents=True)
    shutil.copy(DEPLOY / "ft_dagster.yaml", project / "ft_dagster.yaml")
    cluster.settings = load_settings(project)
    tags = cluster.tags("acme.support", gpus=1)
    _, namespace, job = cluster.launched(tags)
    assert namespace == "training-acme"
    accounts = {each["metadata"]["name"] for each in rules() if each["kind"] == "ServiceAccount"}
    assert spec_of(job)["serviceAccountName"] in accounts
    for files in ("credentials", "record-keys"):
        (volume,) = [each for each in spec_of(job)["volumes"] if each["name"] == files]
        assert volume["secret"]["defaultMode"] == 0o440  # fsGroup's to read, and nobody else's


def test_what_the_code_location_has_is_in_no_run_where_the_chart_is_told_so(cluster: Cluster) -> None:
    """Its context would be merged into each run's pod, the file of all tenants' credentials among it."""
    values = yaml.safe_load((DEPLOY / "values.yaml").read_text("utf-8"))
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    assert deployment["includeConfigInLaunchedRuns"] == {"enabled": False}
    secrets = [each["secret"]["secretName"] for each in deployment["volumes"] if "secret" in each]
    assert secrets == ["ft-dagster-credentials"]
    _, _, job = cluster.launched(cluster.tags())
    assert "ft-dagster-credentials" not in json.dumps(job)
    context = {"k8s": {"volumes": deployment["volumes"]}}
    assert "ft-dagster-credentials" in json.dumps(cluster.launched(cluster.tags(), context)[2])


def test_the_older_tag_would_take_the_gpu_away_and_does_not(cluster: Cluster) -> None:
    tags = cluster.tags(gpus=2)
    emptied = cluster.launched({**tags, RESOURCES: "{}"})[2]
    assert "nvidia.com/gpu" not in json.dumps(spec_of(emptied)["containers"][0].get("resources", {}))
    kept = cluster.launched(tags | written(json.loads(tags[CONFIG]), {RESOURCES}))[2]
    assert spec_of(kept)["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"


def test_dagsters_own_launcher_cannot_make_it_in_the_tenants_namespace(cluster: Cluster) -> None:
    """Why there is one of ours: the API server refuses a Job that names another namespace than its URL."""
    from dagster_k8s import K8sRunLauncher

    config = {name: getattr(cluster.launcher, name) for name in ("dagster_home", "instance_config_map")}
    own = K8sRunLauncher(
        "runs", load_incluster_config=False, kubeconfig_file=cluster.launcher.kubeconfig_file,
        job_namespace="dagster", **config,
    )  # fmt: skip
    own.register_instance(cluster.instance)
    with pytest.raises(Exception, match="Unexpected error encountered in Kubernetes API") as error:
        own.launch_run(LaunchRunContext(cluster.run(cluster.tags()), None))
    assert "the namespace training-acme does not match dagster" in str(error.value.__cause__)


def test_a_run_whose_pod_nobody_described_is_not_launched(cluster: Cluster) -> None:
    for said in ({}, {CONFIG: "{}"}):
        run = cluster.run({**variant_tags(VariantKey("acme", "support"), "ui"), **said})
        cluster.launcher.launch_run(LaunchRunContext(run, None))
        assert any("nothing says what the pod of this run is" in line for line in told(cluster, run))
        failed = present(cluster.instance.get_run_by_id(run.run_id))
        assert (failed.status, failed.tags["dagster/will_retry"]) == (FAILURE, "false")
    assert cluster.api.jobs == {}


def test_a_job_that_the_api_server_does_not_take_fails_its_run_in_a_line_and_is_made_again(
    cluster: Cluster,
) -> None:
    run = cluster.run(cluster.tags())
    cluster.api.silent = True
    cluster.launcher.launch_run(LaunchRunContext(run, None))
    assert any(line.startswith("Kubernetes took no Job of it: 503") for line in told(cluster, run))
    assert not any("Traceback" in line for line in told(cluster, run))
    failed = present(cluster.instance.get_run_by_id(run.run_id))
    assert (failed.status, failed.tags["dagster/will_retry"]) == (FAILURE, "true")


def test_the_rules_allow_each_call_of_a_runs_life_and_none_is_to_spare(cluster: Cluster) -> None:
    run, namespace, job = cluster.launched(cluster.tags())
    name, pod = job["metadata"]["name"], {"metadata": {"name": "pod-1"}}
    started = {"name": "dagster", "state": {"running": {}}, "ready": True, "restartCount": 0}
    started |= {"image": "x", "imageID": "x"}
    spec = {"containers": [{"name": "dagster"}]}
    cluster.api.pods[name] = [
        {**pod, "spec": spec, "status": {"phase": "Running", "containerStatuses": [started]}}
    ]
    assert cluster.launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
    assert "the last line" in present(cluster.launcher.get_run_worker_debug_info(run))
    assert cluster.launcher.terminate(run.run_id)
    cluster.api.pods.clear()
    cluster.launcher.get_run_worker_debug_info(run)
    assert [call for call in cluster.api.calls if not may(rules(), ACCOUNT, call)] == []
    made = {(call.group, call.resource, call.verb) for call in cluster.api.calls}
    (role, *_) = [each for each in rules() if each["kind"] == "Role"]
    allowed = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert made == allowed
    assert {call.namespace for call in cluster.api.calls} == {namespace}


@pytest.mark.parametrize(
    "call",
    [
        Call("get", "", "secrets", "training-acme"),
        Call("create", "batch", "jobs", "kube-system"),
        Call("create", "", "pods", "training-acme"),
        Call("create", "rbac.authorization.k8s.io", "roles", "training-acme"),
    ],
    ids=str,
)
def test_the_rules_allow_nothing_else(call: Call) -> None:
    assert not may(rules(), ACCOUNT, call)
    for account in ("training-acme:ft-dagster-runs", "training-acme:default"):
        assert not may(rules(), account, Call("create", "batch", "jobs", "training-acme"))


UNSCHEDULED = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/12 nodes are available: 12 Insufficient nvidia.com/gpu.",
}
NO_SECRET = {"reason": "CreateContainerConfigError", "message": 'secret "acme-store" not found'}
NO_VOLUME = 'MountVolume.SetUp failed for volume "record-keys": secret "ft-dagster-keys-acme" not found'


def pending(**status: Any) -> list[Json]:
    return [
        {"metadata": {"name": "pod-1"}, "spec": {"containers": []}, "status": {"phase": "Pending", **status}}
    ]


def waiting(state: Json) -> Json:
    return {
        "name": "dagster",
        "state": {"waiting": state},
        "ready": False,
        "restartCount": 0,
        "image": "x",
        "imageID": "",
    }


def warning(message: str, reason: str = "FailedMount") -> Json:
    about = {"kind": "Pod", "name": "pod-1"}
    return {"type": "Warning", "reason": reason, "message": message, "involvedObject": about, "metadata": {}}


@pytest.mark.parametrize(
    ("pods", "events", "said", "way_out"),
    [
        (pending(conditions=[UNSCHEDULED]), {}, "12 Insufficient nvidia.com/gpu", "mend kubernetes.node_sel"),
        (pending(containerStatuses=[waiting(NO_SECRET)]), {}, '"acme-store" not found', "Make the Secret"),
        (
            pending(containerStatuses=[waiting({"reason": "ContainerCreating"})]),
            {"pod-1": [warning(NO_VOLUME)]},
            '"ft-dagster-keys-acme" not found',
            "Make the Secret",
        ),
        ([], {"JOB": [warning("exceeded quota", "FailedCreate")]}, "exceeded quota", "Mend the quota"),
    ],
    ids=["no GPU is free, or there is none", "no Secret of credentials", "no Secret of keys", "quota"],
)  # fmt: skip
def test_why_a_pod_does_not_start_is_said_in_the_runs_log(
    cluster: Cluster, pods: list[Json], events: dict[str, list[Json]], said: str, way_out: str
) -> None:
    run = cluster.run(cluster.tags())
    name = f"dagster-run-{run.run_id}"
    cluster.api.pods[name] = pods
    cluster.api.events = {where.replace("JOB", name): each for where, each in events.items()}
    cluster.instance.handle_new_event(starting(run))
    cluster.launcher.launch_run(LaunchRunContext(run, None))
    for _ in range(3):
        watch.look(cluster.instance)
    (line,) = [each for each in told(cluster, run) if said in each]
    assert way_out in line
    assert status(cluster, run) == STARTING


def test_a_daemon_that_was_started_again_watches_before_it_launches_anything(cluster: Cluster) -> None:
    run, _, job = cluster.launched(cluster.tags())
    cluster.instance.handle_new_event(starting(run))
    cluster.api.pods[job["metadata"]["name"]] = pending(conditions=[UNSCHEDULED])
    queue = QueuedRunCoordinatorDaemon(interval_seconds=5)
    with WorkspaceProcessContext(cluster.instance, EmptyWorkspaceTarget()) as process, queue:
        assert [each for each in queue.run_iteration(process) if each] == []
        until(lambda: next((each for each in told(cluster, run) if "Insufficient" in each), None))


def test_a_pod_that_ends_before_its_run_began_fails_the_run_with_what_it_said(cluster: Cluster) -> None:
    run, namespace, job = cluster.launched(cluster.tags())
    cluster.instance.handle_new_event(starting(run))
    name = job["metadata"]["name"]
    failed = {"failed": 1, "conditions": [{"type": "Failed", "status": "True"}]}
    cluster.api.jobs[namespace, name]["status"] = failed
    (evicted,) = pending(phase="Failed", reason="Evicted", message="node was low on ephemeral-storage")
    cluster.api.pods[name] = [evicted]
    watch.look(cluster.instance)
    found = present(cluster.instance.get_run_by_id(run.run_id))
    assert found.status == dg.DagsterRunStatus.FAILURE
    assert found.tags["dagster/will_retry"] == "true"
    (line,) = [each for each in told(cluster, run) if "ended before the run began" in each]
    assert "node was low on ephemeral-storage" in line
    watch.look(cluster.instance)
    assert sum("ended before the run began" in each for each in told(cluster, run)) == 1


def test_a_run_whose_job_is_gone_fails_and_hides_no_other(cluster: Cluster) -> None:
    other, _, job = cluster.launched(cluster.tags("acme.other"))
    run, namespace, gone = cluster.launched(cluster.tags())
    for each in (other, run):
        cluster.instance.handle_new_event(starting(each))
    del cluster.api.jobs[namespace, gone["metadata"]["name"]]
    cluster.api.pods[job["metadata"]["name"]] = pending(conditions=[UNSCHEDULED])
    watch.look(cluster.instance)
    assert any("Insufficient" in each for each in told(cluster, other))
    assert status(cluster, other) == STARTING
    assert status(cluster, run) == dg.DagsterRunStatus.FAILURE
    assert any("Its Job is gone" in each for each in told(cluster, run))


def test_a_run_whose_daemon_was_killed_before_it_made_a_job_fails_once_no_launch_can_take_so_long(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = cluster.run(cluster.tags())
    cluster.instance.handle_new_event(starting(run))
    watch.look(cluster.instance)
    assert status(cluster, run) == STARTING
    monkeypatch.setattr(type(cluster.launcher), "submitting_seconds", 0.0)
    watch.look(cluster.instance)
    assert status(cluster, run) == dg.DagsterRunStatus.FAILURE


def test_a_silent_api_server_fails_no_run(cluster: Cluster) -> None:
    run, _, _ = cluster.launched(cluster.tags())
    cluster.instance.handle_new_event(starting(run))
    cluster.api.silent = True
    for _ in range(2):
        watch.look(cluster.instance)
    assert status(cluster, run) == STARTING
    assert sum("Kubernetes does not say" in each for each in told(cluster, run)) == 1


def test_an_api_server_that_takes_questions_and_never_answers_holds_up_nothing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _, _ = started(cluster)
    monkeypatch.setattr("ft_dagster.automation.kubernetes_launcher.PATIENCE", 0.2)
    found = list[object]()

    def ask() -> None:
        found.append(cluster.launcher.check_run_worker_health(run).status)
        found.append(cluster.launcher.terminate(run.run_id))
        found.append([*cluster.launcher.end_jobs([run])])

    with socket.create_server(("127.0.0.1", 0)) as deaf:  # the kernel accepts for it
        client = cluster.launcher._api_client
        for api in (client.batch_api, client.core_api):
            api.api_client.configuration.host = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        thread = Thread(target=ask, daemon=True)
        thread.start()
        thread.join(60)
    assert found == [WorkerStatus.RUNNING, False, []]
    assert status(cluster, run) == dg.DagsterRunStatus.STARTED


def test_a_cancel_that_the_api_server_does_not_answer_leaves_the_run_as_it_is(cluster: Cluster) -> None:
    run, namespace, job = started(cluster)
    cluster.api.silent = True
    assert not cluster.launcher.terminate(run.run_id)
    assert status(cluster, run) == dg.DagsterRunStatus.STARTED
    (line,) = [each for each in told(cluster, run) if "Cancel it again" in each]
    assert line.endswith("503 Service Unavailable")
    cluster.api.silent = False
    assert cluster.launcher.terminate(run.run_id)
    assert status(cluster, run) == dg.DagsterRunStatus.CANCELING
    assert (namespace, job["metadata"]["name"]) not in cluster.api.jobs


def test_the_job_of_a_cancelled_run_that_lives_on_is_deleted_and_the_jobs_of_others_are_not(
    cluster: Cluster,
) -> None:
    """As where the API server fell silent between the question and the deletion."""
    other, place, others = started(cluster, "acme.other")
    runs = [started(cluster, key) for key in ("acme.canceling", "acme.canceled")]
    for run, _, _ in runs:
        cluster.instance.report_run_canceling(run)
    cluster.instance.report_run_canceled(runs[1][0])
    left = {(place, others["metadata"]["name"])}
    cluster.api.silent = True
    watch.look(cluster.instance)
    assert len(cluster.api.jobs) == 3
    cluster.api.silent = False
    for _ in range(2):
        watch.look(cluster.instance)
    assert {*cluster.api.jobs} == left
    for run, _, _ in runs:
        assert sum("is deleted now" in each for each in told(cluster, run)) == 1
    assert status(cluster, other) == dg.DagsterRunStatus.STARTED


def test_the_job_of_a_run_that_dagster_gave_up_is_deleted_once_it_had_time_to_end(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, namespace, job = cluster.launched(cluster.tags())
    cluster.instance.report_run_failed(run, "Run timed out due to taking longer than 86400 seconds to start.")
    watch.look(cluster.instance)
    assert (namespace, job["metadata"]["name"]) in cluster.api.jobs
    monkeypatch.setattr(watch, "SETTLED", timedelta(0))
    watch.look(cluster.instance)
    assert cluster.api.jobs == {}


def test_a_run_that_was_cancelled_long_ago_and_has_no_job_is_not_asked_about_again(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, namespace, job = started(cluster)
    cluster.instance.report_run_canceled(run)
    del cluster.api.jobs[namespace, job["metadata"]["name"]]
    monkeypatch.setattr(watch, "SETTLED", timedelta(0))
    watch.look(cluster.instance)
    asked = len(cluster.api.calls)
    watch.look(cluster.instance)
    assert len(cluster.api.calls) == asked


def test_a_run_that_waits_for_kueue_says_so(cluster: Cluster) -> None:
    run, namespace, job = cluster.launched(cluster.tags())
    cluster.api.jobs[namespace, job["metadata"]["name"]]["spec"]["suspend"] = True
    assert "Kueue" in present(cluster.launcher.why_it_waits(run))
    cluster.api.pods[job["metadata"]["name"]] = pending()
    assert cluster.launcher.why_it_waits(run) is None


@pytest.mark.parametrize(
    ("status", "silent", "ends"),
    [
        ({"active": 1}, False, False),
        ({"active": 1}, True, False),  # the API server does not answer: its pod may well go on
        ({"failed": 1}, False, True),  # evicted, killed, or its node is gone
        (None, False, True),  # deleted by somebody
    ],
    ids=["alive", "a silent API server", "a pod that was lost", "a Job that was deleted"],
)
def test_dagsters_monitoring_ends_a_run_whose_pod_is_gone_and_no_other(
    cluster: Cluster, status: Json | None, silent: bool, ends: bool
) -> None:
    import logging

    run, namespace, job = cluster.launched(cluster.tags())
    where = namespace, job["metadata"]["name"]
    if status is None:
        del cluster.api.jobs[where]
    else:
        cluster.api.jobs[where]["status"] = status
    cluster.instance.handle_new_event(starting(run))
    cluster.instance.report_dagster_event(
        dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, run.job_name), run.run_id
    )
    cluster.api.silent = silent
    record = present(cluster.instance.get_run_record_by_id(run.run_id))
    assert record.dagster_run.status == dg.DagsterRunStatus.STARTED
    monitor_started_run(cluster.instance, None, record, logging.getLogger())  # type: ignore[arg-type]
    found = present(cluster.instance.get_run_by_id(run.run_id))
    assert (found.status == dg.DagsterRunStatus.FAILURE) == ends
    if ends:
        assert found.tags["dagster/will_retry"] == "true"


def test_an_evicted_run_is_run_again_and_a_pod_that_is_started_again_for_it_does_nothing(
    cluster: Cluster,
) -> None:
    """The command of its container, run on this host: why a Job of ours never replaces its pod."""
    run = cluster.run({}, job="takes_long")
    cluster.instance.handle_new_event(starting(run))
    cluster.launcher.launch_run(LaunchRunContext(run, None))
    ((_, job),) = cluster.api.jobs.items()
    (container,) = spec_of(job)["containers"]
    own = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    environment = {**os.environ, **own, "DAGSTER_HOME": str(cluster.settings.project.parent / "home")}
    pod = subprocess.Popen(container["args"], env=environment, cwd=ROOT)
    until(
        lambda: next((each for each in told(cluster, run) if "Started execution of step" in each), None), 60
    )
    pod.send_signal(signal.SIGTERM)  # as kubelet does
    assert pod.wait(60) == 0
    ended = present(cluster.instance.get_run_by_id(run.run_id))
    assert ended.status == dg.DagsterRunStatus.FAILURE
    assert ended.tags["dagster/failure_reason"] == "UNEXPECTED_TERMINATION"
    assert ended.tags["dagster/will_retry"] == "true"
    subprocess.run(container["args"], env=environment, cwd=ROOT, check=True, timeout=60)
    assert any("Ignoring a run worker" in each for each in told(cluster, run))


def starting(run: dg.DagsterRun) -> Any:
    from dagster._core.events.log import EventLogEntry

    return EventLogEntry(  # type: ignore[no-untyped-call]
        error_info=None, level=20, user_message="", run_id=run.run_id, timestamp=time.time(),
        job_name=run.job_name,
        dagster_event=dg.DagsterEvent(dg.DagsterEventType.PIPELINE_STARTING.value, run.job_name),
    )  # fmt: skip


def started(cluster: Cluster, key: str = "acme.support") -> tuple[dg.DagsterRun, str, Json]:
    run, namespace, job = cluster.launched(cluster.tags(key))
    cluster.instance.handle_new_event(starting(run))
    began = dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, run.job_name)
    cluster.instance.report_dagster_event(began, run.run_id)
    return run, namespace, job


def status(cluster: Cluster, run: dg.DagsterRun) -> dg.DagsterRunStatus:
    return present(cluster.instance.get_run_by_id(run.run_id)).status


def told(cluster: Cluster, run: dg.DagsterRun) -> list[str]:
    return [str(each.message) for each in cluster.instance.all_logs(run.run_id)]


def until(found: Callable[[], str | None], seconds: float = 20) -> str:
    end = time.monotonic() + seconds
    while (answer := found()) is None:
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
    return answer
