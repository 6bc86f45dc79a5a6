"""Decides when the base is asked with examples in its prompt: before a training, after an evaluation, or on
request.

No key of a run has its answers: they decide nothing, and a failure of the asking stops no training.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ft_dagster.errors import UserError
from ft_dagster.gate.prompted import Prompted, prompted_sentences
from ft_dagster.launch.local import ProgramFailed
from ft_dagster.stage_entries import TASK_DATASET
from ft_dagster.stages import prompted_base
from ft_dagster.workspace.stage import Stage
from ft_dagster.workspace.workspace import Workspace


def ask_before_training(workspace: Workspace) -> None:
    """Ask the base on validation rows, where they have questions and no experiment trains on them."""
    _ask(workspace, prompted_base.STAGE, "validation")


def ask_after_evaluation(workspace: Workspace) -> None:
    """Ask it on test rows, beside base and tuned model, where a goal is declared."""
    if workspace.spec.evaluation.goal is not None:
        _ask(workspace, prompted_base.ON_TEST, "test")


def _ask(
    workspace: Workspace, stage: Stage[prompted_base.PromptedInputs], split: prompted_base.Split
) -> None:
    dataset = workspace.upstream(TASK_DATASET.name)
    if workspace.trial is not None or workspace.looking:
        return
    if prompted_base.why_not(workspace.spec, dataset, split) is not None:
        return
    with _said_and_left(workspace):
        artifact = workspace.make(stage)
        found = Prompted.from_json(artifact.figures)
        for line in prompted_sentences(found, workspace.spec.evaluation.goal):
            workspace.run.say(line)


@contextlib.contextmanager
def _said_and_left(workspace: Workspace) -> Iterator[None]:
    """Say what no second try would mend, and go on."""
    try:
        yield
    except UserError as error:
        workspace.run.say(f"the base was not asked with examples: {error}")
    except ProgramFailed as failure:
        if failure.mendable:
            raise
        workspace.run.say(f"the base was not asked with examples: {failure.happened}")
