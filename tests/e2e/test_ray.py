"""Trainings on a real Ray cluster of local nodes: the models of this host, whatever dies meanwhile.

Needs the extra `ray`, which `make test-all` installs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest

from ft_dagster.cluster import RaySettings
from ft_dagster.launch.launcher import OUTPUT, Job, LocalLauncher, carry_out
from ft_dagster.launch.leases import Ask, Leases
from ft_dagster.launch.local import ProgramFailed
from ft_dagster.launch.on_ray.launcher import RayJob, RayLauncher
from ft_dagster.program import ProgramResult
from ft_dagster.store import Artifact, read_head
from ft_dagster.store.blobs import Store
from ft_dagster.store.checkpoint_mirror import forget
from tests.e2e.project import UP_TO_PLAN, edit, write_project
from tests.e2e.workshop import Workshop
from tests.launch.helpers import slots
from tests.launch.remote_jobs import LONG, PLACE, kept, payload_of, staging, training_job, wait_for
from tests.present import present
from tests.ray_cluster import RayCluster, ray_cluster, workers_that_train
from tests.s3_server import serve_s3
from tests.training.runs import Runs, write_mixture

pytest.importorskip("ray", reason="needs the extra `ray`")
pytestmark = [pytest.mark.slow, pytest.mark.long]
LONGER = {**LONG, "num_train_epochs": 200.0}


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster(nodes=2) as started:
        yield started


class Site:
    """A store, nodes that work in a folder, and trainings sent to them."""

    def __init__(self, folder: Path, base: Path, address: str) -> None:
        self.folder = folder
        self.runs = Runs(folder, base, write_mixture(folder / "mixture"))
        self.store = Store(str(folder / "store"))
        shared = {"nodes": 2, "shared_folder": folder / "shared"}
        settings = RaySettings(address=address, silent_seconds=20)
        self.launcher = RayLauncher(settings, staging(self.store, folder / "node", **shared), "{}")
        self.said: list[str] = []

    def job(self, name: str = "away", **prepared: Any) -> Job:
        return training_job(self.runs, name, **{"training": LONG, **prepared})

    def carry_out(self, job: Job) -> ProgramResult:
        return carry_out(self.launcher, job, self.said.append)

    def here(self, **prepared: Any) -> dict[str, bytes]:
        """What a lease of this host makes of it."""
        job = self.job("here", **prepared)
        carry_out(LocalLauncher(Leases(self.folder / "leases", slots(1))), job, print)
        return payload_of(job)

    def trainers(self) -> list[psutil.Process]:
        return workers_that_train(self.folder / "node")

    def left_on_nodes(self) -> list[Path]:
        folders = (self.folder / "node" / "runs", self.folder / "shared")
        return [path for folder in folders if folder.exists() for path in folder.iterdir()]


@pytest.fixture
def site(cluster: RayCluster, tmp_path: Path, tiny_model_folder: Path) -> Site:
    return Site(tmp_path, tiny_model_folder, cluster.address)


def while_training(site: Site, act: Callable[[psutil.Process], object]) -> Future[None]:
    """Act on a trainer once it has a checkpoint in the store; the result says that it was done."""
    done = Future[None]()

    def disturb() -> None:
        try:
            wait_for(lambda: kept(site.store) and site.trainers())
            act(site.trainers()[0])
            done.set_result(None)
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=disturb, daemon=True).start()
    return done


def test_a_training_there_gives_the_model_of_this_host(site: Site) -> None:
    job = site.job()
    assert site.carry_out(job)["status"] == "done"
    assert any("Ray job ft_dagster-" in line for line in site.said)
    assert payload_of(job) == site.here()
    assert (job.run_dir / OUTPUT / "evidence" / "log.jsonl").exists()
    assert site.left_on_nodes() == []


def test_a_node_that_is_killed_costs_the_steps_since_its_checkpoint(site: Site, cluster: RayCluster) -> None:
    job = site.job()
    done = while_training(site, lambda process: cluster.kill_node(cluster.node_of(process)))
    try:
        with pytest.raises(ProgramFailed) as failure:
            site.carry_out(job)
        done.result()
        assert failure.value.mendable
        assert any("is lost" in line for line in site.said)
        assert site.carry_out(job)["status"] == "done"
        resumed = job.read_result(0)["figures"]["resumed_from"]
        assert resumed
        assert payload_of(job) == site.here()
        wait_for(lambda: not site.trainers())
    finally:
        cluster.add_node()


def test_a_cancel_leaves_no_actor_no_job_and_no_file(site: Site) -> None:
    job, started = site.job(training=LONGER), list[RayJob]()

    class Interrupted(RayLauncher):
        def report(self, run: RayJob, say: Callable[[str], None]) -> int | None:
            started[:] = [run]
            if kept(site.store):
                raise KeyboardInterrupt
            return super().report(run, say)

    launcher = Interrupted(site.launcher.settings, site.launcher.staging, "{}")
    with pytest.raises(KeyboardInterrupt):
        carry_out(launcher, job, site.said.append)
    assert site.trainers() == []
    assert site.left_on_nodes() == []
    (run,) = started
    assert run.id not in [info.submission_id for info in launcher.client.list_jobs()]
    assert living_actors(site.launcher.settings.address) == []
    assert kept(site.store)  # what it goes on from
    forget(site.store, PLACE)
    assert site.store.files_below(PLACE) == {}


def test_a_job_stopped_by_somebody_else_is_a_cancel(site: Site) -> None:
    job = site.job(training=LONGER)
    attempt = site.launcher.staging.order_before

    def stop(_: psutil.Process) -> None:
        order = attempt(job)
        assert order is not None
        site.launcher.client.stop_job(f"ft_dagster-{order.attempt}")

    done = while_training(site, stop)
    with pytest.raises(ProgramFailed, match="cancelled") as failure:
        site.carry_out(job)
    done.result()
    assert not failure.value.mendable
    assert site.left_on_nodes() == []


def test_a_drained_node_is_a_preemption(site: Site, cluster: RayCluster) -> None:
    job = site.job(training=LONGER)
    drained: list[Any] = []

    def drain(process: psutil.Process) -> None:
        drained.append(cluster.node_of(process))
        ray = [str(Path(sys.executable).with_name("ray")), "drain-node", "--address", cluster.head_address]
        why = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
        command = [*ray, "--node-id", drained[0].node_id, *why, "--deadline-remaining-seconds", "60"]
        subprocess.run(command, check=True, capture_output=True)

    done = while_training(site, drain)
    try:
        with pytest.raises(ProgramFailed) as failure:
            site.carry_out(job)
        done.result()
        assert failure.value.mendable
        assert any("a node is drained" in line for line in site.said)
        steps = [int(name.rpartition("-")[2]) for name in kept(site.store)]
        assert max(steps) > 0
        assert site.left_on_nodes() == []
    finally:
        cluster.kill_node(drained[0])
        cluster.add_node()


def test_a_step_that_was_killed_finds_its_job_and_follows_it(site: Site) -> None:
    job = site.job(training=LONGER)
    site.launcher.stage_in(job)
    first = site.launcher.start(job, site.said.append)
    wait_for(site.trainers)
    again = RayLauncher(site.launcher.settings, site.launcher.staging, "{}")
    again.stage_in(job)
    second = again.start(job, site.said.append)
    assert second.id == first.id
    assert any("was found running, and is followed" in line for line in site.said)
    assert len(site.trainers()) == len(set(site.trainers()))
    again.cancel(second)
    first.log.close(0)
    assert site.trainers() == []


def test_two_nodes_by_rendezvous_train_to_the_curve_of_one(site: Site) -> None:
    method = {"name": "full"}
    two = {"learning_rate": 1e-3, "num_train_epochs": 6.0, "gradient_accumulation_steps": 1}
    one = {**two, "gradient_accumulation_steps": 2}
    both = Ask("acme.support", "acme", 1, 0, "a test", "run", nodes=2)
    job = site.job("two", training=two, method=method, ranks=2, ask=both)
    result = site.carry_out(job)
    alone = site.job("one", training=one, method=method)
    carry_out(LocalLauncher(Leases(site.folder / "leases", slots(1))), alone, print)
    best = alone.read_result(0)["figures"]["validation_loss_best"]
    assert result["figures"]["validation_loss_best"] == pytest.approx(best, rel=1e-4)
    assert losses(job) == pytest.approx(losses(alone), rel=1e-4)
    assert site.left_on_nodes() == []


def test_more_than_the_cluster_has_is_waited_for_and_said(site: Site) -> None:
    ask = Ask("acme.support", "acme", 3, 0, "a test", "run")
    job = site.job(ask=ask)

    class Waiting(RayLauncher):
        def report(self, run: RayJob, say: Callable[[str], None]) -> int | None:
            if any("waits for 1 node(s) with 3 CPU" in line for line in site.said):
                raise KeyboardInterrupt
            return super().report(run, say)

    with pytest.raises(KeyboardInterrupt):
        carry_out(Waiting(site.launcher.settings, site.launcher.staging, "{}"), job, site.said.append)
    assert any("the cluster has 0 such node(s)" in line for line in site.said)


def test_a_head_that_dies_is_said_and_another_goes_on(
    cluster: RayCluster, tmp_path: Path, tiny_model_folder: Path
) -> None:
    with ray_cluster(nodes=1) as first:
        site = Site(tmp_path, tiny_model_folder, first.address)
        job = site.job(training=LONG)
        done = while_training(site, lambda process: first.kill_head())
        with pytest.raises(ProgramFailed, match="has not answered for 20 s") as failure:
            site.carry_out(job)
        done.result()
        assert failure.value.mendable
    site.launcher = RayLauncher(RaySettings(address=cluster.address), site.launcher.staging, "{}")
    assert site.carry_out(job)["status"] == "done"
    assert job.read_result(0)["figures"]["resumed_from"]
    assert payload_of(job) == site.here()


def test_dagster_trains_there_over_a_lost_node_to_the_digest_of_this_host(
    cluster: RayCluster, tmp_path: Path, tiny_model_folder: Path
) -> None:
    """The chain as Dagster runs it: only the platform's settings differ."""
    stored = tmp_path / "project" / ".ft_dagster" / "store"
    there = trained_over_a_lost_node(cluster, tmp_path, tiny_model_folder, stored)
    assert there.digest == trained_here(tmp_path / "here", tiny_model_folder).digest


def test_so_it_does_with_its_store_on_s3(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node has its own credentials, here by its environment."""
    with serve_s3(tmp_path / "s3") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        settings = {
            "store": f"s3://{server.bucket}/store",
            "store_options": {"endpoint_url": server.endpoint},
        }
        with ray_cluster(nodes=2) as cluster:
            there = trained_over_a_lost_node(
                cluster, tmp_path, tiny_model_folder, server.folder / "store", **settings
            )
    assert there.digest == trained_here(tmp_path / "here", tiny_model_folder).digest


def trained_over_a_lost_node(
    cluster: RayCluster, folder: Path, base: Path, stored: Path, **settings: Any
) -> Artifact:
    """What Dagster makes there, where the node that trains is killed once a checkpoint is in the store, whose
    files lie in `stored`.
    """
    away = longer_project(folder / "project", base)
    ray = {
        "launcher": "ray",
        "ray": {"address": cluster.address},
        "cluster": {"cpus": 1, "work_folder": str(folder / "node")},
        "retries": {"attempts": 3, "wait_seconds": 0.1},  # loaded cores may lose a node more than once
    }
    edit(away / "ft_dagster.yaml", lambda content: content.update({**ray, **settings}))

    def disturb() -> None:
        checkpoints = "fine_tuned_model/*/nodes/evidence/output/checkpoints/*/checkpoint.json"
        places = stored / "tenants/acme/places"
        wait_for(lambda: list(places.glob(checkpoints)) and workers_that_train(folder / "node"))
        cluster.kill_node(cluster.node_of(workers_that_train(folder / "node")[0]))

    with dg.DagsterInstance.ephemeral() as instance, ThreadPoolExecutor(1) as pool:
        there = Workshop(away, instance)
        assert there.materialize("acme.places", *UP_TO_PLAN).success
        disturbed = pool.submit(disturb)
        result = there.materialize("acme.places", "fine_tuned_model")
        disturbed.result()
        cluster.add_node()
        events = [event.event_type_value for event in result.all_events]
        assert "STEP_UP_FOR_RETRY" in events
        logged = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert any("is lost" in line for line in logged)
    assert any(line.startswith("resuming at step") for line in logged)
    assert any("validation loss" in line for line in logged)
    model = model_of(there.store)
    assert model.figures["resumed_from"]
    left = there.store.files_below(model.place.path)
    assert not [path for path in left if path.startswith("nodes/")]
    return model


def trained_here(folder: Path, base: Path) -> Artifact:
    """What Dagster makes of the same project under a lease of this host."""
    with dg.DagsterInstance.ephemeral() as instance:
        workshop = Workshop(longer_project(folder, base), instance)
        assert workshop.materialize("acme.places", *UP_TO_PLAN, "fine_tuned_model").success
    return model_of(workshop.store)


def longer_project(folder: Path, base: Path) -> Path:
    """With a training that can be disturbed."""
    write_project(folder, base)
    more = {"num_train_epochs": 40, "per_device_train_batch_size": 4, "evaluations": 10}
    edit(folder / "tenants/acme/places.yaml", lambda c: c["training"].update(more))
    return folder


def model_of(store: Store) -> Artifact:
    return present(read_head(store, "tenants/acme/places", "fine_tuned_model"))


def losses(job: Job) -> list[float]:
    lines = (job.run_dir / OUTPUT / "evidence" / "log.jsonl").read_text("utf-8").splitlines()
    return [line["loss"] for line in map(json.loads, lines) if "loss" in line]


def living_actors(address: str) -> list[str]:
    """The classes of the actors that live, by Ray's own list."""
    from ray.util.state import list_actors

    return [
        actor.class_name
        for actor in list_actors(address=address, filters=[("state", "=", "ALIVE")])
        if actor.class_name != "JobSupervisor"
    ]
