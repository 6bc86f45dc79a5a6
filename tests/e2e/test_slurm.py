"""Runs as jobs of a real Slurm cluster, on an instance in Postgres and a store on S3, as deploy/slurm has
them: the models of this host, whatever ends meanwhile. Needs slurmctld, slurmd, slurm-client and munge.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from ft_dagster.lineage.release import history
from tests.e2e.instance import wait_until
from tests.e2e.run_sites import (
    ENDED,
    KEY,
    PATIENCE,
    PREFIX,
    digests_of,
)
from tests.e2e.slurm_site import NAMED, SlurmSite
from tests.postgres import PASSWORD
from tests.s3_server import SECRET as S3_SECRET
from tests.slurm_cluster import MISSING, SlurmCluster, slurm_cluster

pytestmark = pytest.mark.long
if MISSING:
    pytest.skip(f"Slurm is not installed: no {', '.join(MISSING)}", allow_module_level=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    with slurm_cluster() as started:
        yield started


@pytest.fixture
def site(
    cluster: SlurmCluster, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SlurmSite]:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    database = request.getfixturevalue("postgres").new_database()
    base, s3 = request.getfixturevalue("tiny_model_folder"), request.getfixturevalue("s3_server")
    made = SlurmSite(tmp_path, base, database, s3, cluster=cluster)
    for name in NAMED:
        monkeypatch.setenv(name, made.environment[name])
    yield made
    cluster.end_jobs()


def test_a_variant_is_cancelled_killed_and_released_in_jobs_to_the_model_of_this_host_and_no_secret_is_seen(
    site: SlurmSite,
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
