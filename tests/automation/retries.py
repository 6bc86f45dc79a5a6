"""Dagster's own daemon of retries, a round at a time, without the other daemons beside it."""

import dagster as dg
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster._daemon.auto_run_reexecution.event_log_consumer import EventLogConsumerDaemon

RETRIES = {"run_retries": {"enabled": True, "max_retries": 2}}  # of an instance's dagster.yaml


def decide_on_retries(instance: dg.DagsterInstance) -> None:
    """It comes to each failure since its last round. Its workspace has no code: it runs none again."""
    with WorkspaceProcessContext(instance, EmptyWorkspaceTarget()) as process:
        list(EventLogConsumerDaemon().run_iteration(process))
