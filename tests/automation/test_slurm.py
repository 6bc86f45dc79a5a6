"""Runs as jobs of a real Slurm cluster, by the real daemon; what they do is to wait. Needs slurmctld, slurmd,
slurm-client and munge.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
import yaml

from ft_dagster.automation.processes.instance import failure_of, launch, opened, write_home
from ft_dagster.automation.slurm.waiting import tell_waiting
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from tests.automation.declarations import declare
from tests.e2e.instance import BIN, running, wait_until
from tests.e2e.project import command_environment
from tests.present import present
from tests.slurm_cluster import CORES, MISSING, SlurmCluster, slurm_cluster

pytestmark = pytest.mark.long
if MISSING:
    pytest.skip(f"Slurm is not installed: no {', '.join(MISSING)}", allow_module_level=True)
DEPLOY, LOCATION = Path(__file__).parents[2] / "deploy/slurm", Path(__file__).parent / "programs/waiting.py"
STATUS, KEY = dg.DagsterRunStatus, VariantKey.parse("acme.support")
ENDED = {STATUS.SUCCESS, STATUS.FAILURE, STATUS.CANCELED}
PATIENCE = 300.0


class Site:
    """A project whose instance is that of deploy/slurm, but for its storage."""

    def __init__(self, folder: Path, cluster: SlurmCluster) -> None:
        self.folder, self.cluster = folder, cluster
        self.declare(cpu_slots=CORES)
        self.settings = load_settings(folder)
        self.environment = command_environment(folder) | cluster.environment | write_home(self.settings)
        self.home = self.settings.dagster_home
        self.configure()
        location = {"relative_path": str(LOCATION), "location_name": "ft_dagster"}
        (self.home / "workspace.yaml").write_text(yaml.safe_dump({"load_from": [{"python_file": location}]}))

    def declare(self, **resources: Any) -> None:
        declare(self.folder, str(KEY), resources=resources)

    def configure(self, **config: Any) -> None:
        content = yaml.safe_load((DEPLOY / "dagster.yaml").read_text("utf-8"))
        del content["storage"]
        content["run_launcher"]["config"] = {"grace_seconds": 40, **config}
        content["run_monitoring"]["poll_interval_seconds"] = 2
        (self.home / "dagster.yaml").write_text(yaml.safe_dump(content), "utf-8")

    @contextmanager
    def daemon(self) -> Iterator[None]:
        command: list[str | Path] = [BIN / "dagster-daemon", "run", "-w", self.home / "workspace.yaml"]
        with running(command, self.environment):
            yield

    def submit(self) -> str:
        with opened(self.home) as instance:
            (run,) = launch(instance, self.settings, [KEY], "test")
        return run.run_id

    def runs(self) -> dict[str, dg.DagsterRun]:
        with opened(self.home) as instance:
            return {run.run_id: run for run in instance.get_runs()}

    def status(self, run_id: str) -> STATUS:
        return self.runs()[run_id].status

    def waits(self, run_id: str) -> bool:
        """Whether it has begun, and does what it does."""
        return (self.folder / f"{run_id}.pid").is_file()

    def let_go(self) -> None:
        (self.folder / "go").touch()

    def cancel(self, run_id: str) -> bool:
        with opened(self.home) as instance:
            return instance.run_coordinator.cancel_run(run_id)

    def told(self, run_id: str, word: str) -> list[str]:
        """What the run's log says of its job, after a look at those that wait."""
        with opened(self.home) as instance:
            tell_waiting(instance)
            entries = instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
            lines = [present(entry.dagster_event).message or "" for entry in entries]
        return [line for line in lines if word in line]

    def why(self, run_id: str) -> str:
        with opened(self.home) as instance:
            return failure_of(instance, run_id)

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
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    made = Site(tmp_path, cluster)
    for name in ("SLURM_CONF", "FT_DAGSTER_PROJECT", "DAGSTER_HOME"):
        monkeypatch.setenv(name, made.environment[name])
    yield made
    cluster.end_jobs()


def until(moment: Callable[[], object]) -> None:
    wait_until(moment, PATIENCE)


def test_a_run_is_a_job_that_asks_for_what_is_declared_whatever_its_tags_say(site: Site) -> None:
    with site.daemon():
        run = site.submit()
        with opened(site.home) as instance:
            instance.add_run_tags(run, {"dagster-slurm/config": "--nodes=2", "resources": "gpus: 8"})
        until(lambda: site.waits(run))
        shown = site.cluster.command("scontrol", "show", "job", *site.cluster.jobs())
        site.let_go()
        until(lambda: site.status(run) in ENDED)
    assert site.status(run) == STATUS.SUCCESS
    assert f"JobName=ft-{KEY}-{run}" in shown
    assert f"NumNodes=1 NumCPUs={CORES} " in shown
    assert "Requeue=0" in shown
    until(site.nothing_is_left)


def test_a_controller_that_is_away_ends_nothing_and_a_killed_job_is_found_and_its_run_run_again(
    site: Site,
) -> None:
    with site.daemon():
        first = site.submit()
        until(lambda: site.waits(first))
        site.cluster.kill("slurmctld")
        time.sleep(10)
        assert site.status(first) == STATUS.STARTED
        site.cluster.start_controller()
        time.sleep(5)
        assert site.status(first) == STATUS.STARTED
        (job,) = site.cluster.jobs()
        site.cluster.command("scancel", "--signal=KILL", "--full", job)
        site.let_go()
        until(lambda: len(site.runs()) == 2 and ENDED.issuperset(r.status for r in site.runs().values()))
    runs = site.runs()
    (again,) = [run for run in runs.values() if run.parent_run_id == first]
    assert (runs[first].status, again.status) == (STATUS.FAILURE, STATUS.SUCCESS)
    assert f"Slurm's job {job} on n" in site.why(first)
    until(site.nothing_is_left)


def test_a_cancelled_run_leaves_no_job_and_no_process(site: Site) -> None:
    with site.daemon():
        run = site.submit()
        until(lambda: site.waits(run))
        assert site.cancel(run)
        until(lambda: site.status(run) == STATUS.CANCELED)
        until(site.nothing_is_left)
    assert list(site.runs()) == [run]


def test_a_run_that_does_not_heed_its_cancel_is_ended_by_slurm(site: Site) -> None:
    site.configure(grace_seconds=5)
    with site.daemon():
        run = site.submit()
        until(lambda: site.waits(run))
        for process in site.processes():
            process.suspend()
        assert site.cancel(run)
        until(site.nothing_is_left)


def test_a_job_that_waits_says_why_once_and_is_cancelled_at_once(site: Site) -> None:
    blocker = ["sbatch", "--parsable", "--exclusive", "--nodes=2", "--output=/dev/null"]
    job = site.cluster.command(*blocker, script="#!/bin/sh\nexec sleep 600\n").strip()
    with site.daemon():
        run = site.submit()
        until(lambda: site.told(run, "waits: Resources"))
        (line,) = site.told(run, "waits: Resources")
        assert "squeue --start" in line
        assert site.cancel(run)
        assert site.status(run) == STATUS.CANCELED
        assert site.cluster.jobs() == [job]


def test_a_run_whose_job_ends_before_it_begins_fails_with_what_the_job_printed_and_is_run_again(
    site: Site,
) -> None:
    site.configure(environment_file=str(site.folder / "run.env"))
    with site.daemon():
        run = site.submit()
        until(lambda: site.told(run, "Submitted") and site.status(run) == STATUS.FAILURE)
        (site.folder / "run.env").touch()
        site.let_go()
        until(lambda: STATUS.SUCCESS in [each.status for each in site.runs().values()])
    assert "Its job ended before the run began" in site.why(run)
    assert "run.env: No such file" in site.why(run)


@pytest.mark.parametrize(
    ("config", "declared", "said"),
    [
        ({"partition": "nowhere"}, {}, "run_launcher.config.partition"),
        ({"gpus": {"tiny": {"name": "NVIDIA Tiny", "memory_gb": 8.0}}}, {"gpu_kind": "H100"}, "NVIDIA Tiny"),
        ({"gpus": {"h100": {"name": "NVIDIA H100", "memory_gb": 80.0}}}, {"gpu_kind": "H100"}, "config.gpus"),
        ({}, {"nodes": 2}, "resources.nodes"),
        ({"environment": {"HF_TOKEN": "hidden"}}, {}, "run_launcher.config.environment.HF_TOKEN"),
    ],
    ids=["a partition", "a kind of GPU", "a type of Slurm", "nodes", "a secret"],
)
def test_what_the_cluster_cannot_give_fails_the_run_in_a_line_and_is_not_tried_again(
    site: Site, config: dict[str, Any], declared: dict[str, Any], said: str
) -> None:
    site.declare(**declared)
    site.configure(**config)
    with site.daemon():
        run = site.submit()
        until(lambda: site.status(run) in ENDED)
        time.sleep(5)
    assert said in site.why(run)
    assert "\n" not in site.why(run)
    assert "hidden" not in site.why(run)
    assert list(site.runs()) == [run]
    assert site.cluster.jobs() == []
