"""Says in a run's log what became of its job of Slurm, and finds it there again."""

from collections.abc import Mapping
from typing import NamedTuple

import dagster as dg

from ft_dagster.dagster_private import EngineEventData

JOB, REASON, ENDED = "slurm_job", "slurm_reason", "slurm_job_ended"  # what a line tells


class Told(NamedTuple):
    """Holds what a line tells under a name, and when it did, in seconds since 1970."""

    value: str
    at: float


def said(run: dg.DagsterRun, instance: dg.DagsterInstance, message: str, told: Mapping[str, str]) -> None:
    """Say something of a run's job in the run's log. `told`: what a later look finds again."""
    data = EngineEventData({name: dg.MetadataValue.text(value) for name, value in told.items()})
    instance.report_engine_event(message, run, data)


def newest(instance: dg.DagsterInstance, run: dg.DagsterRun, name: str) -> Told | None:
    """Return what the newest line of a run's log tells under a name."""
    for entry in reversed(instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)):
        told = entry.dagster_event.engine_event_data.metadata if entry.dagster_event else {}
        if name in told:
            return Told(str(told[name].value), entry.timestamp)
    return None
