"""Foresees the next evaluation of a variant: which try it is, what it takes, how many looks are left."""

from __future__ import annotations

from contextlib import suppress

from ft_dagster.data.rows.dataset_figures import DatasetFigures
from ft_dagster.errors import UserError
from ft_dagster.lineage.release import history
from ft_dagster.lineage.reserves import reserve_of
from ft_dagster.lineage.served import served_in
from ft_dagster.lineage.tries import count
from ft_dagster.planning.looks_left import NextLook, next_look
from ft_dagster.spec import VariantSpec
from ft_dagster.stage_entries import TASK_DATASET
from ft_dagster.workspace.left_out import left_out_by, overlap_found
from ft_dagster.workspace.policy import counted_questions
from ft_dagster.workspace.references import after_references, beneath_now
from ft_dagster.workspace.workspace import Workspace


def look_ahead(workspace: Workspace, spec: VariantSpec, test_rows: int | None = None) -> NextLook:
    """Return the next look at a variant, as it is declared, without the questions that an ancestor was found
    to be trained on. `test_rows`: of the test split, where no newer number is known than of the newest data
    set. Raises UserError for records that cannot be read.
    """
    known, there = dict[str, int](), dict[str, int]()
    left_out = left_out_by(workspace, overlap_found(workspace))
    with suppress(UserError):  # nothing was split yet
        known, there = counted_questions(workspace, spec, left_out)
    sets = spec.evaluation.sets
    if test_rows is not None and not spec.evaluation.task and (sets == 1 or "task" not in known):
        known["task"] = max(0, test_rows - left_out.own) // sets
    store, prefix = workspace.store, workspace.prefix
    reserve = None if sets == 1 else reserve_of(store, prefix, None, sets)
    past, number = history(store, prefix), count(store, prefix).next
    beneath = None
    with suppress(UserError):  # its parent was never released, or is gone, which a run says
        beneath = beneath_now(workspace, spec)
    release = after_references(workspace, spec.gates, beneath)
    successor = served_in(past) is not None
    return next_look(spec, number, known, there, successor=successor, release=release, reserve=reserve)


def newest_test_rows(workspace: Workspace) -> int | None:
    """Return the rows of the test split of the newest data set; None where there is none."""
    newest = workspace.head(TASK_DATASET.name)
    return None if newest is None else DatasetFigures.of(newest).test_rows
