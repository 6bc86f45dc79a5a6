"""Trainings as Jobs, through the real client against a stand-in for the API server, whose pods are processes.

What Kubernetes itself would do is the stand-in's word, and not proven here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ft_dagster.errors import UserError
from ft_dagster.launch.launcher import OUTPUT
from ft_dagster.launch.local import ProgramFailed
from ft_dagster.launch.on_kubernetes import follow, launcher
from ft_dagster.launch.on_kubernetes.launcher import KubernetesLauncher
from ft_dagster.launch.remote import order
from ft_dagster.launch.remote.staging import Staging
from tests.launch.helpers import wait_until
from tests.launch.kubernetes_stand_in import StandIn, serve_stand_in
from tests.launch.pods import IMAGE, PLACE, Carried, job_in, write_cluster

pytestmark = pytest.mark.long  # needs the client, of 126 MB
STEPS: dict[str, Any] = {"steps": 40, "seconds": 0.15}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with serve_stand_in(tmp_path / "cluster", IMAGE) as (stand_in, kubeconfig):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        monkeypatch.setattr(order, "PROGRAMS", (*order.PROGRAMS, "pod"))  # in pods: programs/sitecustomize.py
        monkeypatch.setattr(follow, "POLL_SECONDS", 0.1)
        monkeypatch.setattr(launcher, "POLL_SECONDS", 0.1)
        yield stand_in


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for what real clusters need time for."""
    monkeypatch.setattr(follow, "SETTLING", 0.2)
    monkeypatch.setattr(launcher, "BROKEN_PATIENCE", 1.0)
    monkeypatch.setattr(launcher, "FIRST_WAIT", 0.05)


def kept_a_checkpoint(folder: Path) -> bool:
    return any((folder / "store" / PLACE / "output/checkpoints").glob("*/whole.json"))


def running_pod(cluster: StandIn) -> str:
    wait_until(cluster.running)
    return str(cluster.running()[0]["metadata"]["name"])


def nothing_is_left(cluster: StandIn) -> bool:
    wait_until(lambda: not cluster.jobs)
    return not cluster.pods and not any(map(runs_a_node, psutil.Process().children(recursive=True)))


def runs_a_node(process: psutil.Process) -> bool:
    """No process that has ended does, also where another test's was never waited for."""
    try:
        return "ft_dagster.launch.remote.node" in process.cmdline()
    except psutil.NoSuchProcess:
        return False


def test_a_program_runs_in_a_pod_and_its_output_comes_back(
    cluster: StandIn, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    carried = Carried(write_cluster(tmp_path), job_in(tmp_path, steps=2))
    assert carried.figures() == {"began": 0}
    assert (job_in(tmp_path).run_dir / OUTPUT / "payload" / "steps").read_text() == "2"
    assert "begins at step 0\nstep 1\nstep 2\n" in capfd.readouterr().out
    (job,) = cluster.asked
    assert any(f"Job default/{job['metadata']['name']} made" in line for line in carried.said)
    assert nothing_is_left(cluster)


def test_an_evicted_pod_goes_on_from_the_last_whole_checkpoint_in_another(
    cluster: StandIn, tmp_path: Path
) -> None:
    carried = Carried(write_cluster(tmp_path), job_in(tmp_path, **STEPS))
    first = running_pod(cluster)
    wait_until(lambda: kept_a_checkpoint(tmp_path))
    cluster.evict(first)
    assert carried.figures()["began"] > 0
    assert any(f"takes pod {first} away (EvictionByEvictionAPI" in line for line in carried.said)
    assert len(cluster.asked) == 1
    assert nothing_is_left(cluster)


def test_a_vanished_pod_fails_the_try_and_the_next_one_goes_on(cluster: StandIn, tmp_path: Path) -> None:
    settings = write_cluster(tmp_path)
    carried = Carried(settings, job_in(tmp_path, **STEPS))
    pod = running_pod(cluster)
    wait_until(lambda: kept_a_checkpoint(tmp_path))
    cluster.vanish(pod)
    failure = carried.failure(ProgramFailed)
    assert failure.mendable
    assert "its pod is gone: BackoffLimitExceeded" in str(failure)
    assert kept_a_checkpoint(tmp_path)
    assert Carried(settings, job_in(tmp_path, **STEPS)).figures()["began"] > 0
    assert nothing_is_left(cluster)


def test_a_restarted_step_follows_the_job_of_its_former_self(cluster: StandIn, tmp_path: Path) -> None:
    settings, job = write_cluster(tmp_path), job_in(tmp_path, **STEPS)
    former = KubernetesLauncher(settings)
    former.stage_in(job)
    former.start(job, print)  # and is killed
    pod = running_pod(cluster)
    carried = Carried(settings, job_in(tmp_path, **STEPS))
    assert carried.figures()["began"] == 0
    assert any("is there already" in line for line in carried.said)
    assert list(cluster.logs) == [pod]
    assert nothing_is_left(cluster)


def test_what_was_done_while_no_step_lived_is_collected_and_not_done_again(
    cluster: StandIn, tmp_path: Path
) -> None:
    settings, job = write_cluster(tmp_path), job_in(tmp_path)
    former = KubernetesLauncher(settings)
    former.stage_in(job)
    former.start(job, print)
    wait_until(lambda: any(each["status"]["conditions"] for each in cluster.jobs.values()))
    assert Carried(settings, job_in(tmp_path)).figures() == {"began": 0}
    assert len(cluster.logs) == 1
    assert nothing_is_left(cluster)


def test_a_job_that_failed_while_no_step_lived_is_made_again(cluster: StandIn, tmp_path: Path) -> None:
    settings, job = write_cluster(tmp_path), job_in(tmp_path, exit=75)
    former = KubernetesLauncher(settings)
    former.stage_in(job)
    former.start(job, print)
    wait_until(lambda: any(each["status"]["conditions"] for each in cluster.jobs.values()))
    assert Carried(settings, job_in(tmp_path)).figures() == {"began": 1}
    assert len(cluster.logs) == 2


def test_two_steps_that_ask_at_once_start_one_program(cluster: StandIn, tmp_path: Path) -> None:
    settings = write_cluster(tmp_path)
    launchers = [KubernetesLauncher(settings) for _ in range(2)]
    job, said = job_in(tmp_path, **STEPS), list[str]()
    for each in launchers:
        each.stage_in(job)
    runs = [each.start(job, said.append) for each in launchers]
    running_pod(cluster)
    assert len(cluster.jobs) == 1
    assert [("is there already" in line) for line in said] == [False, True]
    launchers[0].cancel(runs[0])
    assert nothing_is_left(cluster)


@pytest.mark.usefixtures("soon")
def test_a_pod_that_no_node_takes_is_said_with_kubernetes_reason_and_given_up(
    cluster: StandIn, tmp_path: Path
) -> None:
    cluster.no_room = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    settings = write_cluster(tmp_path, pending_minutes=0.02)
    carried = Carried(settings, job_in(tmp_path))
    failure = carried.failure(ProgramFailed)
    assert not failure.mendable
    reason = f"Unschedulable: {cluster.no_room}"
    assert any(line.startswith("waits for") and reason in line for line in carried.said)
    assert reason in str(failure)
    assert nothing_is_left(cluster)


def test_it_is_said_within_a_minute() -> None:
    assert follow.SETTLING + 2 * follow.POLL_SECONDS + 10 < 60


@pytest.mark.usefixtures("soon")
def test_a_quota_that_lets_no_pod_be_made_is_said_too(cluster: StandIn, tmp_path: Path) -> None:
    cluster.no_quota = 'pods "ft" is forbidden: exceeded quota: training'
    carried = Carried(write_cluster(tmp_path, pending_minutes=0.02), job_in(tmp_path))
    assert f"FailedCreate: {cluster.no_quota}" in str(carried.failure(ProgramFailed))


@pytest.mark.usefixtures("soon")
def test_an_image_that_cannot_be_pulled_is_named(cluster: StandIn, tmp_path: Path) -> None:
    carried = Carried(write_cluster(tmp_path, image="no-such-image:1"), job_in(tmp_path))
    failure = carried.failure(ProgramFailed)
    assert 'ImagePullBackOff: Back-off pulling image "no-such-image:1"' in str(failure)
    assert not failure.mendable
    assert nothing_is_left(cluster)


@pytest.mark.usefixtures("soon")
def test_a_secret_that_is_missing_is_named_and_one_that_is_there_reaches_the_program(
    cluster: StandIn, tmp_path: Path
) -> None:
    settings = write_cluster(tmp_path, profiles={"acme-prod": {"secrets": ["acme-store"]}})
    missing = Carried(settings, job_in(tmp_path, "acme-prod")).failure(ProgramFailed)
    assert 'secret "acme-store" not found' in str(missing)
    cluster.secrets["acme-store"] = {"AWS_SECRET_ACCESS_KEY": "known-to-the-pod"}
    assert Carried(settings, job_in(tmp_path, "acme-prod")).figures() == {"began": 0}
    assert "known-to-the-pod" not in repr(cluster.asked)


def test_a_pod_killed_for_its_memory_says_so_and_keeps_its_checkpoints(
    cluster: StandIn, tmp_path: Path
) -> None:
    carried = Carried(write_cluster(tmp_path), job_in(tmp_path, **STEPS))
    pod = running_pod(cluster)
    wait_until(lambda: kept_a_checkpoint(tmp_path))
    cluster.kill(pod, "OOMKilled")
    failure = carried.failure(ProgramFailed)
    assert failure.mendable
    assert "OOMKilled" in str(failure)
    assert "kubernetes.memory_gb" in str(failure)
    assert kept_a_checkpoint(tmp_path)


def test_a_cancel_lets_a_checkpoint_be_kept_and_leaves_nothing(cluster: StandIn, tmp_path: Path) -> None:
    settings, job = write_cluster(tmp_path), job_in(tmp_path, **STEPS)
    own = KubernetesLauncher(settings)
    own.stage_in(job)
    run = own.start(job, print)
    running_pod(cluster)
    wait_until(lambda: kept_a_checkpoint(tmp_path))
    own.cancel(run)
    assert nothing_is_left(cluster)
    (left,) = cluster.folder.glob("*/work/runs")  # of the pod's own disk
    assert not list(left.iterdir())
    assert kept_a_checkpoint(tmp_path)


def test_a_cancel_between_two_steps_of_the_start_leaves_nothing(cluster: StandIn, tmp_path: Path) -> None:
    own, job = KubernetesLauncher(write_cluster(tmp_path)), job_in(tmp_path, **STEPS)
    own.stage_in(job)

    def interrupted(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        own.start(job, interrupted)
    assert len(cluster.asked) == 1
    assert nothing_is_left(cluster)


def test_a_cancel_before_a_step_follows_the_job_of_its_former_self_ends_that(
    cluster: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, job = KubernetesLauncher(write_cluster(tmp_path)), job_in(tmp_path, **STEPS)
    own.stage_in(job)
    own.start(job, print)
    running_pod(cluster)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Staging, "prepare", interrupted)
    with pytest.raises(KeyboardInterrupt):
        own.stage_in(job)
    assert nothing_is_left(cluster)


@pytest.mark.usefixtures("soon")
def test_an_api_server_that_is_down_for_a_while_costs_nothing(cluster: StandIn, tmp_path: Path) -> None:
    carried = Carried(write_cluster(tmp_path), job_in(tmp_path, **STEPS))
    pod = running_pod(cluster)
    cluster.down = True
    wait_until(lambda: any("goes on without us" in line for line in carried.said))
    cluster.down = False
    assert carried.figures()["began"] == 0
    assert any("answers again" in line for line in carried.said)
    assert list(cluster.logs) == [pod]


def test_a_node_that_gives_no_log_hides_no_end(cluster: StandIn, tmp_path: Path) -> None:
    carried = Carried(write_cluster(tmp_path), job_in(tmp_path, **STEPS))
    pod = running_pod(cluster)
    wait_until(lambda: kept_a_checkpoint(tmp_path))
    cluster.node_silent = True
    cluster.vanish(pod)
    assert "its pod is gone" in str(carried.failure(ProgramFailed))
    assert not any("goes on without us" in line for line in carried.said)


@pytest.mark.usefixtures("soon")
def test_an_api_server_that_stays_silent_is_tried_again_later(cluster: StandIn, tmp_path: Path) -> None:
    cluster.down = True
    failure = Carried(write_cluster(tmp_path), job_in(tmp_path)).failure(ProgramFailed)
    assert failure.mendable
    assert "503" in str(failure)


def test_what_the_role_does_not_allow_names_the_way_out(cluster: StandIn, tmp_path: Path) -> None:
    cluster.forbidden = True
    failure = Carried(write_cluster(tmp_path), job_in(tmp_path)).failure(UserError)
    assert "jobs.batch is forbidden" in str(failure)
    assert "rbac.yaml" in str(failure)


@pytest.mark.usefixtures("soon")
def test_a_job_in_kueues_queue_waits_as_long_as_it_takes_and_then_runs(
    cluster: StandIn, tmp_path: Path
) -> None:
    settings = write_cluster(tmp_path, queue="training", pending_minutes=0.001)
    carried = Carried(settings, job_in(tmp_path))
    wait_until(lambda: any("waits to be admitted by its queue" in line for line in carried.said))
    (job,) = cluster.jobs.values()
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "training"
    job["spec"]["suspend"] = False  # as Kueue does
    assert carried.figures() == {"began": 0}


def test_a_job_that_somebody_deleted_is_a_failure_that_a_retry_mends(
    cluster: StandIn, tmp_path: Path
) -> None:
    carried = Carried(write_cluster(tmp_path), job_in(tmp_path, **STEPS))
    running_pod(cluster)
    cluster.delete_job(next(iter(cluster.jobs)))
    failure = carried.failure(ProgramFailed)
    assert failure.mendable
    assert "was deleted by somebody" in str(failure) or "preempted" in str(failure)


def test_a_users_mistake_in_the_program_is_told_as_everywhere(cluster: StandIn, tmp_path: Path) -> None:
    failure = Carried(write_cluster(tmp_path), job_in(tmp_path, exit=2)).failure(ProgramFailed)
    assert not failure.mendable
    assert nothing_is_left(cluster)


@pytest.mark.parametrize(("option", "value"), [("secret", "hidden"), ("client_kwargs", {"token": "hidden"})])
def test_a_credential_in_the_stores_options_is_refused_before_anything_is_made(
    cluster: StandIn, tmp_path: Path, option: str, value: Any
) -> None:
    settings = write_cluster(tmp_path).model_copy(update={"store_options": {option: value}})
    with pytest.raises(UserError, match="store_options") as error:
        KubernetesLauncher(settings).stage_in(job_in(tmp_path))
    assert "hidden" not in str(error.value)
    assert cluster.asked == []
