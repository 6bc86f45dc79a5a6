"""The weights in production on today's questions, so that a new version is held against them on those.

Made for a release where the version in production was asked other questions than its successor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.evaluation.arithmetic import Dtype
from ft_dagster.lineage.entry import ReleaseEntry
from ft_dagster.lineage.graph import StoredGraph, input_of
from ft_dagster.lineage.release import production
from ft_dagster.stage_entries import (
    BASE_EVALUATION,
    BASE_MODEL,
    FINE_TUNED_MODEL,
    MODEL_EXPORT,
    PRODUCTION_EVALUATION,
)
from ft_dagster.stages import asked
from ft_dagster.stages.asked import ModelQuestions, scores_in
from ft_dagster.stages.engine import Engine
from ft_dagster.stages.hands import Hands
from ft_dagster.stages.models import base_of, weights_of
from ft_dagster.stages.rendering import RENDERING
from ft_dagster.stages.stage import Stage
from ft_dagster.stages.view import View
from ft_dagster.stages.workspace import Desk
from ft_dagster.store import Artifact, Attempt, Place, find_artifact


class ProductionGone(UserError):
    """What is in production can no longer be asked: its weights, or the base that they stand on, are gone."""


@dataclass(frozen=True)
class ProductionInputs:
    """`base_model`, `fine_tuned_model`: of the version in production, and so is `chat`, see `asked.rules_of`;
    the questions are today's, rendered as that version was trained.
    """

    base_model: Artifact
    fine_tuned_model: Artifact
    task: asked.OwnTask
    general: asked.General
    device: str
    dtype: Dtype
    engine: Engine
    chat: dict[str, Any] | None = None


def inputs(view: View) -> ProductionInputs:
    entry = production(view.store, view.key.prefix)
    if entry is None:
        raise UserError(f"nothing of {view.key} is in production", fix="Run and release it first")
    base, tuned, export = in_production(view, entry)
    # What it repeats of today's training rows is no question of its own.
    task = asked.unprobed(asked.own_task_of(view, base, export.spec.get(f"task.{RENDERING}")))
    general, rules = asked.general(view), asked.rules_of(view, base)
    return ProductionInputs(base, tuned, task, general, view.device, view.dtype, view.engine, rules)


def in_production(desk: Desk, entry: ReleaseEntry) -> tuple[Artifact, Artifact, Artifact]:
    """The base, the weights and the export of a released version, found and whole. Raises ProductionGone."""
    store, prefix = desk.store, desk.key.prefix
    try:
        export = find_artifact(store, Place(prefix, MODEL_EXPORT.name, entry.export_key))
        if export is None or (export.digest, export.inputs.get(FINE_TUNED_MODEL.name)) != (
            entry.export,
            entry.weights,
        ):
            raise _gone(entry, "its export is gone")
        graph = StoredGraph(store)
        tuned, base = (input_of(graph, export, stage.name) for stage in (FINE_TUNED_MODEL, BASE_MODEL))
        if tuned is None or base is None:
            raise _gone(entry, "its base is gone" if tuned else "its weights are gone")
        desk.verify(tuned)
        desk.base_folder(base)
    except ProductionGone:
        raise
    except UserError as error:
        raise _gone(entry, str(error)) from None
    return base, tuned, export


def build(inputs: ProductionInputs, hands: Hands, attempt: Attempt) -> dict[str, Any]:
    hands.say("the version in production is asked today's questions")
    base, weights = base_of(inputs.base_model, hands), weights_of(inputs.fine_tuned_model, hands)
    question = ModelQuestions(
        base, weights, inputs.device, inputs.dtype, inputs.engine, inputs.task, inputs.general
    )
    return {**question.ask(hands, attempt), "scores": scores_in(attempt.payload)}


def _gone(entry: ReleaseEntry, what: str) -> ProductionGone:
    return ProductionGone(
        f"version {entry.version}, which is in production, cannot be asked today's questions: {what}",
        fix="Restore it from a backup",
    )


STAGE = Stage(
    PRODUCTION_EVALUATION,
    reads=(*asked.READS, BASE_EVALUATION),
    fields=asked.FIELDS,
    inputs=inputs,
    build=build,
    programs=("evaluation",),
)
