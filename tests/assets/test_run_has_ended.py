"""A run that Dagster knows to have ended is not waited for by one that would train the same."""

from __future__ import annotations

import dagster as dg

from ft_dagster.assets.adapter import has_ended


@dg.op
def nothing() -> None:
    pass


@dg.job
def done() -> None:
    nothing()


def test_a_run_has_ended_once_dagster_says_so_and_so_has_an_earlier_process_of_this_one() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        ended = done.execute_in_process(instance=instance).run_id
        waiting = instance.create_run_for_job(done).run_id
        own = instance.create_run_for_job(done).run_id
        found = {run: has_ended(instance, own, run) for run in (ended, waiting, own, "by-hand")}
    assert found == {ended: True, waiting: False, own: True, "by-hand": False}
