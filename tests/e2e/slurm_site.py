"""A project whose runs are jobs of a Slurm cluster, as deploy/slurm has them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil

from ft_dagster.automation.processes.instance import write_home
from ft_dagster.settings import load_settings
from ft_dagster.training.checkpoints import MANIFEST
from ft_dagster.training.contract import CHECKPOINTS
from tests.e2e.project import command_environment, edit, write_project
from tests.e2e.run_sites import RunSite, WriteProject, store_settings, write_credentials
from tests.s3_server import S3Server
from tests.slurm_cluster import SlurmCluster

DEPLOY = Path(__file__).parents[2] / "deploy/slurm"
NAMED = ("SLURM_CONF", "PG_URL", "AWS_SHARED_CREDENTIALS_FILE", "FT_DAGSTER_PROJECT", "DAGSTER_HOME")
PASSED = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "OMP_NUM_THREADS")


class SlurmSite(RunSite):
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
