"""A project whose runs are jobs of a Ray cluster, as deploy/ray has them. Needs the extra `ray`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from ft_dagster.automation.processes.instance import write_home
from ft_dagster.host_settings import RAY_JOB
from ft_dagster.settings import load_settings
from ft_dagster.training.checkpoints import MANIFEST
from tests.e2e.instance import wait_until
from tests.e2e.project import command_environment, edit, write_project
from tests.e2e.run_sites import (
    PATIENCE,
    PREFIX,
    RunSite,
    WriteProject,
    store_settings,
    write_credentials,
)
from tests.ray_cluster import RayCluster, workers_that_train
from tests.s3_server import S3Server

DEPLOY = Path(__file__).parents[2] / "deploy/ray"
NODES = 3


class RaySite(RunSite):
    """A project whose runs are jobs. The nodes have the database's password and a file with every tenant's
    profile; the daemon has that file too, and a secret of its own.
    """

    def __init__(
        self,
        folder: Path,
        base: Path,
        database: str,
        s3: S3Server,
        *,
        nodes: int = 1,
        write: WriteProject = write_project,
    ) -> None:
        self.folder, self.work = write(folder / "project", base), folder / "node"
        place = "work_folder" if nodes == 1 else "shared_folder"
        content = store_settings(s3, folder) | {
            "ray": {"grace_seconds": 60},
            "cluster": {"cpus": 1, "nodes": nodes, place: str(self.work)},
        }
        edit(self.folder / "ft_dagster.yaml", lambda declared: declared.update(content))
        declared = self.folder / "tenants/acme/places.yaml"
        edit(declared, lambda content: content["resources"].update(nodes=nodes))
        self.settings = load_settings(self.folder)
        self.of_nodes = {
            **command_environment(self.folder),
            "PG_URL": database,
            "AWS_SHARED_CREDENTIALS_FILE": str(write_credentials(folder / "credentials")),
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        own = {**self.of_nodes, "AWS_SECRET_ACCESS_KEY": "of the daemon alone"}
        self.environment = own | write_home(self.settings)
        self.home = self.settings.dagster_home
        self.cluster: RayCluster

    def use(self, cluster: RayCluster) -> None:
        """The dagster.yaml of deploy/ray, for this cluster."""
        self.cluster = cluster
        self.write_instance(DEPLOY, {"ray": {"address": cluster.address}})

    def steps_kept(self) -> int:
        """The step of the newest checkpoint that is whole in the store; 0 without one."""
        kept = [path.split("/") for path in self.store.files_below(f"{PREFIX}/fine_tuned_model")]
        steps = [parts[-2].rpartition("-")[2] for parts in kept if parts[-1] == MANIFEST]
        return max(map(int, steps), default=0)

    def trains_beyond(self, step: int) -> bool:
        return bool(self.steps_kept() > step and workers_that_train(self.work))

    def jobs(self, word: str = "") -> list[psutil.Process]:
        """All processes of its runs; with a word, those whose command has it."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                environment = process.environ()
                ours = RAY_JOB in environment and environment["FT_DAGSTER_PROJECT"] == str(self.folder)
                if ours and (not word or word in process.cmdline()):
                    found.append(process)
        return found

    def runs_in_jobs(self) -> list[psutil.Process]:
        return self.jobs("execute_run")

    def lose_a_node_beside_the_run(self) -> None:
        """All that Ray runs on one of several nodes that train is killed, and another node comes."""
        trainer = workers_that_train(self.work)[0]
        self.cluster.kill_node(self.cluster.node_of(trainer))
        self.cluster.add_node()

    def lose_the_node_of_the_run(self) -> None:
        """All that Ray runs there is killed, while the run trains on others; another node comes."""
        (run,) = self.runs_in_jobs()
        self.cluster.kill_node(self.cluster.node_of(run))
        self.cluster.add_node()

    def stall_the_node_of_the_run(self, seconds: float) -> None:
        """Its raylet answers nobody for so long, and then goes on."""
        (run,) = self.runs_in_jobs()
        self.cluster.stall_node(self.cluster.node_of(run), seconds)

    @contextmanager
    def training_held(self) -> Iterator[None]:
        """Nothing trains meanwhile, so that no training ends before what is awaited."""
        trainers = workers_that_train(self.work)
        for trainer in trainers:
            trainer.suspend()
        try:
            yield
        finally:
            for trainer in trainers:
                with suppress(psutil.NoSuchProcess):
                    trainer.resume()

    def lose_the_node_that_trains(self) -> None:
        """All that Ray runs there is killed, and its disk is gone."""
        (run,) = self.runs_in_jobs()
        self.cluster.kill_node(self.cluster.node_of(run))
        wait_until(lambda: not self.jobs(), PATIENCE)
        shutil.rmtree(self.work)
