"""Runs as jobs of a real Slurm cluster, on an instance in Postgres and a store on S3, as deploy/slurm has
them: the models of this host, whatever ends meanwhile. Needs slurmctld, slurmd, slurm-client and munge.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
import yaml

from ft_dagster.automation.processes.instance import failure_of, launch, opened, write_home
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.store import read_head
from ft_dagster.training.checkpoints import MANIFEST
from ft_dagster.training.contract import CHECKPOINTS
from tests.e2e.instance import BIN, running, wait_until
from tests.e2e.project import UP_TO_PLAN, command_environment, edit, write_project
from tests.e2e.workshop import Workshop
from tests.finished import copied
from tests.postgres import PASSWORD
from tests.present import present
from tests.s3_server import KEY as S3_KEY
from tests.s3_server import SECRET as S3_SECRET
from tests.s3_server import S3Server
from tests.slurm_cluster import MISSING, SlurmCluster, slurm_cluster

pytestmark = pytest.mark.long
if MISSING:
    pytest.skip(f"Slurm is not installed: no {', '.join(MISSING)}", allow_module_level=True)
DEPLOY = Path(__file__).parents[2] / "deploy/slurm"
KEY, STATUS = "acme.places", dg.DagsterRunStatus
ENDED = {STATUS.SUCCESS, STATUS.FAILURE, STATUS.CANCELED}
PASSED = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "OMP_NUM_THREADS")


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    with slurm_cluster() as started:
        yield started


class Site:
    """A project whose runs are jobs. The daemon has the database's password and every tenant's profile."""

    def __init__(self, folder: Path, base: Path, cluster: SlurmCluster, database: str, s3: S3Server) -> None:
        self.cluster, self.folder = cluster, write_project(folder / "project", base)
        edit(self.folder / "ft_dagster.yaml", lambda content: content.update(settings(s3, folder)))
        self.credentials, self.secrets = folder / "credentials", folder / "run.env"
        keys = f"aws_access_key_id = {S3_KEY}\naws_secret_access_key = {S3_SECRET}\n"
        self.credentials.write_text(f"[platform]\n{keys}[acme]\n{keys}")
        self.secrets.write_text(f"PG_URL={database}\nAWS_SHARED_CREDENTIALS_FILE={self.credentials}\n")
        self.settings = load_settings(self.folder)
        self.outer = {
            **command_environment(self.folder),
            **cluster.environment,
            "PG_URL": database,
            "AWS_SHARED_CREDENTIALS_FILE": str(self.credentials),
            "AWS_SECRET_ACCESS_KEY": "of the daemon alone",
        }
        self.environment = self.outer | write_home(self.settings)
        self.home = self.settings.dagster_home
        self.write_instance()

    def write_instance(self, **config: Any) -> None:
        """The dagster.yaml of deploy/slurm, for this cluster."""
        content = yaml.safe_load((DEPLOY / "dagster.yaml").read_text("utf-8"))
        content["storage"] = {"postgres": {"postgres_url": {"env": "PG_URL"}}}
        passed = {name: self.outer[name] for name in PASSED}
        content["run_launcher"]["config"] = {
            "grace_seconds": 60,
            "memory_gb": 2,
            "environment": {**passed, "AWS_DEFAULT_REGION": "us-east-1"},
            "environment_file": str(self.secrets),
            **config,
        }
        content["run_monitoring"]["poll_interval_seconds"] = 2
        (self.home / "dagster.yaml").write_text(yaml.safe_dump(content), "utf-8")

    def train_longer(self) -> None:
        longer = {"num_train_epochs": 16, "evaluations": 8}
        edit(self.folder / "tenants/acme/places.yaml", lambda content: content["training"].update(longer))

    @contextmanager
    def daemon(self) -> Iterator[None]:
        command: list[str | Path] = [BIN / "dagster-daemon", "run", "-w", self.home / "workspace.yaml"]
        with running(command, self.environment):
            yield

    def submit(self) -> str:
        with opened(self.home) as instance:
            (run,) = launch(instance, self.settings, [VariantKey.parse(KEY)], "test")
        return run.run_id

    def runs(self) -> dict[str, dg.DagsterRun]:
        with opened(self.home) as instance:
            return {run.run_id: run for run in instance.get_runs()}

    def status(self, run_id: str) -> STATUS:
        return self.runs()[run_id].status

    def cancel(self, run_id: str) -> bool:
        with opened(self.home) as instance:
            return instance.run_coordinator.cancel_run(run_id)

    def said(self, run_id: str) -> list[str]:
        """What the run's log says of it beside its steps."""
        with opened(self.home) as instance:
            entries = instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
        return [present(entry.dagster_event).message or "" for entry in entries]

    def why(self, run_id: str) -> str:
        with opened(self.home) as instance:
            return failure_of(instance, run_id)

    def programs(self) -> list[psutil.Process]:
        """All processes of jobs: runs, and what they started."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                home = process.environ().get("FT_DAGSTER_PROJECT")
                if home == str(self.folder) and "SLURM_JOB_ID" in process.environ():
                    found.append(process)
        return found

    def statuses(self) -> list[STATUS]:
        return [run.status for run in self.runs().values()]

    def steps_kept(self) -> int:
        """The step of the newest complete checkpoint; 0 without one."""
        kept = self.settings.work_folder.glob(f"runs/*/*/output/{CHECKPOINTS}/*/{MANIFEST}")
        return max((int(file.parent.name.rpartition("-")[2]) for file in kept), default=0)

    def figures(self) -> dict[str, Any]:
        """Of the training."""
        return present(read_head(self.settings.open_store("acme"), KEY, "fine_tuned_model")).figures

    def digest_here(self) -> str:
        """What this host makes of it, in a store of its own."""
        here = self.folder.with_name("here")
        shutil.copytree(self.folder, here, ignore=shutil.ignore_patterns(".ft_dagster"))
        edit(here / "ft_dagster.yaml", lambda content: [content.pop(name) for name in settings(None, here)])
        with dg.DagsterInstance.ephemeral() as instance:
            Workshop(here, instance).materialize(KEY, *UP_TO_PLAN, "fine_tuned_model")
        return present(read_head(load_settings(here).open_store(), KEY, "fine_tuned_model")).digest

    def digest(self, stage: str = "fine_tuned_model") -> str:
        return present(read_head(self.settings.open_store("acme"), KEY, stage)).digest


def settings(s3: S3Server | None, folder: Path) -> dict[str, Any]:
    return {
        "store": f"s3://{s3 and s3.bucket}/{folder.name}",
        "store_options": {"endpoint_url": s3 and s3.endpoint},
        "store_profiles": {"default": "platform", "per_tenant": {"acme": "acme"}},
    }


@pytest.fixture
def site(
    cluster: SlurmCluster, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    database = request.getfixturevalue("postgres").new_database()
    base, s3 = request.getfixturevalue("tiny_model_folder"), request.getfixturevalue("s3_server")
    made = Site(tmp_path, base, cluster, database, s3)
    for name in ("SLURM_CONF", "PG_URL", "AWS_SHARED_CREDENTIALS_FILE", "FT_DAGSTER_PROJECT", "DAGSTER_HOME"):
        monkeypatch.setenv(name, made.environment[name])
    yield made
    for job in cluster.jobs():
        cluster.command("scancel", "--signal=KILL", "--full", job)
        cluster.command("scancel", job)
    wait_until(lambda: not cluster.jobs())


def test_a_variant_is_trained_judged_and_released_in_a_job_to_the_model_of_this_host_and_no_secret_is_in_it(
    site: Site, finished_project: Path, tmp_path: Path
) -> None:
    with site.daemon():
        run = site.submit()
        wait_until(site.programs, 300)
        (job,) = site.cluster.jobs()
        shown = site.cluster.command("scontrol", "show", "job", job)
        script = site.cluster.command("scontrol", "write", "batch_script", job, "-")
        environments = [each.environ() for each in site.programs()]
        wait_until(lambda: site.status(run) in ENDED, 600)
    assert site.status(run) == STATUS.SUCCESS, site.why(run)
    here = load_settings(copied(finished_project, tmp_path / "here")).open_store()
    for stage in ("fine_tuned_model", "model_export"):
        assert site.digest(stage) == present(read_head(here, KEY, stage)).digest
    assert f"JobName=ft-{KEY}-{run}" in shown
    assert "NumCPUs=1" in shown
    assert "export AWS_PROFILE=acme" in script
    for secret in (PASSWORD, S3_SECRET, "of the daemon alone"):
        assert secret not in shown + script
    assert {each["AWS_PROFILE"] for each in environments} == {"acme"}
    assert not any("AWS_SECRET_ACCESS_KEY" in each for each in environments)
    wait_until(lambda: not site.cluster.jobs() and not site.programs())


def test_a_job_that_is_killed_is_found_and_its_run_goes_on_in_another_to_the_same_model(site: Site) -> None:
    """Before that its controller is away for a while, which ends nothing."""
    site.train_longer()
    with site.daemon():
        first = site.submit()
        wait_until(site.steps_kept, 300)
        site.cluster.kill("slurmctld")
        time.sleep(10)
        assert site.status(first) == STATUS.STARTED
        site.cluster.start_controller()
        assert site.programs()
        (job,) = site.cluster.jobs()
        killed = site.steps_kept()
        site.cluster.command("scancel", "--signal=KILL", "--full", job)
        wait_until(lambda: len(site.runs()) == 2 and ENDED.issuperset(site.statuses()), 600)
    runs = site.runs()
    (again,) = [run for run in runs.values() if run.parent_run_id == first]
    assert (runs[first].status, again.status) == (STATUS.FAILURE, STATUS.SUCCESS), site.why(again.run_id)
    assert f"Slurm's job {job} on n" in site.why(first)
    resumed = site.figures()["resumed_from"]
    assert resumed >= killed > 0
    assert site.digest() == site.digest_here()
    wait_until(lambda: not site.cluster.jobs() and not site.programs())


def test_a_cancelled_run_leaves_no_job_and_no_process_and_a_later_one_goes_on(site: Site) -> None:
    site.train_longer()
    with site.daemon():
        run = site.submit()
        wait_until(site.steps_kept, 300)
        assert site.cancel(run)
        wait_until(lambda: site.status(run) == STATUS.CANCELED)
        wait_until(lambda: not site.cluster.jobs() and not site.programs(), 60)
    assert len(site.runs()) == 1
    assert site.steps_kept() > 0


def test_a_job_that_waits_says_why_and_is_cancelled_at_once_and_one_that_cannot_begin_fails(
    site: Site,
) -> None:
    blocker = ["sbatch", "--parsable", "--exclusive", "--nodes=2", "--output=/dev/null"]
    job = site.cluster.command(*blocker, script="#!/bin/sh\nexec sleep 600\n").strip()
    with site.daemon():
        run = site.submit()
        wait_until(lambda: [line for line in site.said(run) if "waits: Resources" in line], 60)
        (said,) = [line for line in site.said(run) if "waits: Resources" in line]
        assert "squeue --start" in said
        assert site.cancel(run)
        assert site.status(run) == STATUS.CANCELED
        assert site.cluster.jobs() == [job]
        site.cluster.command("scancel", job)
        site.secrets.unlink()
        lost = site.submit()
        wait_until(lambda: site.status(lost) == STATUS.FAILURE, 120)
        assert "Its job ended before the run began" in site.why(lost)
        assert "run.env" in site.why(lost)


@pytest.mark.parametrize(
    ("config", "declared", "said"),
    [
        ({"partition": "nowhere"}, {}, "run_launcher.config.partition"),
        ({"gpus": {"tiny": {"name": "NVIDIA Tiny", "memory_gb": 8}}}, {"gpu_kind": "H100"}, "NVIDIA Tiny"),
        (
            {"gpus": {"h100": {"name": "NVIDIA H100", "memory_gb": 80}}},
            {"gpus": 1},
            "run_launcher.config.gpus",
        ),
        ({}, {"nodes": 2}, "resources.nodes"),
        ({"environment": {"HF_TOKEN": "hidden"}}, {}, "run_launcher.config.environment.HF_TOKEN"),
    ],
    ids=["a partition", "a kind of GPU", "a type of Slurm", "nodes", "a secret"],
)
def test_what_the_cluster_cannot_give_fails_the_run_in_a_line_and_is_not_tried_again(
    site: Site, config: dict[str, Any], declared: dict[str, Any], said: str
) -> None:
    edit(site.folder / "tenants/acme/places.yaml", lambda content: content["resources"].update(declared))
    site.write_instance(**config)
    with site.daemon():
        run = site.submit()
        wait_until(lambda: site.status(run) in ENDED)
        time.sleep(5)
    assert said in site.why(run)
    assert "hidden" not in site.why(run)
    assert list(site.runs()) == [run]
    assert site.cluster.jobs() == []
