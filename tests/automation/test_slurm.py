"""Runs as jobs of a real Slurm cluster, launched, cancelled and watched as the daemon does; all they do is
to wait. Needs slurmctld, slurmd, slurm-client and munge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
import yaml

from ft_dagster.automation.tags import VARIANT
from tests.automation.declarations import declare
from tests.automation.launched_runs import LaunchedRuns
from tests.automation.programs.waiting_job import waiting
from tests.e2e.instance import wait_until
from tests.instances import lay_databases
from tests.present import present
from tests.slurm_cluster import CORES, MISSING, SlurmCluster, slurm_cluster

pytestmark = pytest.mark.long
if MISSING:
    pytest.skip(f"Slurm is not installed: no {', '.join(MISSING)}", allow_module_level=True)
DEPLOY = Path(__file__).parents[2] / "deploy/slurm"
KEY = "acme.support"
PATIENCE = 300.0
TINY, H100 = {"name": "NVIDIA Tiny", "memory_gb": 8.0}, {"name": "NVIDIA H100", "memory_gb": 80.0}


class Site(LaunchedRuns):
    """A project whose instance is that of deploy/slurm, but for its storage."""

    def __init__(self, folder: Path, cluster: SlurmCluster) -> None:
        self.folder, self.home, self.cluster = folder, folder / "home", cluster
        self.home.mkdir()
        lay_databases(self.home)
        self.declare(cpu_slots=CORES)
        self.instance = self.configured()

    def declare(self, **resources: Any) -> None:
        declare(self.folder, KEY, resources=resources)

    def configured(self, **config: Any) -> dg.DagsterInstance:
        content = yaml.safe_load((DEPLOY / "dagster.yaml").read_text("utf-8"))
        del content["storage"]
        content["run_launcher"]["config"] = {"grace_seconds": 40, **config}
        (self.home / "dagster.yaml").write_text(yaml.safe_dump(content), "utf-8")
        self.instance = dg.DagsterInstance.from_config(str(self.home))
        return self.instance

    def launch(self, tags: Mapping[str, str] | None = None) -> str:
        origin = dg.reconstructable(waiting).get_python_origin()
        tagged = {**(tags or {}), VARIANT: KEY}
        run = self.instance.create_run_for_job(waiting, tags=tagged, job_code_origin=origin)
        self.instance.launch_run(run.run_id, None)  # type: ignore[arg-type]  # of a run that is of no workspace
        return run.run_id

    def let_go(self) -> None:
        (self.folder / "go").touch()

    def processes(self) -> list[psutil.Process]:
        """All of its jobs."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                environment = process.environ()
                if "SLURM_JOB_ID" in environment and environment.get("DAGSTER_HOME") == str(self.home):
                    found.append(process)
        return found

    def nothing_is_left(self) -> bool:
        return not self.cluster.jobs() and not self.processes()


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    with slurm_cluster() as started:
        yield started


@pytest.fixture
def site(cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("FT_DAGSTER_PROJECT", str(tmp_path))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    monkeypatch.setenv("DAGSTER_PG_PASSWORD", "of the daemon alone")
    yield Site(tmp_path, cluster)
    cluster.end_jobs()


def until(moment: Callable[[], object]) -> None:
    wait_until(moment, PATIENCE)


def test_a_run_is_a_job_that_asks_for_what_is_declared_whatever_its_tags_say(site: Site) -> None:
    run = site.launch({"dagster-slurm/config": "--nodes=2", "resources": "gpus: 8"})
    until(lambda: site.waits(run))
    (job,) = site.cluster.jobs()
    shown = site.cluster.command("scontrol", "show", "job", job)
    script = site.cluster.command("scontrol", "write", "batch_script", job, "-")
    environments = [process.environ() for process in site.processes()]
    assert site.monitored(run) == dg.DagsterRunStatus.STARTED
    site.let_go()
    until(lambda: site.status(run) == dg.DagsterRunStatus.SUCCESS)
    assert f"JobName=ft-{KEY}-{run}" in shown
    assert f"NumNodes=1 NumCPUs={CORES} " in shown
    assert "Requeue=0" in shown
    assert "of the daemon alone" not in f"{shown} {script} {environments}"
    until(site.nothing_is_left)


def test_a_controller_that_is_away_ends_nothing_and_a_killed_job_is_found(site: Site) -> None:
    run = site.launch()
    until(lambda: site.waits(run))
    site.cluster.kill("slurmctld")
    assert site.monitored(run) == dg.DagsterRunStatus.STARTED
    site.cluster.start_controller()
    assert site.monitored(run) == dg.DagsterRunStatus.STARTED
    (job,) = site.cluster.jobs()
    for process in site.processes():
        process.kill()
    until(lambda: site.monitored(run) == dg.DagsterRunStatus.FAILURE)
    assert f"Slurm's job {job} on n" in site.why(run)
    until(site.nothing_is_left)


def test_a_cancelled_run_leaves_no_job_and_no_process(site: Site) -> None:
    run = site.launch()
    until(lambda: site.waits(run))
    assert site.instance.run_launcher.terminate(run)
    until(lambda: site.status(run) == dg.DagsterRunStatus.CANCELED)
    until(site.nothing_is_left)


def test_a_cancel_while_the_controller_is_away_changes_nothing_and_the_next_ends_it(
    site: Site,
) -> None:
    run = site.launch()
    until(lambda: site.waits(run))
    site.cluster.kill("slurmctld")
    assert not site.instance.run_launcher.terminate(run)
    assert site.status(run) == dg.DagsterRunStatus.STARTED
    assert site.said(run, "Cancel it again")
    site.cluster.start_controller()
    assert site.instance.run_launcher.terminate(run)
    until(lambda: site.status(run) == dg.DagsterRunStatus.CANCELED)
    until(site.nothing_is_left)


def test_a_job_that_outlives_its_cancelled_run_is_ended(site: Site) -> None:
    run = site.launch()
    until(lambda: site.waits(run))
    site.instance.report_run_canceled(present(site.instance.get_run_by_id(run)))
    site.monitor()
    assert site.said(run, "Ending its job")
    until(site.nothing_is_left)


def test_a_run_that_does_not_heed_its_cancel_is_ended_by_slurm(site: Site) -> None:
    site.configured(grace_seconds=5)
    run = site.launch()
    until(lambda: site.waits(run))
    for process in site.processes():
        process.suspend()
    assert site.instance.run_launcher.terminate(run)
    until(site.nothing_is_left)


def test_a_job_that_waits_says_why_once_and_is_cancelled_at_once(site: Site) -> None:
    blocker = ["sbatch", "--parsable", "--exclusive", "--nodes=2", "--output=/dev/null"]
    job = site.cluster.command(*blocker, script="#!/bin/sh\nexec sleep 600\n").strip()
    until(lambda: site.cluster.command("squeue", "-h", "-o", "%T").strip() == "RUNNING")
    run = site.launch()
    for _ in range(2):
        assert site.monitored(run) == dg.DagsterRunStatus.STARTING
    until(lambda: site.monitored(run) and site.said(run, "waits: Resources"))
    site.monitor()
    (line,) = site.said(run, "waits: Resources")
    assert "squeue --start" in line
    assert site.instance.run_launcher.terminate(run)
    assert site.status(run) == dg.DagsterRunStatus.CANCELED
    assert site.cluster.jobs() == [job]


def test_a_run_whose_job_ends_before_it_begins_fails_with_what_the_job_printed(site: Site) -> None:
    site.configured(environment_file=str(site.folder / "run.env"))
    run = site.launch()
    until(lambda: site.monitored(run) == dg.DagsterRunStatus.FAILURE)
    assert "Its job ended before the run began" in site.why(run)
    assert "run.env: No such file" in site.why(run)


def test_a_run_that_is_launched_again_has_one_job(site: Site) -> None:
    """As where the answer of `sbatch` was lost."""
    run = site.launch()
    site.instance.launch_run(run, None)  # type: ignore[arg-type]
    assert len(site.cluster.jobs()) == 1


@pytest.mark.parametrize(
    ("config", "declared", "said"),
    [
        ({"partition": "nowhere"}, {}, "run_launcher.config.partition"),
        ({"gpus": {"tiny": TINY}}, {"gpu_kind": "H100"}, "NVIDIA Tiny"),
        ({"gpus": {"h100": H100}, "cpus_per_gpu": 1}, {"gpu_kind": "H100"}, "run_launcher.config.gpus"),
        ({}, {"nodes": 2}, "resources.nodes"),
        ({"environment": {"HF_TOKEN": "hidden"}}, {}, "run_launcher.config.environment.HF_TOKEN"),
    ],
    ids=["a partition", "a kind of GPU", "a type of Slurm", "nodes", "a secret"],
)
def test_what_the_cluster_cannot_give_fails_the_run_in_a_line_and_is_not_tried_again(
    site: Site, config: dict[str, Any], declared: dict[str, Any], said: str
) -> None:
    site.declare(**declared)
    site.configured(**config)
    run = site.launch()
    assert site.status(run) == dg.DagsterRunStatus.FAILURE
    assert said in site.why(run)
    assert "\n" not in site.why(run)
    assert "hidden" not in site.why(run)
    assert present(site.instance.get_run_by_id(run)).tags["dagster/will_retry"] == "false"
    assert site.cluster.jobs() == []


def test_a_gpu_is_given_by_its_type_and_its_cores(site: Site) -> None:
    site.declare(gpu_kind="Tiny")
    site.configured(gpus={"tiny": TINY}, cpus_per_gpu=2)
    run = site.launch()
    until(lambda: site.waits(run))
    (environment, *_) = [process.environ() for process in site.processes()]
    given = {name: environment.get(name) for name in ("CUDA_VISIBLE_DEVICES", "SLURM_CPUS_ON_NODE")}
    assert given == {"CUDA_VISIBLE_DEVICES": "0", "SLURM_CPUS_ON_NODE": "2"}
    assert "gres/gpu:tiny:1" in site.cluster.command("scontrol", "show", "job", *site.cluster.jobs())
