"""Runs as jobs of a real Ray cluster, launched, cancelled and watched as the daemon does; all they do is to
wait. Needs the extra `ray`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
import yaml

from ft_dagster.automation.ray.launcher import RunJobLauncher
from ft_dagster.automation.ray.order import CONFIG, job_of
from ft_dagster.automation.tags import TENANT, VARIANT
from ft_dagster.host_settings import RAY_JOB
from ft_dagster.launch import inventory
from ft_dagster.launch.environment import environment_with
from ft_dagster.launch.inventory import Device
from ft_dagster.launch.leases import of_host
from ft_dagster.settings import load_settings
from ft_dagster.spec import Declarations, VariantKey
from tests.automation.declarations import declare
from tests.automation.launched_runs import LaunchedRuns
from tests.automation.programs.waiting_job import waiting
from tests.e2e.instance import wait_until
from tests.instances import lay_databases
from tests.present import present
from tests.ray_cluster import RayCluster, ray_cluster

pytest.importorskip("ray", reason="needs the extra `ray`")
pytestmark = pytest.mark.long
DEPLOY = Path(__file__).parents[2] / "deploy/ray"
KEY = VariantKey("acme", "support")
PATIENCE = 120.0
STALLS = 20.0  # seconds: Ray takes a node for lost that is silent for about a minute
STATUS = dg.DagsterRunStatus


class Site(LaunchedRuns):
    """A project whose instance is that of deploy/ray, but for its storage."""

    def __init__(self, folder: Path, cluster: RayCluster) -> None:
        self.folder, self.home, self.cluster = folder, folder / "home", cluster
        self.home.mkdir()
        lay_databases(self.home)
        content = yaml.safe_load((DEPLOY / "dagster.yaml").read_text("utf-8"))
        del content["storage"]
        content["run_launcher"]["config"]["ray"]["address"] = cluster.address
        (self.home / "dagster.yaml").write_text(yaml.safe_dump(content), "utf-8")
        self.instance = dg.DagsterInstance.from_config(str(self.home))
        assert isinstance(self.instance.run_launcher, RunJobLauncher)
        self.launcher = self.instance.run_launcher

    def launch(self, cluster: dict[str, Any] | None = None, **ray: Any) -> str:
        """As the coordinator has it placed, on nodes that are said to be such."""
        content = {
            "ray": {"grace_seconds": 20, **ray},
            "cluster": {"cpus": 1, "work_folder": str(self.folder / "node"), **(cluster or {})},
            "store_profiles": {"per_tenant": {"acme": "acme-prod"}},
        }
        declare(self.folder, str(KEY))
        (self.folder / "ft_dagster.yaml").write_text(yaml.safe_dump(content))
        settings, declared = load_settings(self.folder), Declarations(self.folder).declared(KEY)
        origin = dg.reconstructable(waiting).get_python_origin()
        run = self.instance.create_run_for_job(
            waiting, tags={TENANT: KEY.tenant, VARIANT: str(KEY)}, job_code_origin=origin
        )
        job = job_of(settings, run.run_id, KEY.tenant, declared, computes=True)
        self.instance.add_run_tags(run.run_id, {CONFIG: json.dumps(job)})
        self.instance.launch_run(run.run_id, None)  # type: ignore[arg-type]  # of a run that is of no workspace
        return run.run_id

    def processes(self, run_id: str) -> list[psutil.Process]:
        """All of its job."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(RAY_JOB) == run_id and "execute_run" in process.cmdline():
                    found.append(process)
        return found


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster(nodes=2) as started:
        yield started


@pytest.fixture
def site(cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("FT_DAGSTER_PROJECT", str(tmp_path))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DAGSTER_PG_PASSWORD", "of the daemon alone")
    made = Site(tmp_path, cluster)
    with made.instance:
        yield made
        (tmp_path / "go").touch()  # whatever is left ends


def until(moment: Callable[[], object]) -> None:
    wait_until(moment, PATIENCE)


def test_a_run_is_a_job_on_a_node_with_what_was_declared_and_nothing_of_the_daemon(site: Site) -> None:
    run = site.launch()
    until(lambda: site.waits(run))
    (process,) = site.processes(run)
    environment, command = process.environ(), " ".join(process.cmdline())
    assert site.cluster.node_of(process)  # none of them is the head
    assert site.monitored(run) == STATUS.STARTED
    (site.folder / "go").touch()
    until(lambda: site.status(run) == STATUS.SUCCESS)
    assert environment["AWS_PROFILE"] == "acme-prod"
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert environment["FT_DAGSTER_HOST__CPU_SLOTS"] == "1"
    assert "of the daemon alone" not in f"{environment}"
    assert site.cluster.address not in command  # it has nothing of dagster.yaml
    until(lambda: not site.processes(run))


def test_a_job_that_is_killed_is_found(site: Site) -> None:
    run = site.launch()
    until(lambda: site.waits(run))
    for process in site.processes(run):
        process.kill()
    until(lambda: site.monitored(run) == STATUS.FAILURE)
    assert f"Ray's job dagster-run-{run} ended: FAILED" in site.why(run)


def test_a_cancelled_run_leaves_no_process(site: Site) -> None:
    run = site.launch()
    until(lambda: site.waits(run))
    assert site.launcher.terminate(run)
    until(lambda: site.status(run) == STATUS.CANCELED)
    until(lambda: not site.processes(run))


def test_a_job_that_outlives_its_run_is_ended(site: Site) -> None:
    """As where the head did not answer when that was cancelled."""
    run = site.launch()
    until(lambda: site.waits(run))
    site.instance.report_run_canceled(present(site.instance.get_run_by_id(run)))
    until(lambda: site.monitored(run) and not site.processes(run))
    assert len(site.said(run, "still lives, and is ended")) == 1


def test_a_run_that_does_not_heed_its_cancel_is_killed_by_ray(site: Site) -> None:
    run = site.launch(grace_seconds=15)
    until(lambda: site.waits(run))
    for process in site.processes(run):
        process.suspend()
    assert site.launcher.terminate(run)
    until(lambda: not site.processes(run))


def test_a_job_that_no_node_has_room_for_says_so_once_and_is_cancelled_at_once(site: Site) -> None:
    gpus = {"gpus": 1, "gpu": "NVIDIA A100", "gpu_memory_gb": 80, "cpus": 2}
    run = site.launch(cluster=gpus)
    for _ in range(2):
        assert site.monitored(run) == STATUS.STARTING
    until(lambda: site.monitored(run) and site.said(run, "waits"))
    site.monitor()
    (line,) = site.said(run, "waits: it needs a node with 2 CPU, 1 GPU, and the cluster has not")
    assert "1 CPU, 0 GPU" in line
    assert "`resources`" in line
    assert site.launcher.terminate(run)
    assert site.status(run) == STATUS.CANCELED


def test_a_run_whose_job_ends_before_it_begins_fails_with_what_the_job_printed(site: Site) -> None:
    (site.home / "dagster.yaml").write_text("run_launcher: none of it\n")  # as the node finds it
    run = site.launch()
    until(lambda: site.monitored(run) == STATUS.FAILURE)
    assert "Its job ended before the run began" in site.why(run)
    assert "run_launcher" in site.why(run)


def test_a_run_that_is_launched_again_has_one_job(site: Site) -> None:
    """As where the head's answer was lost."""
    run = site.launch()
    until(lambda: site.waits(run))
    site.instance.launch_run(run, None)  # type: ignore[arg-type]
    assert len(site.processes(run)) == 1
    assert site.launcher.terminate(run)
    until(lambda: not site.processes(run))


def test_runs_that_ask_for_a_kind_of_gpu_get_one_each_and_the_next_one_waits_for_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.cluster.add_node(cpus=2, gpus=2, **{"accelerator_type:A100": 1})
    nodes = {"gpus": 2, "gpu": "NVIDIA A100", "gpu_memory_gb": 80, "cpus": 2}
    kind = {"accelerator_type:A100": 0.001}
    runs = [site.launch(cluster=nodes, resources=kind) for _ in range(3)]
    until(lambda: sum(site.waits(run) for run in runs) == 2)
    given = {}
    for run in filter(site.waits, runs):
        (process,) = site.processes(run)
        given[process.environ()["CUDA_VISIBLE_DEVICES"]] = process.environ()
    assert sorted(given) == ["0", "1"]
    driver = [Device(str(number), 80 * 10**9, "NVIDIA A100", f"GPU-{number}") for number in range(2)]
    monkeypatch.setattr(inventory, "_nvml_gpus", lambda: driver)
    for gpu, environment in given.items():
        with environment_with(environment):
            lent = of_host(load_settings(site.folder).host)
        assert [device.id for device in lent.inventory.devices] == [gpu]
    (last,) = (run for run in runs if not site.waits(run))
    until(lambda: site.monitored(last) and site.said(last, "waits"))
    (line,) = site.said(last, "waits: it starts once a node with 1 CPU, 1 GPU")
    assert "0.001 accelerator_type:A100" in line
    other = site.launch(cluster=nodes, resources={"accelerator_type:H100": 0.001})
    until(lambda: site.monitored(other) and site.said(other, "waits"))
    (line,) = site.said(other, "and the cluster has not")
    assert "0 accelerator_type:H100" in line
    (site.folder / "go").touch()
    until(lambda: site.status(last) == STATUS.SUCCESS)
    assert site.launcher.terminate(other)


def test_a_node_that_stalls_for_a_while_goes_on_with_its_run(site: Site) -> None:
    run = site.launch()
    until(lambda: site.waits(run))
    (process,) = site.processes(run)
    site.cluster.stall_node(site.cluster.node_of(process), STALLS)
    for _ in range(2):
        assert site.monitored(run) == STATUS.STARTED
    assert site.processes(run) == [process]
    (site.folder / "go").touch()
    until(lambda: site.status(run) == STATUS.SUCCESS)


def test_a_run_whose_node_is_lost_is_found(site: Site) -> None:
    """The last one: it takes a node of the cluster with it."""
    run = site.launch()
    until(lambda: site.waits(run))
    (process,) = site.processes(run)
    site.cluster.kill_node(site.cluster.node_of(process))
    until(lambda: not process.is_running())
    until(lambda: site.monitored(run) == STATUS.FAILURE)
    assert "actor died" in site.why(run) or "FAILED" in site.why(run)
