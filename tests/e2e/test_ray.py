"""Programs that Ray places beside a run's job, on a real cluster of local nodes: those of a variant that
trains on several nodes, whatever dies meanwhile. `test_ray_runs.py` has whole runs. Needs the extra `ray`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from ft_dagster.cluster import Cluster, RaySettings
from ft_dagster.launch.launcher import OUTPUT, RUN_FILE, Job, LocalLauncher, LocalRun, carry_out
from ft_dagster.launch.leases import Ask, Leases
from ft_dagster.launch.local import ProgramFailed
from ft_dagster.launch.on_ray.launcher import PlacedLauncher, PlacedProgram
from ft_dagster.program import ProgramResult
from ft_dagster.training.checkpoints import newest_good
from ft_dagster.training.contract import CHECKPOINTS, TrainingRun
from ft_dagster.workspace.kept_training import begin_anew
from tests.e2e.instance import wait_until
from tests.launch.helpers import slots
from tests.present import present
from tests.ray_cluster import RayCluster, ray_cluster, workers_that_train
from tests.training.runs import Runs, write_mixture

pytest.importorskip("ray", reason="needs the extra `ray`")
pytestmark = [pytest.mark.slow, pytest.mark.long]
SUPERVISOR = "ft_dagster.launch.supervisor"
LONG = {"num_train_epochs": 60.0, "evaluations": 12}  # of some seconds, with checkpoints to go on from
LONGER = {**LONG, "num_train_epochs": 200.0}
PATIENCE = 300.0
ONE = Ask("acme.support", "acme", 1, 0, "a test", "run", placed=True)
BOTH = Ask("acme.support", "acme", 1, 0, "a test", "run", nodes=2, placed=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster(nodes=2) as started:
        yield started


class Site:
    """Trainings in a folder that all nodes see."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder = folder
        self.runs = Runs(folder, base, write_mixture(folder / "mixture"))
        self.host = LocalLauncher(Leases(folder / "leases", slots(1)))
        cluster = Cluster(cpus=1, nodes=2, shared_folder=folder)
        self.launcher = PlacedLauncher(self.host, RaySettings(), cluster)
        self.said: list[str] = []

    def job(self, name: str, ask: Ask, **prepared: Any) -> Job:
        """A training, as the stage asks for it: one member, whose output is that of the job."""
        run_dir = self.runs.prepare(name, **{"training": LONG, **prepared})
        content = json.loads((run_dir / RUN_FILE).read_text("utf-8"))
        content["members"][0]["output"] = str(run_dir / OUTPUT)
        content["launch"]["nodes"] = ask.nodes
        content["launch"]["ranks_per_node"] = prepared.get("ranks", 1) // ask.nodes
        request = TrainingRun.model_validate(content)
        return Job("training", run_dir, request, ask, {"OMP_NUM_THREADS": "1"}, "acme.support")

    def carry_out(self, job: Job) -> ProgramResult:
        """One try of it, with an output folder of its own as `BuildContext.run` has it."""
        request = job.request
        assert isinstance(request, TrainingRun)
        (member,) = request.members
        member = member.model_copy(update={"output": begin_anew(job.run_dir)})
        request = request.model_copy(update={"members": (member,)})
        return carry_out(self.launcher, replace(job, request=request), self.said.append)

    def here(self, **prepared: Any) -> Job:
        """The same under a lease of this host."""
        job = self.job("here", ONE, **prepared)
        carry_out(self.host, job, print)
        return job

    def trainers(self) -> list[psutil.Process]:
        return workers_that_train(self.folder)

    def kept(self, job: Job) -> bool:
        return newest_good(job.run_dir / OUTPUT / CHECKPOINTS) is not None


@pytest.fixture
def site(
    cluster: RayCluster, tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Site:
    monkeypatch.setenv("RAY_ADDRESS", cluster.head_address)  # as Ray sets it in a job
    return Site(tmp_path, tiny_model_folder)


def while_training(
    site: Site, job: Job, act: Callable[[psutil.Process], object], where: str = ""
) -> Future[None]:
    """Act on a trainer once it has a checkpoint; the result says that it was done. `where`: in what it was
    told to read.
    """
    done = Future[None]()

    def disturb() -> None:
        try:
            wait_until(lambda: site.kept(job) and site.trainers(), PATIENCE)
            act(next(each for each in site.trainers() if where in each.cmdline()[-1]))
            done.set_result(None)
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=disturb, daemon=True).start()
    return done


def payload_of(job: Job) -> dict[str, bytes]:
    payload = job.run_dir / OUTPUT / "payload"
    return {file.name: file.read_bytes() for file in sorted(payload.iterdir())}


def losses(job: Job) -> list[float]:
    lines = (job.run_dir / OUTPUT / "evidence" / "log.jsonl").read_text("utf-8").splitlines()
    return [line["loss"] for line in map(json.loads, lines) if "loss" in line]


def test_two_nodes_by_rendezvous_train_to_the_curve_of_one(site: Site) -> None:
    method = {"name": "full"}
    two = {"learning_rate": 1e-3, "num_train_epochs": 6.0, "gradient_accumulation_steps": 1}
    job = site.job("two", BOTH, training=two, method=method, ranks=2)
    result = site.carry_out(job)
    alone = site.here(training={**two, "gradient_accumulation_steps": 2}, method=method)
    best = alone.read_result(0)["figures"]["validation_loss_best"]
    assert result["figures"]["validation_loss_best"] == pytest.approx(best, rel=1e-4)
    assert losses(job) == pytest.approx(losses(alone), rel=1e-4)


def test_a_node_that_is_killed_costs_the_steps_since_its_checkpoint(site: Site, cluster: RayCluster) -> None:
    job = site.job("away", ONE)
    done = while_training(site, job, lambda process: cluster.kill_node(cluster.node_of(process)))
    try:
        with pytest.raises(ProgramFailed) as failure:
            site.carry_out(job)
        done.result()
        assert failure.value.mendable
        assert any("is lost" in line for line in site.said)
        assert site.carry_out(job)["status"] == "done"
        assert job.read_result(0)["figures"]["resumed_from"]
        assert payload_of(job) == payload_of(site.here())
        wait_until(lambda: not site.trainers(), PATIENCE)
    finally:
        cluster.add_node()


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_node_of_two_costs_both_the_steps_since_their_checkpoint(
    site: Site, cluster: RayCluster, lost: int
) -> None:
    method, training = {"name": "full"}, {**LONG, "gradient_accumulation_steps": 1}
    job = site.job("away", BOTH, training=training, method=method, ranks=2)
    done = while_training(site, job, lambda found: cluster.kill_node(cluster.node_of(found)), f"node-{lost}")
    try:
        with pytest.raises(ProgramFailed) as failure:
            site.carry_out(job)
        done.result()
        assert failure.value.mendable
        assert any("is lost" in line for line in site.said)
    finally:
        cluster.add_node()
    kept = present(newest_good(job.run_dir / OUTPUT / CHECKPOINTS))
    assert site.carry_out(job)["figures"]["resumed_from"] == [kept.step]
    alone = site.here(training={**training, "gradient_accumulation_steps": 2}, method=method)
    assert losses(job) == pytest.approx(losses(alone), rel=1e-4)


def test_a_program_that_outlives_its_lost_node_disturbs_no_retry(site: Site, cluster: RayCluster) -> None:
    """As where the network to it is gone: the retry begins while it trains on."""
    job, left = site.job("away", ONE, training=LONGER), list[psutil.Process]()

    def lose(found: psutil.Process) -> None:
        node = cluster.node_of(found)
        supervisor = found if SUPERVISOR in found.cmdline() else present(found.parent())
        left.extend([supervisor, *supervisor.children()])
        left[1].suspend()  # so that it has not trained to its end by the time that the loss is known
        supervisor.suspend()  # which would end the trainer,
        present(supervisor.parent()).kill()  # as would Ray's worker, once its node is gone
        cluster.kill_node(node)

    done = while_training(site, job, lose)
    try:
        with pytest.raises(ProgramFailed):
            site.carry_out(job)
        done.result()
        known = len(losses(job))
        left[1].resume()
        wait_until(lambda: len(losses(job)) > known, PATIENCE)  # it lives, and writes
        assert site.carry_out(job)["figures"]["resumed_from"]
        wait_until(lambda: left[1].status() == psutil.STATUS_ZOMBIE, PATIENCE)
    finally:
        cluster.add_node()
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    here = site.here(training=LONGER)
    assert losses(job) == losses(here)  # each step once
    assert payload_of(job) == payload_of(here)


def test_a_cancel_leaves_no_actor_and_no_process(site: Site, cluster: RayCluster) -> None:
    job = site.job("away", BOTH, training=LONGER, method={"name": "full"}, ranks=2)

    class Interrupted(PlacedLauncher):
        def report(self, started: LocalRun | PlacedProgram, say: Callable[[str], None]) -> int | None:
            if site.kept(job):
                raise KeyboardInterrupt
            return super().report(started, say)

    with pytest.raises(KeyboardInterrupt):
        carry_out(Interrupted(site.host, site.launcher.ray, site.launcher.cluster), job, site.said.append)
    assert site.trainers() == []
    wait_until(lambda: not living_actors(cluster.address), PATIENCE)


def test_a_drained_node_is_a_preemption(site: Site, cluster: RayCluster) -> None:
    job = site.job("away", ONE, training=LONGER)
    drained: list[Any] = []

    def drain(process: psutil.Process) -> None:
        drained.append(cluster.node_of(process))
        ray = [str(Path(sys.executable).with_name("ray")), "drain-node", "--address", cluster.head_address]
        why = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
        command = [*ray, "--node-id", drained[0].node_id, *why, "--deadline-remaining-seconds", "60"]
        subprocess.run(command, check=True, capture_output=True)

    done = while_training(site, job, drain)
    try:
        with pytest.raises(ProgramFailed) as failure:
            site.carry_out(job)
        done.result()
        assert failure.value.mendable
        assert any("a node is drained" in line for line in site.said)
    finally:
        cluster.kill_node(drained[0])
        cluster.add_node()


def test_more_than_the_cluster_has_is_waited_for_and_said(site: Site) -> None:
    job = site.job("away", Ask("acme.support", "acme", 3, 0, "a test", "run", placed=True))

    class Waiting(PlacedLauncher):
        def report(self, started: LocalRun | PlacedProgram, say: Callable[[str], None]) -> int | None:
            if any("waits: it needs a node with 3 CPU" in line for line in site.said):
                raise KeyboardInterrupt
            return super().report(started, say)

    with pytest.raises(KeyboardInterrupt):
        carry_out(Waiting(site.host, site.launcher.ray, site.launcher.cluster), job, site.said.append)


def living_actors(address: str) -> list[str]:
    """The classes of the actors that live, by Ray's own list."""
    from ray.util.state import list_actors

    return [actor.class_name for actor in list_actors(address=address, filters=[("state", "=", "ALIVE")])]


@pytest.mark.parametrize("moment", ["waits", "trains"])
def test_a_head_that_dies_ends_the_step_in_a_sentence_and_it_can_be_tried_again(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    site = Site(tmp_path, tiny_model_folder)
    with ray_cluster(nodes=1) as own:
        monkeypatch.setenv("RAY_ADDRESS", own.head_address)
        job = site.job("away", replace(ONE, count=1 if moment == "trains" else 2), training=LONGER)

        def kill() -> None:
            begun = site.trainers if moment == "trains" else lambda: "waits" in "".join(site.said)
            wait_until(begun, PATIENCE)
            own.kill_head()

        killing = threading.Thread(target=kill)
        killing.start()
        with pytest.raises(ProgramFailed) as failure:
            site.carry_out(job)
        killing.join()
        assert failure.value.mendable
        assert "Ray where its head is gone" in site.said[-1]
        wait_until(lambda: not site.trainers(), PATIENCE)
