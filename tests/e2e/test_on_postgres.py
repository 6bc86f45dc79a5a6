"""A tiny variant on an instance in a real Postgres server, which ends and comes back while it is trained."""

from __future__ import annotations

import time
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa

from tests.e2e.fleet import TinyFleet
from tests.e2e.instance import wait_until
from tests.fleet.receiver import receiving
from tests.postgres import PostgresServer

pytestmark = [pytest.mark.slow, pytest.mark.long]
KEY = "acme.places"


def test_a_server_that_comes_and_goes_while_a_variant_is_retrained_loses_nothing(
    tmp_path: Path, tiny_model_folder: Path, postgres: PostgresServer
) -> None:
    """What a run cannot report fails it: Dagster runs it again, or the fleet waits to ask, and a run by hand
    goes on.
    """
    with receiving() as receiver:
        fleet = TinyFleet(tmp_path / "project", tiny_model_folder, receiver.url)
        address = postgres.new_database()
        fleet.keep_in(address)
        fleet.declare(KEY, tiny_model_folder)
        (first,) = fleet.command("run", KEY)["variants"]
        assert (first["run_status"], first["gate"]) == ("SUCCESS", True)
        fleet.train_otherwise(KEY)
        with fleet.daemon():
            fleet.order("again")
            wait_until(
                lambda: [run for run in fleet.runs() if run.status == dg.DagsterRunStatus.STARTED], 120
            )
            for _ in range(3):
                postgres.crash()
                time.sleep(0.5)
                postgres.start()
                time.sleep(3)
            wait_until(fleet.are_done, 300)
            wait_until(lambda: len(set(receiver.ids)) == 2, 120)
            fleet.wait_for_ticks()
    disturbed = fleet.runs()[-1]
    due = [row["state"] for row in fleet.command("fleet", "due")["due"]]
    assert due == ([] if disturbed.status == dg.DagsterRunStatus.SUCCESS else ["back-off"])
    (again,) = fleet.command("run", KEY)["variants"]
    assert (again["run_status"], again["gate"]) == ("SUCCESS", True)
    assert fleet.trainings() == {KEY: 2}
    (row,) = fleet.command("status")["variants"]
    assert (row["version"], row["state"], row["digest"]) == (2, "fresh", again["digest"])
    with fleet.daemon():
        fleet.wait_for_ticks()
    assert fleet.command("fleet", "due")["due"] == []
    assert fleet.runs()[-1] == disturbed
    tables = sa.inspect(sa.create_engine(address)).get_table_names()
    assert {"runs", "ft_dagster_fleet_variants", "ft_dagster_events"} <= set(tables)
    assert not [*fleet.home.glob("*.db")]
