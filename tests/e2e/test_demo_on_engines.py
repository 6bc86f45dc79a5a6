"""One variant of the demo, with the real model, wherever it runs and whatever is killed meanwhile: in a
folder, on S3, as jobs of Ray and of Slurm, on a deployment that is killed whole. Each makes what the first
made.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import dagster as dg
import psutil
import pytest

from ft_dagster.automation.processes.instance import launch, write_home
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.store import Store, read_head
from tests.e2e.demo_variant import prepared_demo, project_of
from tests.e2e.deployment import Deployment
from tests.e2e.fleet import Deployed
from tests.e2e.instance import BIN, wait_until
from tests.e2e.project import command_environment, edit
from tests.e2e.ray_site import NODES, RaySite
from tests.e2e.run_sites import ENDED, KEY, PREFIX, store_settings, write_credentials
from tests.e2e.slurm_site import NAMED, SlurmSite
from tests.postgres import PostgresServer
from tests.present import present
from tests.ray_cluster import ray_cluster
from tests.s3_server import S3Server
from tests.slurm_cluster import MISSING, slurm_cluster

pytestmark = [pytest.mark.slow, pytest.mark.long]
PATIENCE = 1800.0  # seconds
MADE = ("task_dataset", "training_mixture", "fine_tuned_model", "evaluation", "model_export")
TRAINER, JUDGE = "ft_dagster.training", "ft_dagster.evaluation"


def digests_of(store: Store) -> dict[str, str]:
    return {stage: present(read_head(store, PREFIX, stage)).digest for stage in MADE}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared_demo(tmp_path_factory.mktemp("prepared") / "demo")


def run_here(folder: Path, **more: str) -> Store:
    command: list[str | Path] = [BIN / "ft-dagster", "run", KEY]
    done = subprocess.run(
        command, env=command_environment(folder) | more, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return load_settings(folder).open_store("acme")


@pytest.fixture(scope="module")
def undisturbed(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return digests_of(run_here(project_of(demo)(tmp_path_factory.mktemp("here") / "project", demo)))


class Servers(NamedTuple):
    """A new database, and a server of S3."""

    database: str
    s3: S3Server


@pytest.fixture
def servers(postgres: PostgresServer, s3_server: S3Server) -> Servers:
    return Servers(postgres.new_database(), s3_server)


def programs(processes: list[psutil.Process]) -> set[str]:
    """Which programs of a variant's stages are among them."""
    found = set()
    for process in processes:
        try:
            found |= {TRAINER, JUDGE} & {*process.cmdline()}
        except psutil.Error:
            continue
    return found


def is_judged(store: Store, processes: list[psutil.Process]) -> bool:
    """Whether the variant has its model, and one of these asks it, or its base, questions."""
    return read_head(store, PREFIX, "fine_tuned_model") is not None and JUDGE in programs(processes)


def test_it_is_the_same_on_s3(
    demo: Path,
    undisturbed: dict[str, str],
    s3_server: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = project_of(demo)(tmp_path / "project", demo)
    edit(folder / "ft_dagster.yaml", lambda content: content.update(store_settings(s3_server, tmp_path)))
    credentials = str(write_credentials(tmp_path / "credentials"))
    for name, value in (("AWS_SHARED_CREDENTIALS_FILE", credentials), ("AWS_DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(name, value)
    assert digests_of(run_here(folder)) == undisturbed


def test_it_is_the_same_on_ray_where_its_training_lost_two_nodes_and_its_evaluation_one(
    demo: Path,
    undisturbed: dict[str, str],
    servers: Servers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("ray", reason="needs the extra `ray`")
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    site = RaySite(tmp_path, demo, *servers, write=project_of(demo))
    for name, value in site.of_nodes.items():
        monkeypatch.setenv(name, value)

    with ray_cluster(NODES) as cluster:
        site.use(cluster)
        edit(site.home / "dagster.yaml", lambda content: content["run_retries"].update(max_retries=3))
        monkeypatch.setenv("DAGSTER_HOME", str(site.home))
        with site.daemon():
            first = site.submit()
            for _ in range(2):
                wait_until(lambda: site.trains_beyond(0), PATIENCE)
                site.lose_the_node_that_trains()
                site.cluster.add_node()
            wait_until(lambda: is_judged(site.store, site.jobs()), PATIENCE)
            site.lose_the_node_that_trains()
            site.cluster.add_node()
            wait_until(lambda: len(site.runs()) == 4 and ENDED.issuperset(site.statuses()), PATIENCE)
            wait_until(lambda: not site.jobs(), PATIENCE)
    last = [run for run in site.runs().values() if run.status == dg.DagsterRunStatus.SUCCESS]
    assert [run.root_run_id for run in last] == [first], [site.why(run) for run in site.runs()]
    assert max(site.resumed_from()) > 0
    assert digests_of(site.store) == undisturbed


@pytest.mark.skipif(bool(MISSING), reason=f"Slurm is not installed: no {', '.join(MISSING)}")
def test_it_is_the_same_on_slurm_where_its_training_and_its_evaluation_were_killed(
    demo: Path,
    undisturbed: dict[str, str],
    servers: Servers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    with slurm_cluster() as cluster:
        site = SlurmSite(tmp_path, demo, *servers, cluster=cluster, write=project_of(demo))
        for name in NAMED:
            monkeypatch.setenv(name, site.environment[name])

        with site.daemon():
            first = site.submit()
            for moment in (site.steps_kept, lambda: is_judged(site.store, site.processes())):
                wait_until(moment, PATIENCE)
                for process in site.processes():
                    process.kill()
                wait_until(site.nothing_is_left, PATIENCE)
            wait_until(lambda: len(site.runs()) == 3 and ENDED.issuperset(site.statuses()), PATIENCE)
            wait_until(site.nothing_is_left, PATIENCE)
        last = [run for run in site.runs().values() if run.status == dg.DagsterRunStatus.SUCCESS]
        assert [run.root_run_id for run in last] == [first], [site.why(run) for run in site.runs()]
        assert max(site.resumed_from()) > 0
        assert digests_of(site.store) == undisturbed


class OneMachine(Deployed):
    """A project of the variant, to be laid into deploy/one-machine."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.settings, self.own_environment = folder, load_settings(folder), {}
        self.home = Path(write_home(self.settings)["DAGSTER_HOME"])

    def submit(self) -> str:
        with self.instance() as instance:
            (run,) = launch(instance, self.settings, [VariantKey.parse(KEY)], "test")
        return run.run_id

    def runs(self) -> list[dg.DagsterRun]:
        with self.instance() as instance:
            return [*instance.get_runs()]


@pytest.fixture
def deployment(
    demo: Path, postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Deployment[OneMachine]]:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    machine = OneMachine(project_of(demo)(tmp_path / "project", demo))
    made = Deployment.of(machine, postgres)
    edit(
        machine.home / "dagster.yaml",
        lambda content: content["run_monitoring"].update(poll_interval_seconds=5),
    )
    monkeypatch.setenv("FT_DAGSTER_PROJECT", str(machine.folder))
    monkeypatch.setenv("DAGSTER_HOME", str(machine.home))
    with made.running():
        yield made


def test_it_is_the_same_on_a_deployment_that_was_killed_whole_while_it_trained_and_while_it_was_judged(
    deployment: Deployment[OneMachine], undisturbed: dict[str, str]
) -> None:
    machine, daemon = deployment.fleet, deployment.daemon
    store = machine.settings.open_store()
    deployment.wait_for_ui()
    first = machine.submit()

    wait_until(lambda: TRAINER in programs(daemon.processes), PATIENCE)
    deployment.power_cut()
    wait_until(lambda: is_judged(store, daemon.processes), PATIENCE)
    deployment.power_cut()
    wait_until(lambda: len(machine.runs()) == 3, PATIENCE)
    wait_until(lambda: ENDED.issuperset(run.status for run in machine.runs()), PATIENCE)
    last = [run for run in machine.runs() if run.status == dg.DagsterRunStatus.SUCCESS]
    assert [run.root_run_id for run in last] == [first]
    assert digests_of(store) == undisturbed
