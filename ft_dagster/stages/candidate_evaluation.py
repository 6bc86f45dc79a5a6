"""Asks new weights more of today's questions, until each rule against an opponent is decided: the version in
production, or the reference.

Made for a release where questions are asked batch after batch (`evaluation.limit: auto`), and those that
decided the rules against the base do not decide the ones against the opponent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

from ft_dagster.evaluation.models.arithmetic import Dtype
from ft_dagster.gate.judged_by import Opponent, later_rules, with_largest
from ft_dagster.objectives import DEFAULT
from ft_dagster.spec import VariantSpec
from ft_dagster.spec.narrow import narrowed
from ft_dagster.stage_entries import (
    BASE_EVALUATION,
    BASE_MODEL,
    CANDIDATE_EVALUATION,
    FINE_TUNED_MODEL,
    PRODUCTION_EVALUATION,
    TASK_DATASET,
)
from ft_dagster.stages import ancestry, production_evaluation
from ft_dagster.stages.asking.judged_as import judged_as
from ft_dagster.store import Artifact, Attempt
from ft_dagster.workspace import questions
from ft_dagster.workspace.answer_engine import Engine
from ft_dagster.workspace.build_context import BuildContext
from ft_dagster.workspace.input_view import View
from ft_dagster.workspace.keyed_inputs import Derived, Host, derived
from ft_dagster.workspace.known_groups import largest_group
from ft_dagster.workspace.model_files import base_of, weights_of
from ft_dagster.workspace.past import Released
from ft_dagster.workspace.questions import Decides, ModelQuestions, questions_digest, scores_in
from ft_dagster.workspace.stage import Stage


@dataclass(frozen=True)
class CandidateInputs:
    """Names the inputs. `tries`: see `EvaluationInputs`; the same questions are no try of their own.
    `chat`: see `questions.chat_of`. `rules`: see `gates.later_rules`; None where none acts. `task`: None
    against another variant's version. `release`: of which number after the reference it would be; None
    against production.
    """

    base_model: Artifact
    fine_tuned_model: Artifact
    production_evaluation: Artifact
    spec: VariantSpec
    task: questions.OwnTask | None
    general: questions.General
    device: Host[str]
    dtype: Host[Dtype]
    engine: Engine
    tries: Derived[int]
    chat: Annotated[dict[str, Any] | None, derived(questions.OTHER_CHAT)] = None
    rules: Derived[dict[str, int] | None] = None
    release: Derived[int | None] = None


def inputs(view: View, opponent: Released | None = None, release: int | None = None) -> CandidateInputs:
    """Return what is asked on: against the `opponent`, None: the version in production. `release`: see
    `CandidateInputs`.
    """
    tuned, task, general = (
        view.upstream(FINE_TUNED_MODEL.name),
        ancestry.own_task(view),
        ancestry.general(view),
    )
    before, spec = view.upstream(BASE_EVALUATION.name), narrowed(view.spec, ("gates",))
    judged = view.unlooked(lambda: judged_as(view, before, tuned))
    if release is None:  # which none of the reference's fields decides
        spec = spec.model_copy(update={"gates": spec.gates.without_reference})
    asked = production_evaluation.STAGE if opponent is None else production_evaluation.asking(opponent)
    whole = opponent is None or opponent.prefix == view.key.prefix
    return CandidateInputs(
        view.upstream(BASE_MODEL.name),
        tuned,
        view.made(asked),
        spec,
        questions.unprobed(task) if whole else None,  # what it repeats was probed by its evaluation
        general,
        view.device,
        view.dtype,
        view.engine,
        view.by_bytes(lambda: view.past.tries(tuned, questions_digest(task, general), judged)),
        questions.chat_of(before),
        view.by_bytes(lambda: _rules(view, before)),
        release,
    )


def _rules(view: View, before: Artifact) -> dict[str, int] | None:
    spec = view.spec
    largest = largest_group(view, view.upstream(TASK_DATASET.name), spec.evaluation, spec.gates)
    return later_rules(spec.gates, DEFAULT, before.figures["scores"], largest) or None


def build(inputs: CandidateInputs, context: BuildContext, attempt: Attempt) -> dict[str, object]:
    context.say("the new weights are asked on, until they are told from a version before")
    base, weights = base_of(inputs.base_model, context), weights_of(inputs.fine_tuned_model, context)
    judges = Opponent(against="production")
    if inputs.release is not None:
        judges = Opponent(against="reference", release=inputs.release)
    gates = with_largest(inputs.spec.gates, inputs.rules)
    decides = Decides(inputs.production_evaluation, gates, inputs.tries, judges)
    question = ModelQuestions(
        base, weights, inputs.device, inputs.dtype, inputs.engine, inputs.task, inputs.general, decides
    )
    return {**question.ask(context, attempt), "scores": scores_in(attempt.payload)}


STAGE = Stage(
    CANDIDATE_EVALUATION,
    reads=(*questions.READS, FINE_TUNED_MODEL, BASE_EVALUATION, PRODUCTION_EVALUATION),
    fields=(*questions.FIELDS, "gates"),
    inputs=inputs,
    build=build,
    asks=("tries", "held_against", "part_of_reserve"),
    programs=("evaluation",),
)


def asking(opponent: Released, release: int | None = None) -> Stage[CandidateInputs]:
    """Return the stage that asks new weights on against this release."""
    return replace(STAGE, inputs=lambda view: inputs(view, opponent, release))
