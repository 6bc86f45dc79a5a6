"""Asks the base model every question, so that the tuned model is judged against it question by question.

General scores are shared by all variants of the base; the score on a tenant's own task stays with the tenant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from ft_dagster import stage_entries
from ft_dagster.evaluation.models.arithmetic import Dtype
from ft_dagster.evaluation.own_checks import FIGURE, OwnChecks
from ft_dagster.gate.refused_metrics import check_metrics
from ft_dagster.gate.samples import read_aggregates, read_samples, write_samples, write_scores
from ft_dagster.model_files.weights import declared_ends
from ft_dagster.stage_entries import BASE_EVALUATION, BASE_MODEL, TRAINING_MIXTURE
from ft_dagster.stages import ancestry
from ft_dagster.stages.unsaid_tokens import refuse_said_tokens
from ft_dagster.store import SHARED, Artifact, Attempt
from ft_dagster.workspace import questions
from ft_dagster.workspace.answer_engine import Engine
from ft_dagster.workspace.build_context import BuildContext
from ft_dagster.workspace.input_view import View
from ft_dagster.workspace.keyed_inputs import Derived, Host, derived, recorded
from ft_dagster.workspace.model_files import base_of
from ft_dagster.workspace.questions import ModelQuestions, scores_in
from ft_dagster.workspace.stage import Owner, Stage
from ft_dagster.workspace.workspace import Workspace

CHOSE_AMONG_ADDED = "general questions were asked of the base with the tokens that were added to it"


@dataclass(frozen=True)
class GeneralScoresInputs:
    """Names the inputs of the general scores. `device`, `dtype`, `engine`: what the model is asked on, in and
    by. `withheld`: rows of tokens that were added to the base, among which it does not choose here: its
    scores are those of the base without them, since no question has one. `ends`: tokens at which the base
    declares that an answer ends.
    """

    base_model: Artifact
    general: questions.General
    device: Host[str]
    dtype: Host[Dtype]
    engine: Engine
    withheld: Annotated[list[int] | None, derived(CHOSE_AMONG_ADDED)] = None
    ends: Derived[list[int] | None] = None


def general_inputs(view: View) -> GeneralScoresInputs:
    base = view.upstream(BASE_MODEL.name)
    added = [] if base.place.prefix == SHARED else view.added_token_ids(base)
    general = ancestry.general(view)
    ends = view.by_bytes(lambda: sorted(set(declared_ends(view.base_folder(base)))) or None)
    return GeneralScoresInputs(base, general, view.device, view.dtype, view.engine, added or None, ends)


def build_general(inputs: GeneralScoresInputs, context: BuildContext, attempt: Attempt) -> dict[str, object]:
    base = base_of(inputs.base_model, context)
    question = ModelQuestions(
        base, None, inputs.device, inputs.dtype, inputs.engine, general=inputs.general,
        withheld=tuple(inputs.withheld or ()),
    )  # fmt: skip
    figures = question.ask(context, attempt)
    return {**figures, "scores": scores_in(attempt.payload)}


def owner(inputs: GeneralScoresInputs) -> Owner:
    """Return the owner: a tenant's own base is nobody else's."""
    return "shared" if inputs.base_model.place.prefix == SHARED else "variant"


@dataclass(frozen=True)
class BaseEvaluationInputs:
    """Names the inputs of the base's scores. `chat`: see `questions.chat_of`. `called`: see
    `questions.own_checks`.
    """

    base_model: Artifact
    general_scores: Artifact
    task: questions.OwnTask
    device: Host[str]
    dtype: Host[Dtype]
    engine: Engine
    chat: Annotated[dict[str, Any] | None, derived(questions.OTHER_CHAT)] = None
    called: OwnChecks = recorded(default_factory=dict)


def inputs(view: View) -> BaseEvaluationInputs:
    base, general, task = view.upstream(BASE_MODEL.name), view.made(GENERAL_SCORES), ancestry.own_task(view)
    chat = questions.chat_of(general)
    own = view.unlooked(lambda: questions.own_checks(view, view.spec.evaluation))
    return BaseEvaluationInputs(base, general, task, view.device, view.dtype, view.engine, chat, own)


def build(inputs: BaseEvaluationInputs, context: BuildContext, attempt: Attempt) -> dict[str, object]:
    base = base_of(inputs.base_model, context)
    question = ModelQuestions(base, None, inputs.device, inputs.dtype, inputs.engine, task=inputs.task)
    figures = question.ask(context, attempt)
    payload = attempt.payload
    samples = read_samples(context.payload(inputs.general_scores)) + read_samples(payload)
    write_samples(samples, payload)
    write_scores(samples, payload, read_aggregates(payload))
    return {**figures, "scores": scores_in(payload), **({FIGURE: inputs.called} if inputs.called else {})}


def refuse(workspace: Workspace) -> None:
    """Raises UserError where a token that was added to the base stands in a general question or text."""
    refuse_said_tokens(workspace, workspace.upstream(TRAINING_MIXTURE.name))


def after(workspace: Workspace, artifact: Artifact) -> None:
    """Raises UserError where the declared gates name metrics that nothing measures."""
    samples = read_samples(workspace.payload(artifact))
    check_metrics(samples, workspace.spec.gates, workspace.declared_in)


GENERAL_SCORES = Stage(
    stage_entries.GENERAL_SCORES,
    reads=questions.READS,
    fields=questions.FIELDS,
    inputs=general_inputs,
    build=build_general,
    owner=owner,
    programs=("evaluation",),
)
STAGE = Stage(
    BASE_EVALUATION,
    reads=(*questions.READS, stage_entries.GENERAL_SCORES),
    fields=questions.FIELDS,
    inputs=inputs,
    build=build,
    asks=("part_of_reserve",),
    refuse=refuse,
    after=after,
    programs=("evaluation",),
)
