"""Holds the metrics that gates name against the tasks that are asked, before anything is asked."""

from __future__ import annotations

from collections.abc import Iterable

from ft_dagster.evaluation.tasks.tasks import listed_metrics, resolve_tasks
from ft_dagster.workspace.workspace import Workspace


def refuse_metrics(workspace: Workspace, entries: Iterable[str]) -> None:
    """Raises UserError for a metric that a task does not list, and for a task that is not declared.
    `entries`: tasks as declared, each of which can be read.
    """
    declared, roots = workspace.declared(), workspace.roots
    if declared.spec.gates.metrics:
        from ft_dagster.gate.refused_metrics import refuse_unlisted

        tasks = [resolve_tasks([entry], workspace.project, roots=roots)[0] for entry in sorted(entries)]
        refuse_unlisted({task.name: listed_metrics(task) for task in tasks}, declared.spec, declared.file)
