"""Asks the tuned model the same questions as its base, and records the verdict of the gate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from ft_dagster.data.rows.planted import FIGURE as PLANTED
from ft_dagster.errors import UserError
from ft_dagster.evaluation.models.arithmetic import Dtype
from ft_dagster.evaluation.own_checks import FIGURE, OwnChecks, as_called
from ft_dagster.gate.gates import (
    TooFewQuestions,
    gates_digest,
    judge,
    later_rules,
    refusal_rules,
    with_rules,
)
from ft_dagster.gate.judged_by import Opponent, with_largest
from ft_dagster.gate.level import level_of
from ft_dagster.gate.memorization.membership_rules import NAME as MEMBERSHIP
from ft_dagster.gate.memorization.membership_rules import membership_of
from ft_dagster.gate.memorization.platform_canaries import NAME as PLATFORM
from ft_dagster.gate.memorization.platform_canaries import platform_canaries
from ft_dagster.gate.memorization.regurgitation_rules import with_probed
from ft_dagster.gate.refusals.refusals import FIGURE as REFUSALS_FIGURE
from ft_dagster.gate.refusals.refusals import FILE as REFUSALS_FILE
from ft_dagster.gate.refusals.refusals import (
    BeforeAfter,
    Terms,
    figures_of,
    paired,
    read_answered,
    read_pairs,
    samples_of,
    with_refusals,
    write_pairs,
)
from ft_dagster.gate.samples import RESERVED, read_samples
from ft_dagster.gate.sequential_looks import Order
from ft_dagster.gate.verdict_words import verdict_sentence
from ft_dagster.lineage.reserves import Reserve
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.planning.looks_left import RESERVE, asked_of_reserve
from ft_dagster.report.sentences.ancestors import FIGURE as ANCESTORS
from ft_dagster.report.sentences.ancestors import ancestor_lines
from ft_dagster.spec import VariantSpec
from ft_dagster.spec.narrow import narrowed
from ft_dagster.spec.policy import Policy
from ft_dagster.spec.variant import EvaluationSpec
from ft_dagster.stage_entries import (
    ANCESTOR_OVERLAP,
    ANSWERS_OF,
    BASE_EVALUATION,
    BASE_MODEL,
    BASE_REFUSALS,
    EVALUATION,
    FINE_TUNED_MODEL,
    REFUSALS,
    TASK_DATASET,
    TRAINING_MIXTURE,
)
from ft_dagster.stages import ancestry, base_evaluation, refusals
from ft_dagster.stages.asking.judged_as import OTHER_TRY, judged_as
from ft_dagster.stages.asking.prompted_in_run import ask_after_evaluation
from ft_dagster.stages.asking.train_test_overlap import refuse_trained_on
from ft_dagster.stages.unsaid_tokens import refuse_said_tokens
from ft_dagster.store import Artifact, Attempt
from ft_dagster.workspace import questions
from ft_dagster.workspace.answer_engine import Engine
from ft_dagster.workspace.build_context import BuildContext
from ft_dagster.workspace.input_view import View
from ft_dagster.workspace.keyed_inputs import Digest, Host, KeyParts, derived, key_parts, recorded
from ft_dagster.workspace.known_groups import largest_group
from ft_dagster.workspace.model_files import base_of, weights_of
from ft_dagster.workspace.policy import refuse_frozen
from ft_dagster.workspace.questions import (
    Decides,
    ModelQuestions,
    questions_digest,
    scores_in,
    take_over,
)
from ft_dagster.workspace.stage import Check, Stage
from ft_dagster.workspace.workspace import Workspace

VERDICT = "verdict.json"
POLICY = "policy.json"
JUDGED = ("objective", "gates")
# Of the key: by what answers are judged, and those that are beside them.
JUDGING = (
    *("gates", "spec", "own", "rules", "probed", "tries", ANCESTOR_OVERLAP.name),
    *(BASE_REFUSALS.name, REFUSALS.name, "refused"),
)


@dataclass(frozen=True)
class EvaluationInputs:
    """Names the inputs. `gates`: digest of the declared gates. `spec`: the fields by which answers are
    judged. `tries`: the ordinal of this evaluation among those of the variant since its last release; None in
    an experiment, whose answers judge nothing. `chat`: see `questions.chat_of`. `own`: see `own_tasks`,
    `rules`: see `gates.later_rules`; None without any. `probed`: see `Policy.least_probed`.
    `base_refusal_answers`, `refusal_answers`: of base and tuned model, where they are judged; `refused`: see
    `refusals.Terms`. `policy`: today's, kept beside the verdict; release and export hold the declaration
    against theirs. `called`: see `questions.own_checks`. `canaries`: those of the platform's that the mixture
    has. `judged`: see `judged_as`.
    `ancestor_overlap`: what of the questions an ancestor was trained on; None without ancestors.
    """

    base_model: Artifact
    fine_tuned_model: Artifact
    base_evaluation: Artifact
    gates: Digest
    spec: VariantSpec
    task: questions.OwnTask
    general: questions.General
    device: Host[str]
    dtype: Host[Dtype]
    engine: Engine
    tries: Annotated[int | None, derived(OTHER_TRY)]
    chat: Annotated[dict[str, Any] | None, derived(questions.OTHER_CHAT)]
    own: Annotated[tuple[str, ...] | None, derived("{stage} took other tasks for the tenant's own choice")]
    rules: Host[dict[str, int] | None]  # by this version: who upgrades is told by `upgrade --plan` alone
    probed: Annotated[int | None, derived("{stage} was judged by another least number of probed rows")]
    base_refusal_answers: Artifact | None
    refusal_answers: Artifact | None
    refused: Annotated[dict[str, Any] | None, derived("{stage} judged refusals by another policy")]
    policy: Policy = recorded()
    called: OwnChecks = recorded(default_factory=dict)
    canaries: dict[str, Any] | None = recorded(default=None)
    judged: dict[str, str] = recorded(default_factory=dict)
    ancestor_overlap: Artifact | None = None


def inputs(view: View) -> EvaluationInputs:
    tuned, task, general = (
        view.upstream(FINE_TUNED_MODEL.name),
        ancestry.own_task(view),
        ancestry.general(view),
    )
    before = view.upstream(BASE_EVALUATION.name)
    refused = view.spec.gates.refusals is not None and not view.choosing
    judged = view.unlooked(lambda: judged_as(view, before, tuned))
    return EvaluationInputs(
        view.upstream(BASE_MODEL.name),
        tuned,
        before,
        Digest(gates_digest(view.spec.gates)),
        narrowed(view.spec, JUDGED),
        task,
        general,
        view.device,
        view.dtype,
        view.engine,
        None
        if view.choosing
        else view.by_bytes(lambda: view.past.tries(tuned, questions_digest(task, general), judged)),
        questions.chat_of(before),
        view.by_bytes(lambda: own_tasks(view) or None),
        view.by_bytes(lambda: rules_of(view, before)),
        view.by_bytes(lambda: view.policy.least_probed),
        view.made(refusals.OF_BASE) if refused else None,
        view.made(refusals.STAGE) if refused else None,
        view.by_bytes(lambda: terms_of(view.policy).to_json()) if refused else None,
        view.unlooked(lambda: view.policy),
        view.unlooked(lambda: questions.own_checks(view, view.spec.evaluation)),
        None
        if view.choosing
        else view.unlooked(lambda: view.upstream(TRAINING_MIXTURE.name).figures.get(PLANTED)),
        judged,
        ancestry.overlap_of(view),
    )


def rules_of(view: View, before: Artifact) -> dict[str, int] | None:
    """See `gates.later_rules`; `before`: the base's evaluation. None where no such rule acts."""
    spec = view.spec
    largest = largest_group(view, view.upstream(TASK_DATASET.name), spec.evaluation, spec.gates)
    return later_rules(spec.gates, spec.objective, before.figures["scores"], largest) or None


def terms_of(policy: Policy) -> Terms:
    """Return what a policy says of refusals."""
    return Terms(policy.gates.refusals == "required", policy.gates.refusal_phrases)


def own_tasks(view: View) -> tuple[str, ...]:
    """Return the sorted names of the tasks that the tenant chose beside those that everybody is asked:
    benchmarks that the policy does not list, and the tasks of `evaluation.task` where there are several.
    """
    asked_of, listed = view.spec.evaluation, view.policy.evaluation.general
    everybodys = set[str]() if isinstance(listed, str) else {*listed} & {*asked_of.general}
    chosen = {*asked_of.general, *(asked_of.task if len(asked_of.task) > 1 else ())} - everybodys
    names = view.task_names(sorted(everybodys | chosen))
    return tuple(
        sorted({names[entry] for entry in chosen} - {names[entry] for entry in everybodys} - RESERVED)
    )


def own_of(evaluation: Artifact) -> tuple[str, ...]:
    """Return the tenant's own tasks of an evaluation, which are in its key."""
    return tuple(evaluation.spec.get("own", ()))


def tries_of(evaluation: Artifact) -> int:
    """Return which try an evaluation was, by its key; 1 in an experiment."""
    return int(evaluation.spec.get("tries", 1))


class Judging(NamedTuple):
    """Holds the terms by which answers are judged beside the declared gates, as `EvaluationInputs` has them:
    0 `probed` rows where the policy asks for none.
    """

    tries: int
    own: tuple[str, ...]
    probed: int
    called: OwnChecks
    rules: Mapping[str, int] | None
    refused: Terms

    @classmethod
    def of(cls, evaluation: Artifact, called: OwnChecks) -> Judging:
        """Return the rules of an evaluation, whose key has them but for the names that a tenant's checks are
        `called` by now.
        """
        probed = int(evaluation.spec.get("probed") or 0)
        terms = Terms.from_json(evaluation.spec.get("refused"))
        rules = evaluation.spec.get("rules")
        return cls(tries_of(evaluation), own_of(evaluation), probed, called, rules, terms)


def build(inputs: EvaluationInputs, context: BuildContext, attempt: Attempt) -> dict[str, object]:
    """Ask nobody where the weights answered these questions before and only the gates changed: the verdict is
    derived from those answers. Their bytes stay, with the verdict of that day among them; today's is in the
    figures, and in the evidence.
    """
    reserve, pairs = _recorded(inputs, context), _refusals(inputs, context)
    known = _answered_before(inputs, context, attempt, pairs)
    if known is not None:
        context.say("these weights answered these questions before: their answers are judged again")
        verdict, figures, folder = known.verdict, known.figures, attempt.evidence
    else:
        figures, folder = _ask(inputs, context, attempt), attempt.payload
        verdict = _verdict(inputs, context, attempt.payload, pairs)
    refused = _keep_refusals(inputs, attempt.payload, pairs)
    text = json.dumps(verdict.to_json(), indent=1, sort_keys=True)
    (folder / VERDICT).write_text(text, "utf-8")
    policy = inputs.policy
    (attempt.evidence / POLICY).write_text(policy.model_dump_json(indent=1), "utf-8")
    judged = replace(verdict, policy=policy.digest).to_json()
    named = {FIGURE: inputs.called} if inputs.called else {}
    dealt = {} if reserve is None else {RESERVE: reserve.words}
    kept = _memorization(inputs, context, attempt.payload)
    return {
        **_without_refusals(figures),
        "scores": scores_in(attempt.payload),
        "verdict": judged,
        **named,
        **dealt,
        **refused,
        **kept,
        **_trained_on(inputs),
    }


def _recorded(inputs: EvaluationInputs, context: BuildContext) -> Reserve | None:
    """Record the try; returns the set of the test split that is asked, where that is dealt into sets."""
    task, weights, number = inputs.task, inputs.fine_tuned_model, inputs.tries
    if number is None:
        return None
    asked, sets = questions_digest(task, inputs.general), task.spec.evaluation.reserve
    reserve, rows = context.record_try(weights, asked, number, inputs.judged, sets), task.test or task.others
    if reserve is None or rows is None or not reserve.fresh:
        return reserve
    return reserve._replace(fresh=not context.past.asked_before(weights, number, rows.path, reserve.dealt))


def _refusals(inputs: EvaluationInputs, context: BuildContext) -> Sequence[BeforeAfter] | None:
    """Return the answers of both models to what must be refused and what must not be, where they are
    judged.
    """
    both = (inputs.base_refusal_answers, inputs.refusal_answers)
    if both[0] is None or both[1] is None:
        return None
    return paired(*(read_answered(context.payload(each)) for each in both if each is not None))


def _keep_refusals(
    inputs: EvaluationInputs, payload: Path, pairs: Sequence[BeforeAfter] | None
) -> dict[str, Any]:
    """Keep the answers with the others, from which the verdict is derived again; returns what pages show of
    them.
    """
    declared = inputs.spec.gates.refusals
    if declared is None or pairs is None:
        (payload / REFUSALS_FILE).unlink(missing_ok=True)  # of those that were taken over
        return {}
    write_pairs(pairs, payload)
    return {REFUSALS_FIGURE: figures_of(pairs, declared, Terms.from_json(inputs.refused))}


def _without_refusals(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if name != REFUSALS_FIGURE}


def _memorization(inputs: EvaluationInputs, context: BuildContext, payload: Path) -> dict[str, Any]:
    """Return what the model kept of single rows, where that is asked: how well training rows are told from
    held-out ones, and the platform's canaries; None of what could not be asked.
    """
    told, planted = inputs.task.members is not None, inputs.canaries
    if not told and planted is None:
        return {}
    base, tuned = read_samples(context.payload(inputs.base_evaluation)), read_samples(payload)
    found: dict[str, Any] = {}
    if told:
        apart = membership_of(base, tuned, level_of(inputs.spec.gates.alpha, inputs.tries or 1))
        found[MEMBERSHIP] = None if apart is None else apart.to_json()
    if planted is not None:
        secrets = platform_canaries(base, tuned, planted["corpus"], planted["seen"])
        found[PLATFORM] = None if secrets is None else secrets.to_json()
    return found


def _trained_on(inputs: EvaluationInputs) -> dict[str, Any]:
    """Return what is said of the ancestors; nothing of a variant that starts from no release."""
    overlap = inputs.ancestor_overlap
    return {} if overlap is None else {ANCESTORS: overlap.figures["ancestors"]}


def _ask(inputs: EvaluationInputs, context: BuildContext, attempt: Attempt) -> dict[str, Any]:
    base, weights = base_of(inputs.base_model, context), weights_of(inputs.fine_tuned_model, context)
    gates, objective = with_largest(inputs.spec.gates, inputs.rules), inputs.spec.objective
    decides = Decides(inputs.base_evaluation, gates, inputs.tries or 1, Opponent(objective))
    question = ModelQuestions(
        base, weights, inputs.device, inputs.dtype, inputs.engine, inputs.task, inputs.general, decides
    )
    return question.ask(context, attempt)


class _Known(NamedTuple):
    """Answers that were given before: their verdict by today's gates, and the figures of the asking."""

    verdict: Verdict
    figures: dict[str, Any]


def _answered_before(
    inputs: EvaluationInputs,
    context: BuildContext,
    attempt: Attempt,
    pairs: Sequence[BeforeAfter] | None,
) -> _Known | None:
    """Takes over answers of these weights to these questions into the attempt. None where there are none, or
    asking ended by other gates before these decide anything.
    """
    wanted = _asking(key_parts(inputs))
    for stored in context.past.made_before(EVALUATION.name, lambda other: _asking(other) == wanted):
        folder = context.payload(stored).parent
        try:
            verdict = _verdict(inputs, context, folder / "payload", pairs)
        except TooFewQuestions:
            continue
        take_over(folder, stored, attempt)
        return _Known(verdict, {ANSWERS_OF: stored.place.key, **stored.figures})
    return None


def _asking(made_of: KeyParts | Artifact) -> tuple[dict[str, str], dict[str, Any]]:
    """Return all that a key covers but the rules that judge the answers."""
    inputs, spec = made_of.inputs, made_of.spec
    return (
        {name: digest for name, digest in inputs.items() if name not in JUDGING},
        {name: value for name, value in spec.items() if name not in JUDGING},
    )


def _verdict(
    inputs: EvaluationInputs, context: BuildContext, payload: Path, pairs: Sequence[BeforeAfter] | None
) -> Verdict:
    before, how = context.payload(inputs.base_evaluation), inputs.task.spec.evaluation
    return verdict_on(
        _of_experiment(inputs.spec) if inputs.task.choosing else inputs.spec,
        how,
        before,
        payload,
        declared_in=context.declared_in,
        judging=Judging(
            inputs.tries or 1,
            inputs.own or (),
            inputs.probed or 0,
            inputs.called,
            inputs.rules,
            Terms.from_json(inputs.refused),
        ),
        pairs=pairs,
    )


def _of_experiment(spec: VariantSpec) -> VariantSpec:
    """Return a declaration without the gates on what an experiment is not asked, since its winner is: what is
    kept of its rows, and what is refused.
    """
    unasked = dict.fromkeys(("max_regurgitation", "max_membership_auc", "refusals"))
    return spec.model_copy(update={"gates": spec.gates.model_copy(update=unasked)})


def verdict_on(
    spec: VariantSpec,
    how: EvaluationSpec,
    before: Path,
    payload: Path,
    *,
    declared_in: Path,
    judging: Judging,
    pairs: Sequence[BeforeAfter] | None = None,
) -> Verdict:
    """Judge a tuned model's stored samples against its base's (`before`), by the declared gates.

    `how`: they were asked. `pairs`: the answers on which refusals are judged; None: those in `payload`.
    """
    base, tuned = read_samples(before), read_samples(payload)
    order = Order.of(base, how.seed) if how.limit == "auto" else None
    verdict = judge(
        base,
        tuned,
        with_largest(spec.gates, judging.rules),
        objective=spec.objective,
        declared_in=declared_in,
        tries=judging.tries,
        order=order,
        own=judging.own,
    )
    if spec.gates.refusals is not None:
        pairs, terms = read_pairs(payload) if pairs is None else pairs, judging.refused
        rules = refusal_rules(*samples_of(pairs, terms.phrases), spec.gates, tries=judging.tries)
        verdict = with_rules(verdict, rules, spec.gates, judging.own)
        verdict = with_refusals(verdict, pairs, spec.gates.refusals, terms)
    verdict = with_probed(verdict, spec.gates, asked=how.probed_rows, least=judging.probed)
    return replace(verdict, rules=as_called(verdict.rules, judging.called))


def checks(workspace: Workspace, artifact: Artifact) -> list[Check]:
    verdict = Verdict.from_json(artifact.figures["verdict"])
    difference = artifact.figures["tuned_logit_difference"]
    said = ": ".join(filter(None, (verdict_sentence(verdict), verdict.failures)))
    said = "\n".join((said, *ancestor_lines(artifact.figures.get(ANCESTORS, ()))))
    outcomes = [rule.outcome for rule in verdict.rules]
    counts = {name: outcomes.count(name) for name in ("pass", "undecided", "fail")}
    figures = {"questions": artifact.figures["questions"], "try": verdict.tries, **counts}
    if dealt := artifact.figures.get(RESERVE):
        said += f"; {asked_of_reserve(artifact.figures)}"
        figures |= {"reserve_set": dealt["set"], "reserve_left": dealt["left"]}
        figures |= {"reserve_fresh": dealt.get("fresh", True)}
    acted = f"largest logit difference {difference:.3g}"
    return [
        Check("gate", verdict.passed, said, figures),
        Check("weights_act", difference > 0, acted, {"logit_difference": difference}),
    ]


def refuse_evaluation(workspace: Workspace) -> None:
    """Raises UserError where the frozen declaration passes below the floors of today's policy, where the
    weights may have been trained on what is asked, where new tokens stand in what is general of it, and where
    the base was asked otherwise than is declared: fewer examples before each question, say, and any tuned
    model would look better.
    """
    refuse_frozen(workspace)
    refuse_trained_on(workspace)
    refuse_said_tokens(workspace, workspace.upstream(TRAINING_MIXTURE.name))
    before = workspace.upstream(BASE_EVALUATION.name)
    if workspace.recipe(base_evaluation.STAGE)[0].place != before.place:
        raise UserError(
            "the base was asked otherwise than the tuned model would be",
            file=workspace.declared_in,
            field="evaluation",
            fix="Materialize base_evaluation, then evaluation",
        )


STAGE = Stage(
    EVALUATION,
    reads=(*questions.READS, FINE_TUNED_MODEL, BASE_EVALUATION, BASE_REFUSALS, REFUSALS),
    fields=(*questions.FIELDS, *JUDGED),
    inputs=inputs,
    build=build,
    asks=("tries", "held_against", "part_of_reserve", "asked_before", "made_before"),
    checks={
        "gate": "The task got better, and a fall of general ability beyond the margins is ruled out",
        "weights_act": "The training changed the base's logits",
    },
    judge=checks,
    refuse=refuse_evaluation,
    after=lambda workspace, artifact: ask_after_evaluation(workspace),
    programs=("evaluation",),
)
