"""Asks released weights today's questions, so that a new version is held against them on those.

Made for a release where its opponent, the version in production or the reference, was asked other questions.
One artifact whichever of them it is: its key has the weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

from ft_dagster.errors import UserError
from ft_dagster.evaluation.models.arithmetic import Dtype
from ft_dagster.lineage.graph import PLACES
from ft_dagster.stage_entries import BASE_EVALUATION, PRODUCTION_EVALUATION
from ft_dagster.stages import ancestry
from ft_dagster.store import Artifact, Attempt
from ft_dagster.workspace import questions
from ft_dagster.workspace.answer_engine import Engine
from ft_dagster.workspace.build_context import BuildContext
from ft_dagster.workspace.input_view import View
from ft_dagster.workspace.keyed_inputs import Host, derived
from ft_dagster.workspace.model_files import base_of, weights_of
from ft_dagster.workspace.past import Released
from ft_dagster.workspace.questions import ModelQuestions, scores_in
from ft_dagster.workspace.rendered_prompts import RENDERING
from ft_dagster.workspace.stage import Stage


@dataclass(frozen=True)
class ProductionInputs:
    """Names the inputs. `base_model`, `fine_tuned_model`: of the version that is asked, and so is `chat`, see
    `questions.chat_of_base`; the questions are today's, rendered as that version was trained. `task`: None of
    another variant's version.
    """

    base_model: Artifact
    fine_tuned_model: Artifact
    task: questions.OwnTask | None
    general: questions.General
    device: Host[str]
    dtype: Host[Dtype]
    engine: Engine
    chat: Annotated[dict[str, Any] | None, derived(questions.OTHER_CHAT)] = None


def inputs(view: View, release: Released | None = None) -> ProductionInputs:
    """Return what is asked of a `release`, None: the one in production. Raises UserError where nothing is,
    and ProductionGone where it can no longer be asked.
    """
    production = view.past.production(release)
    base, tuned, export = production.base_model, production.fine_tuned_model, production.model_export
    try:
        view.verify(tuned)
        view.unlooked(lambda: view.base_folder(base))
    except UserError as error:
        raise production.gone(str(error)) from None
    task, overlap = None, ancestry.overlap_of(view)
    if release is None or release.prefix == view.key.prefix:
        # What it repeats of today's training rows is no question of its own.
        rendering = export.spec.get(f"task.{RENDERING}")
        task = questions.unprobed(questions.own_task_of(view, base, rendering, overlap))
    general, rules = (
        questions.general(view, overlap),
        view.by_bytes(lambda: questions.chat_of_base(view, base, view.upstream(BASE_EVALUATION.name))),
    )
    return ProductionInputs(base, tuned, task, general, view.device, view.dtype, view.engine, rules)


def build(inputs: ProductionInputs, context: BuildContext, attempt: Attempt) -> dict[str, object]:
    context.say("a released version is asked today's questions")
    base, weights = base_of(inputs.base_model, context), weights_of(inputs.fine_tuned_model, context)
    question = ModelQuestions(
        base, weights, inputs.device, inputs.dtype, inputs.engine, inputs.task, inputs.general
    )
    places = {each.place.stage: [each.place.prefix, each.place.key]
              for each in (inputs.base_model, inputs.fine_tuned_model) if inputs.task is None}  # fmt: skip
    of_another = {PLACES: places} if places else {}
    return {**question.ask(context, attempt), "scores": scores_in(attempt.payload), **of_another}


STAGE = Stage(
    PRODUCTION_EVALUATION,
    reads=(*questions.READS, BASE_EVALUATION),
    fields=questions.FIELDS,
    inputs=inputs,
    build=build,
    asks=("production", "part_of_reserve"),
    programs=("evaluation",),
)


def asking(release: Released) -> Stage[ProductionInputs]:
    """Return the stage that asks this release."""
    return replace(STAGE, inputs=lambda view: inputs(view, release))
