"""Runs as jobs of a real Slurm cluster, on an instance in Postgres and a store on S3, as deploy/slurm has
them: the models of this host, whatever ends meanwhile. Needs slurmctld, slurmd, slurm-client and munge.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import dagster as dg
import psutil
import pytest

from ft_dagster.automation.processes.instance import write_home
from ft_dagster.lineage.release import history
from ft_dagster.settings import load_settings
from ft_dagster.training.checkpoints import MANIFEST
from ft_dagster.training.contract import CHECKPOINTS
from tests.e2e.instance import wait_until
from tests.e2e.project import command_environment, edit, write_project
from tests.e2e.run_sites import (
    ENDED,
    KEY,
    PATIENCE,
    PREFIX,
    RunSite,
    WriteProject,
    digests_of,
    store_settings,
    write_credentials,
)
from tests.postgres import PASSWORD
from tests.s3_server import SECRET as S3_SECRET
from tests.s3_server import S3Server
from tests.slurm_cluster import MISSING, SlurmCluster, slurm_cluster

pytestmark = pytest.mark.long
if MISSING:
    pytest.skip(f"Slurm is not installed: no {', '.join(MISSING)}", allow_module_level=True)
DEPLOY = Path(__file__).parents[2] / "deploy/slurm"
NAMED = ("SLURM_CONF", "PG_URL", "AWS_SHARED_CREDENTIALS_FILE", "FT_DAGSTER_PROJECT", "DAGSTER_HOME")
PASSED = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "OMP_NUM_THREADS")


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    with slurm_cluster() as started:
        yield started


class Site(RunSite):
    """A project whose runs are jobs. The daemon has the database's password and every tenant's profile."""

    def __init__(
        self,
        folder: Path,
        base: Path,
        database: str,
        s3: S3Server,
        *,
        cluster: SlurmCluster,
        write: WriteProject = write_project,
    ) -> None:
        self.cluster, self.folder = cluster, write(folder / "project", base)
        edit(self.folder / "ft_dagster.yaml", lambda content: content.update(store_settings(s3, folder)))
        self.credentials, self.secrets = write_credentials(folder / "credentials"), folder / "run.env"
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
        passed = {name: self.outer[name] for name in PASSED}
        self.write_instance(
            DEPLOY,
            {
                "grace_seconds": 40,
                "memory_gb": 2,
                "environment": {**passed, "AWS_DEFAULT_REGION": "us-east-1"},
                "environment_file": str(self.secrets),
            },
        )

    def steps_kept(self) -> int:
        """The step of the newest complete checkpoint; 0 without one."""
        kept = self.settings.work_folder.glob(f"runs/*/*/output/{CHECKPOINTS}/*/{MANIFEST}")
        return max((int(file.parent.name.rpartition("-")[2]) for file in kept), default=0)

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


@pytest.fixture
def site(
    cluster: SlurmCluster, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    database = request.getfixturevalue("postgres").new_database()
    base, s3 = request.getfixturevalue("tiny_model_folder"), request.getfixturevalue("s3_server")
    made = Site(tmp_path, base, database, s3, cluster=cluster)
    for name in NAMED:
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
    assert max(site.resumed_from()) > cancelled_at > 0
    assert f"JobName=ft-{KEY}-{first}" in job
    assert "export AWS_PROFILE=acme" in script
    for secret in (PASSWORD, S3_SECRET, "of the daemon alone"):
        assert secret not in job + script
    assert {each["AWS_PROFILE"] for each in environments} == {"acme"}
    assert not any(each.get("AWS_SECRET_ACCESS_KEY") for each in environments)
    assert [entry.version for entry in history(site.store, PREFIX)] == [1]
    assert digests_of(site.store) == site.digests_here()
