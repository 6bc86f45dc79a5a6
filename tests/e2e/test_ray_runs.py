"""Runs as jobs of a real Ray cluster of three nodes, on an instance in Postgres and a store on S3, as
deploy/ray has them: the models of this host, whatever ends meanwhile. Needs the extra `ray`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import dagster as dg
import pytest

from ft_dagster.lineage.release import history
from tests.e2e.instance import wait_until
from tests.e2e.ray_site import NODES, RaySite
from tests.e2e.run_sites import (
    ENDED,
    PATIENCE,
    PREFIX,
    digests_of,
)
from tests.postgres import PASSWORD
from tests.ray_cluster import ray_cluster, workers_that_train
from tests.s3_server import SECRET as S3_SECRET

pytest.importorskip("ray", reason="needs the extra `ray`")
pytestmark = [pytest.mark.slow, pytest.mark.long]
STATUS = dg.DagsterRunStatus
STALLS, LOST = 20.0, 120.0  # seconds: Ray takes a node for lost that is silent for about a minute


@pytest.fixture
def site(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RaySite]:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    database = request.getfixturevalue("postgres").new_database()
    base, s3 = request.getfixturevalue("tiny_model_folder"), request.getfixturevalue("s3_server")
    made = RaySite(tmp_path, base, database, s3, nodes=getattr(request, "param", 1))
    for name, value in made.of_nodes.items():
        monkeypatch.setenv(name, value)
    with ray_cluster(NODES) as cluster:
        made.use(cluster)
        monkeypatch.setenv("DAGSTER_HOME", str(made.home))
        yield made


def test_a_variant_is_cancelled_and_loses_two_nodes_and_is_released_as_the_model_of_this_host(
    site: RaySite,
) -> None:
    site.train_longer(epochs=160)
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


def test_a_node_that_stalls_for_a_while_goes_on_with_its_run(site: RaySite) -> None:
    site.train_longer()
    with site.daemon():
        run = site.submit()
        wait_until(lambda: site.trains_beyond(0), PATIENCE)
        site.stall_the_node_of_the_run(STALLS)
        assert site.status(run) == STATUS.STARTED
        wait_until(lambda: ENDED.issuperset(site.statuses()), PATIENCE)
        wait_until(lambda: not site.jobs(), PATIENCE)
    assert [*site.runs()] == [run], [site.why(each) for each in site.runs()]
    assert site.status(run) == STATUS.SUCCESS, site.why(run)
    assert site.resumed_from() == []
    assert len(history(site.store, PREFIX)) == 1
    assert site.digests_here("ray", "cluster") == digests_of(site.store)


def test_a_node_that_stalls_until_ray_gives_it_up_and_comes_back_makes_nothing_twice(site: RaySite) -> None:
    """What it runs lives on meanwhile, and may end well, beside the run that Dagster starts for it."""
    site.train_longer()
    with site.daemon():
        first = site.submit()
        wait_until(lambda: site.trains_beyond(0), PATIENCE)
        with site.training_held():
            site.stall_the_node_of_the_run(LOST)
            wait_until(lambda: len(site.runs()) == 2, PATIENCE)
        wait_until(lambda: ENDED.issuperset(site.statuses()), PATIENCE)
        wait_until(lambda: not site.jobs(), PATIENCE)
    (second,) = {*site.runs()} - {first}
    assert "Ray's job" in site.why(first)
    assert "died" in site.why(first), site.why(first)
    assert site.status(second) == STATUS.SUCCESS, site.why(second)
    assert len(history(site.store, PREFIX)) == 1
    assert len(site.store.names(f"{PREFIX}/fine_tuned_model")) == 1
    assert site.digests_here("ray", "cluster") == digests_of(site.store)


@pytest.mark.parametrize("site", [2], indirect=True)
def test_a_variant_on_two_nodes_loses_one_and_then_that_of_its_run_and_is_released(site: RaySite) -> None:
    site.train_longer(epochs=240)  # it is disturbed twice, and must not have ended before
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
