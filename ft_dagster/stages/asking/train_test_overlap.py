"""Refuses to judge weights on rows that they were trained on, whichever stages are run alone."""

from __future__ import annotations

from ft_dagster.errors import UserError
from ft_dagster.stage_entries import (
    EVALUATION_TEXTS,
    FINE_TUNED_MODEL,
    GENERAL_CORPUS,
    TASK_DATASET,
    TRAINING_MIXTURE,
)
from ft_dagster.stages import evaluation_texts
from ft_dagster.stages.ancestry import refuse_asked_of_ancestors
from ft_dagster.store import Artifact
from ft_dagster.workspace.workspace import Workspace


def refuse_trained_on(workspace: Workspace) -> None:
    """Raises UserError unless the newest weights were trained on the data set whose test split is asked, and
    data set and general text were looked through for the questions of the declared tasks, by overlaps no
    longer, and by no larger part of a question, than declared. Raises it too where an ancestor was trained on
    what is asked, see `refuse_asked_of_ancestors`.
    """
    refuse_asked_of_ancestors(workspace)
    tuned, mixture, rows = (
        workspace.upstream(stage)
        for stage in (FINE_TUNED_MODEL.name, TRAINING_MIXTURE.name, TASK_DATASET.name)
    )
    _same(workspace, TRAINING_MIXTURE.name, mixture, tuned)
    _same(workspace, TASK_DATASET.name, rows, mixture)
    if not workspace.spec.data.decontaminate.enabled or not any(workspace.frozen["tasks"].values()):
        return
    texts = evaluation_texts.read_for(workspace)
    for trained in (rows, mixture) if GENERAL_CORPUS.name in mixture.inputs else (rows,):
        if texts is None or trained.inputs.get(EVALUATION_TEXTS.name) != texts.digest:
            raise UserError(
                f"{trained.place.stage} was not looked through for the questions that are declared now: the "
                "weights may have been trained on them",
                file=workspace.declared_in,
                field="evaluation",
                fix=f"Run {workspace.key} again: what stays the same is reused",
            )
        _refuse_longer_overlaps(workspace, trained)


def _refuse_longer_overlaps(workspace: Workspace, trained: Artifact) -> None:
    made_by = trained.spec.get("data.decontaminate")  # as the first stage versions wrote it
    asked = made_by or trained.spec["spec"]["data"]["decontaminate"]
    declared, covered = workspace.spec.data.decontaminate, asked.get("coverage")
    value: float
    if asked["ngram"] > declared.ngram:
        field, value = "ngram", declared.ngram
        by = f"{asked['ngram']} words in a row, more than are declared now"
        by += ": the weights may have been trained on shorter parts"
    elif declared.coverage is not None and (covered is None or covered > declared.coverage):
        field, value = "coverage", declared.coverage
        by = "long runs of words alone" if covered is None else f"{covered:g} of their runs of three words"
        by += ": the weights may have been trained on questions with a word put in"
    else:
        return
    raise UserError(
        f"{trained.place.stage} was looked through for questions by {by}",
        file=workspace.declared_in,
        field=f"data.decontaminate.{field}",
        value=value,
        fix=f"Run {workspace.key} again: what stays the same is reused",
    )


def _same(workspace: Workspace, stage: str, newest: Artifact, made_from_it: Artifact) -> None:
    if made_from_it.inputs[stage] != newest.digest:
        raise UserError(
            f"{made_from_it.place.stage} was made from another {stage} than the newest: the weights may be "
            "asked what they were trained on",
            file=workspace.declared_in,
            value=newest.digest[:12],
            fix=f"Run {workspace.key} again: what stays the same is reused",
        )
