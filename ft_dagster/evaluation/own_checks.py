"""Names a tenant's own checks as people see them: `acme/arc_easy`, by whichever letters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ft_dagster.evaluation.tasks.tasks import TaskEntry
from ft_dagster.lineage.verdict import Rule
from ft_dagster.roots import Roots

OwnChecks = Mapping[str, Mapping[str, str]]  # role -> name -> what it is called
FIGURE = "own_checks"  # of an evaluation that has any


def own_names(tasks: Iterable[TaskEntry], tenant: str) -> dict[str, str]:
    """Return the shown name of each task whose file the tenant may write: its own name says nothing of what
    is asked.
    """
    own = (task for task in tasks if task.roots is not None and _is_own(task, task.roots))
    return {task.name: f"{tenant}/{task.name}" for task in own}


def _is_own(task: TaskEntry, roots: Roots) -> bool:
    return task.file is not None and roots.is_own(roots.project / task.entry)


def shown(figures: Mapping[str, Any], role: str, task: str) -> str:
    """Return what a task is called on pages of an evaluation with these figures."""
    return str(figures.get(FIGURE, {}).get(role, {}).get(task, task))


def as_called(rules: Iterable[Rule], own: OwnChecks) -> tuple[Rule, ...]:
    """Return the same rules, with the names of a tenant's own checks as they are shown."""
    return tuple(_called(rule, own) for rule in rules)


def by_any_name(tasks: Iterable[str], own: OwnChecks) -> set[str]:
    """Return the tasks by their names, and by the shown names of a tenant's own checks."""
    plain = set(tasks)
    return plain | {called for names in own.values() for name, called in names.items() if name in plain}


def _called(rule: Rule, own: OwnChecks) -> Rule:
    from ft_dagster.gate.gates import WHAT

    is_task = rule.what.removesuffix(rule.task).endswith(f"{WHAT['task']} ")
    name = own.get("task" if is_task else "general", {}).get(rule.task)
    if name is None:
        return rule
    what = rule.what.removesuffix(rule.task) + name
    return replace(rule, task=name, what=what, sentence=rule.sentence.replace(rule.what, what, 1))
