"""Collects the objectives, one file each, all of the same shape; a declaration's `objective` names one."""

from __future__ import annotations

from ft_dagster.errors import UserError
from ft_dagster.objectives.domain_knowledge import DOMAIN_KNOWLEDGE
from ft_dagster.objectives.instruction import INSTRUCTION
from ft_dagster.objectives.loss import Loss, next_token_loss
from ft_dagster.objectives.objective import KINDS, Objective, RowKind
from ft_dagster.objectives.rendered import Rendered, Spans
from ft_dagster.objectives.task_specific import TASK_SPECIFIC

__all__ = [
    "DEFAULT",
    "KINDS",
    "OBJECTIVES",
    "Objective",
    "Rendered",
    "RowKind",
    "Spans",
    "known",
    "loss_of",
    "next_token_loss",
    "objective_of",
]

OBJECTIVES = {objective.name: objective for objective in (INSTRUCTION, DOMAIN_KNOWLEDGE, TASK_SPECIFIC)}
DEFAULT = INSTRUCTION.name


def objective_of(name: str) -> Objective:
    """Return the objective of this name. Raises UserError."""
    if name not in OBJECTIVES:
        raise UserError("no such objective", field="objective", value=name, fix=f"Take {known()}")
    return OBJECTIVES[name]


def loss_of(own_loss: str | None) -> Loss:
    """Return the loss of the objective that is named, else the one that objectives share. Raises
    UserError.
    """
    return next_token_loss if own_loss is None else objective_of(own_loss).loss


def known(form: str = "{}") -> str:
    """Return all names, as in a sentence: a, b or c."""
    *others, last = map(form.format, OBJECTIVES)
    return f"{', '.join(others)} or {last}"
