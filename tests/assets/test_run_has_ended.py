"""A run that Dagster knows to have ended is waited for no longer than it gives signs of life."""

from __future__ import annotations

import dagster as dg

from ft_dagster.assets.adapter import has_ended


@dg.op
def nothing() -> None:
    pass


@dg.job
def done() -> None:
    nothing()


def test_a_run_has_ended_once_dagster_says_so() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        ended = done.execute_in_process(instance=instance).run_id
        waiting = instance.create_run_for_job(done).run_id
        found = {run: has_ended(instance, run) for run in (ended, waiting, "by-hand")}
    assert found == {ended: True, waiting: False, "by-hand": False}
