"""Runs as jobs of a real Ray cluster of three nodes, on an instance in Postgres and a store on S3, as
deploy/ray has them: the models of this host, whatever ends meanwhile. Needs the extra `ray`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import dagster as dg
import psutil
import pytest

from ft_dagster.automation.processes.instance import write_home
from ft_dagster.host_settings import RAY_JOB
from ft_dagster.lineage.release import history
from ft_dagster.settings import load_settings
from ft_dagster.training.checkpoints import MANIFEST
from tests.e2e.instance import wait_until
from tests.e2e.project import command_environment, edit, write_project
from tests.e2e.run_sites import (
    ENDED,
    PATIENCE,
    PREFIX,
    RunSite,
    WriteProject,
    digests_of,
    store_settings,
    write_credentials,
)
from tests.postgres import PASSWORD
from tests.ray_cluster import RayCluster, ray_cluster, workers_that_train
from tests.s3_server import SECRET as S3_SECRET
from tests.s3_server import S3Server

pytest.importorskip("ray", reason="needs the extra `ray`")
pytestmark = [pytest.mark.slow, pytest.mark.long]
DEPLOY = Path(__file__).parents[2] / "deploy/ray"
STATUS = dg.DagsterRunStatus
NODES = 3


class Site(RunSite):
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

    def jobs(self) -> list[psutil.Process]:
        """All processes of its runs."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                environment = process.environ()
                if RAY_JOB in environment and environment["FT_DAGSTER_PROJECT"] == str(self.folder):
                    found.append(process)
        return found

    def runs_in_jobs(self) -> list[psutil.Process]:
        return [process for process in self.jobs() if "execute_run" in process.cmdline()]

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

    def lose_the_node_that_trains(self) -> None:
        """All that Ray runs there is killed, and its disk is gone."""
        (run,) = self.runs_in_jobs()
        self.cluster.kill_node(self.cluster.node_of(run))
        wait_until(lambda: not self.jobs(), PATIENCE)
        shutil.rmtree(self.work)


@pytest.fixture
def site(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    database = request.getfixturevalue("postgres").new_database()
    base, s3 = request.getfixturevalue("tiny_model_folder"), request.getfixturevalue("s3_server")
    made = Site(tmp_path, base, database, s3, nodes=getattr(request, "param", 1))
    for name, value in made.of_nodes.items():
        monkeypatch.setenv(name, value)
    with ray_cluster(NODES) as cluster:
        made.use(cluster)
        monkeypatch.setenv("DAGSTER_HOME", str(made.home))
        yield made


def test_a_variant_is_cancelled_and_loses_two_nodes_and_is_released_as_the_model_of_this_host(
    site: Site,
) -> None:
    site.train_longer()
    with site.daemon():
        first = site.submit()
        wait_until(lambda: site.trains_beyond(0), PATIENCE)
        environments = [each.environ() for each in site.jobs()]
        entrypoints = " ".join(word for each in site.jobs() for word in each.cmdline())
        assert site.cancel(first)
        wait_until(lambda: site.status(first) == STATUS.CANCELED, PATIENCE)
        wait_until(lambda: not site.jobs(), PATIENCE)
        at = site.steps_kept()
        second = site.submit()
        for _ in range(2):
            wait_until(partial(site.trains_beyond, at), PATIENCE)
            at = site.steps_kept()
            site.lose_the_node_that_trains()
        wait_until(lambda: len(site.runs()) == 4 and ENDED.issuperset(site.statuses()), PATIENCE)
        wait_until(lambda: not site.jobs(), PATIENCE)
    last = [run for run in site.runs().values() if run.status == STATUS.SUCCESS]
    assert [run.root_run_id for run in last] == [second], [site.why(run) for run in site.runs()]
    assert max(site.resumed_from()) >= at > 0
    assert history(site.store, PREFIX)
    assert {each["AWS_PROFILE"] for each in environments} == {"acme"}
    for secret in ("of the daemon alone", S3_SECRET):
        assert secret not in f"{environments}"
    assert PASSWORD not in entrypoints
    assert site.digests_here("ray", "cluster") == digests_of(site.store)


@pytest.mark.parametrize("site", [2], indirect=True)
def test_a_variant_on_two_nodes_loses_one_and_then_that_of_its_run_and_is_released(site: Site) -> None:
    site.train_longer()
    with site.daemon():
        first = site.submit()
        wait_until(lambda: site.trains_beyond(0), PATIENCE)
        site.lose_a_node_beside_the_run()
        wait_until(lambda: not workers_that_train(site.work), PATIENCE)
        at = site.steps_kept()
        wait_until(partial(site.trains_beyond, at), PATIENCE)
        assert [*site.runs()] == [first]  # its step was tried again
        later = site.steps_kept()
        site.lose_the_node_of_the_run()
        wait_until(lambda: len(site.runs()) == 2 and ENDED.issuperset(site.statuses()), PATIENCE)
        wait_until(lambda: not site.jobs(), PATIENCE)
    last = [run for run in site.runs().values() if run.status == STATUS.SUCCESS]
    assert [run.root_run_id for run in last] == [first], [site.why(run) for run in site.runs()]
    before, after = site.resumed_from()
    assert later > before >= at > 0
    assert after >= later
    assert history(site.store, PREFIX)
