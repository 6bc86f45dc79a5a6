"""Runs that a launcher made jobs of, looked at as Dagster's daemon does."""

from __future__ import annotations

import logging
from pathlib import Path

import dagster as dg
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster._daemon.monitoring import execute_run_monitoring_iteration

from ft_dagster.automation.clusters.watch import look
from tests.present import present


class LaunchedRuns:
    """Runs of `programs/waiting_job.py`, whose project is `folder`."""

    folder: Path
    instance: dg.DagsterInstance

    def monitor(self) -> None:
        """One round of Dagster's own run monitoring, and one look of the watch."""
        with WorkspaceProcessContext(self.instance, EmptyWorkspaceTarget()) as process:
            assert not any(execute_run_monitoring_iteration(process, logging.getLogger("monitoring")))
        look(self.instance)

    def status(self, run_id: str) -> dg.DagsterRunStatus:
        return present(self.instance.get_run_by_id(run_id)).status

    def monitored(self, run_id: str) -> dg.DagsterRunStatus:
        self.monitor()
        return self.status(run_id)

    def waits(self, run_id: str) -> bool:
        """Whether it has begun, and does what it does."""
        return (self.folder / f"{run_id}.pid").is_file()

    def said(self, run_id: str, word: str, of_type: str = "ENGINE_EVENT") -> list[str]:
        """What the run's log says."""
        entries = self.instance.all_logs(run_id, of_type=dg.DagsterEventType(of_type))
        lines = [present(entry.dagster_event).message or "" for entry in entries]
        return [line for line in lines if word in line]

    def why(self, run_id: str) -> str:
        (failure,) = self.said(run_id, "", "PIPELINE_FAILURE")
        return failure
