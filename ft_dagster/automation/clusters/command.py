"""Says how a run is carried out on another machine: Dagster's own command, and the environment it needs."""

from __future__ import annotations

import os

import dagster as dg

from ft_dagster.automation.patience import PATIENCE
from ft_dagster.dagster_private import ExecuteRunArgs


def command_of(run: dg.DagsterRun) -> tuple[list[str], list[str]]:
    """Return how Dagster is started where the run's code is, and what it is told then. The instance is not in
    it, in whose settings a password may stand: the run finds it by its home.
    """
    origin = run.job_code_origin
    assert origin is not None  # a run that was submitted has one
    told = ExecuteRunArgs(origin, run.run_id, None, set_exit_code_on_failure=True).get_command_args()
    return list(told[:-3]), list(told[-3:])


def environment_of(instance: dg.DagsterInstance) -> dict[str, str]:
    """Return what a run's process must have in its environment to find the instance, and be patient with
    it.
    """
    return {**PATIENCE, "DAGSTER_HOME": os.environ.get("DAGSTER_HOME", instance.root_directory)}
