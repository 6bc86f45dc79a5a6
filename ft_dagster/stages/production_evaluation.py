"""The weights in production on today's questions, so that a new version is held against them on those.

Made for a release where the version in production was asked other questions than its successor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.evaluation.arithmetic import Dtype
from ft_dagster.stage_entries import (
    BASE_EVALUATION,
    PRODUCTION_EVALUATION,
)
from ft_dagster.stages import asked
from ft_dagster.stages.asked import ModelQuestions, scores_in
from ft_dagster.stages.engine import Engine
from ft_dagster.stages.hands import BuildContext
from ft_dagster.stages.models import base_of, weights_of
from ft_dagster.stages.rendering import RENDERING
from ft_dagster.stages.stage import Stage
from ft_dagster.stages.view import View
from ft_dagster.store import Artifact, Attempt


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
    """Raises UserError where nothing is in production, and ProductionGone where it can no longer be asked."""
    production = view.past.production()
    base, tuned, export = production.base_model, production.fine_tuned_model, production.model_export
    try:
        view.verify(tuned)
        view.base_folder(base)
    except UserError as error:
        raise production.gone(str(error)) from None
    # What it repeats of today's training rows is no question of its own.
    task = asked.unprobed(asked.own_task_of(view, base, export.spec.get(f"task.{RENDERING}")))
    general, rules = asked.general(view), asked.rules_of(view, base, view.upstream(BASE_EVALUATION.name))
    return ProductionInputs(base, tuned, task, general, view.device, view.dtype, view.engine, rules)


def build(inputs: ProductionInputs, context: BuildContext, attempt: Attempt) -> dict[str, Any]:
    context.say("the version in production is asked today's questions")
    base, weights = base_of(inputs.base_model, context), weights_of(inputs.fine_tuned_model, context)
    question = ModelQuestions(
        base, weights, inputs.device, inputs.dtype, inputs.engine, inputs.task, inputs.general
    )
    return {**question.ask(context, attempt), "scores": scores_in(attempt.payload)}


STAGE = Stage(
    PRODUCTION_EVALUATION,
    reads=(*asked.READS, BASE_EVALUATION),
    fields=asked.FIELDS,
    inputs=inputs,
    build=build,
    asks=("production",),
    programs=("evaluation",),
)
