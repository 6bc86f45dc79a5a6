"""Runs as jobs of a real Slurm cluster, on an instance in Postgres and a store on S3, as deploy/slurm has
them: the models of this host, whatever ends meanwhile. Needs slurmctld, slurmd, slurm-client and munge.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
import yaml

from ft_dagster.automation.processes.instance import failure_of, launch, opened, write_home
from ft_dagster.lineage.release import history
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.store import Store, read_head
from ft_dagster.training.checkpoints import MANIFEST
from ft_dagster.training.contract import CHECKPOINTS
from tests.e2e.instance import BIN, running, wait_until
from tests.e2e.project import command_environment, edit, write_project
from tests.e2e.workshop import Workshop
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
KEY, PREFIX = "acme.places", "tenants/acme/places"
ENDED = {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}
PATIENCE = 600.0  # seconds
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
            "grace_seconds": 40,
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

    def status(self, run_id: str) -> dg.DagsterRunStatus:
        return self.runs()[run_id].status

    def cancel(self, run_id: str) -> bool:
        with opened(self.home) as instance:
            return instance.run_coordinator.cancel_run(run_id)

    def why(self, run_id: str) -> str:
        with opened(self.home) as instance:
            return failure_of(instance, run_id)

    def statuses(self) -> list[dg.DagsterRunStatus]:
        return [run.status for run in self.runs().values()]

    def steps_kept(self) -> int:
        """The step of the newest complete checkpoint; 0 without one."""
        kept = self.settings.work_folder.glob(f"runs/*/*/output/{CHECKPOINTS}/*/{MANIFEST}")
        return max((int(file.parent.name.rpartition("-")[2]) for file in kept), default=0)

    def figures(self) -> dict[str, Any]:
        """Of the training."""
        return present(read_head(self.settings.open_store("acme"), PREFIX, "fine_tuned_model")).figures

    def digests(self) -> list[str]:
        return digests_of(self.settings.open_store("acme"))

    def digests_here(self) -> list[str]:
        """What this host makes of it, undisturbed, in a store of its own."""
        here = self.folder.with_name("here")
        shutil.copytree(self.folder, here, ignore=shutil.ignore_patterns(".ft_dagster"))
        edit(here / "ft_dagster.yaml", lambda content: [content.pop(name) for name in settings(None, here)])
        with dg.DagsterInstance.ephemeral() as instance:
            Workshop(here, instance).materialize(KEY)
        return digests_of(load_settings(here).open_store())

    def processes(self) -> list[psutil.Process]:
        """All of its jobs."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                environment = process.environ()
                if "SLURM_JOB_ID" in environment and environment["FT_DAGSTER_PROJECT"] == str(self.folder):
                    found.append(process)
        return found

    def shown(self) -> tuple[str, str]:
        """What Slurm shows of its one job, and the job's script."""
        (job,) = self.cluster.jobs()
        script = self.cluster.command("scontrol", "write", "batch_script", job, "-")
        return self.cluster.command("scontrol", "show", "job", job), script

    def nothing_is_left(self) -> bool:
        return not self.cluster.jobs() and not self.processes()


def digests_of(store: Store) -> list[str]:
    """Of the model and of its export."""
    return [present(read_head(store, PREFIX, stage)).digest for stage in ("fine_tuned_model", "model_export")]


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
    cluster.end_jobs()


def test_a_variant_is_cancelled_killed_and_released_in_jobs_to_the_model_of_this_host_and_no_secret_is_seen(
    site: Site,
) -> None:
    site.train_longer()
    with site.daemon():
        first = site.submit()
        wait_until(site.steps_kept, PATIENCE)
        environments, (job, script) = [each.environ() for each in site.processes()], site.shown()
        assert site.cancel(first)
        wait_until(lambda: site.status(first) == dg.DagsterRunStatus.CANCELED, PATIENCE)
        wait_until(site.nothing_is_left, PATIENCE)
        cancelled_at = site.steps_kept()
        second = site.submit()
        wait_until(lambda: site.steps_kept() > cancelled_at, PATIENCE)
        for process in site.processes():
            process.kill()
        wait_until(lambda: len(site.runs()) == 3 and ENDED.issuperset(site.statuses()), PATIENCE)
        wait_until(site.nothing_is_left, PATIENCE)
    (again,) = [run for run in site.runs().values() if run.parent_run_id == second]
    assert (site.status(second), again.status) == (
        dg.DagsterRunStatus.FAILURE,
        dg.DagsterRunStatus.SUCCESS,
    ), site.why(again.run_id)
    assert max(site.figures()["resumed_from"]) > cancelled_at > 0
    assert f"JobName=ft-{KEY}-{first}" in job
    assert "export AWS_PROFILE=acme" in script
    for secret in (PASSWORD, S3_SECRET, "of the daemon alone"):
        assert secret not in job + script
    assert {each["AWS_PROFILE"] for each in environments} == {"acme"}
    assert not any(each.get("AWS_SECRET_ACCESS_KEY") for each in environments)
    assert [entry.version for entry in history(site.settings.open_store("acme"), PREFIX)] == [1]
    assert site.digests() == site.digests_here()
