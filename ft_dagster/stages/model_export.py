"""Exports the model to serve: the adapter in PEFT's layout, or a merged plain model with its adapter inside.

Made only for weights whose recorded evaluation passes the gate, judged again here.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from ft_dagster.data.mixture.probes import probe_prompts
from ft_dagster.data.rendering.chat_form import options_of
from ft_dagster.errors import UserError
from ft_dagster.evaluation.measured_digests import base_digest
from ft_dagster.evaluation.models.arithmetic import Dtype
from ft_dagster.evaluation.own_checks import OwnChecks
from ft_dagster.evaluation.refusal_prompts import RefusalPrompt, write_prompts
from ft_dagster.evaluation.request import BaseFiles, TunedWeights
from ft_dagster.export.request import Card, ExportBase, ExportRequest, MadeFrom, Source
from ft_dagster.gate.judged_by import Opponent, with_largest
from ft_dagster.gate.memorization.memorization import memorization_lines
from ft_dagster.gate.prompted import Prompted, prompted_sentences
from ft_dagster.gate.refusals.refusals import Answered, paired, read_answered, read_pairs, write_pairs
from ft_dagster.gate.samples import OWN
from ft_dagster.lineage.certificate import Certificate
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.provenance.code import source_digest
from ft_dagster.provenance.digest import hash_folder, payload_digest
from ft_dagster.report.sentences.ancestors import FIGURE as ANCESTORS
from ft_dagster.report.sentences.ancestors import ancestor_lines
from ft_dagster.spec import VariantSpec
from ft_dagster.spec.narrow import narrowed
from ft_dagster.stage_entries import (
    BASE_EVALUATION,
    BASE_MODEL,
    EVALUATION,
    FINE_TUNED_MODEL,
    GENERAL_CORPUS,
    MODEL_EXPORT,
    REFUSALS,
    TASK_DATASET,
    TRAINING_MIXTURE,
    TRAINING_PLAN,
)
from ft_dagster.stages import ancestry
from ft_dagster.stages.evaluation import JUDGED, Judging, rules_of, tries_of, verdict_on
from ft_dagster.stages.judging.declared_now import refuse_unjudged
from ft_dagster.stages.judging.verdicts import certificate_of, own_verdict, rejudge
from ft_dagster.stages.refusals import PromptsToRefuse
from ft_dagster.store import Artifact, Attempt
from ft_dagster.training.training_figures import TrainingFigures
from ft_dagster.workspace import questions
from ft_dagster.workspace.answer_engine import Engine
from ft_dagster.workspace.build_context import BuildContext
from ft_dagster.workspace.input_view import View
from ft_dagster.workspace.keyed_inputs import Derived, File, Host, derived, recorded
from ft_dagster.workspace.model_files import base_of
from ft_dagster.workspace.policy import refuse_frozen
from ft_dagster.workspace.questions import Decides, ModelQuestions, check_measured
from ft_dagster.workspace.stage import Check, Stage
from ft_dagster.workspace.workspace import Workspace, refuse_experiment

PROBES = 8
GATES = frozenset(("judged_by", "rules"))  # what of the key they are in
DESCRIBED = ("export", "description", "owners", "objective", "data.sources", "data.general")


@dataclass(frozen=True)
class ExportInputs:
    """Names the inputs. `task`, `general`, `device`, `dtype`, `chat` (see `questions.chat_of`): how weights
    that drifted from what was judged are asked again; `rules` (see `gates.later_rules`): the rules whose
    decision ends the asking, where it goes batch after batch. `corpus`: the digest of the general text in
    their mixture. `called`: see `questions.own_checks`. `with_examples`: sentences for the card.
    """

    spec: VariantSpec
    base_model: Artifact
    task_dataset: Artifact
    training_plan: Artifact
    fine_tuned_model: Artifact
    base_evaluation: Artifact
    evaluation: Artifact
    judged_by: VariantSpec
    task: questions.OwnTask
    general: questions.General
    device: Host[str]
    dtype: Host[Dtype]
    engine: Engine
    chat: Annotated[dict[str, Any] | None, derived(questions.OTHER_CHAT)] = None
    rules: Derived[dict[str, int] | None] = None
    corpus: str | None = recorded(default=None)
    called: OwnChecks = recorded(default_factory=dict)
    with_examples: tuple[str, ...] = recorded(default=())


def inputs(view: View) -> ExportInputs:
    tuned, evaluation = view.upstream(FINE_TUNED_MODEL.name), view.upstream(EVALUATION.name)
    before = view.upstream(BASE_EVALUATION.name)
    view.unlooked(lambda: _refuse_failing(view, tuned, evaluation, before))
    mixture = view.upstream(TRAINING_MIXTURE.name)
    in_batches = view.spec.evaluation.limit == "auto"
    return ExportInputs(
        narrowed(view.spec, DESCRIBED),
        view.upstream(BASE_MODEL.name),
        view.upstream(TASK_DATASET.name),
        view.upstream(TRAINING_PLAN.name),
        tuned,
        before,
        evaluation,
        narrowed(view.spec, JUDGED),
        ancestry.own_task(view),
        ancestry.general(view),
        view.device,
        view.dtype,
        view.engine_of(evaluation),
        questions.chat_of(before),
        view.by_bytes(lambda: rules_of(view, before)) if in_batches else None,
        mixture.inputs.get(GENERAL_CORPUS.name)
        if mixture.digest == tuned.inputs.get(TRAINING_MIXTURE.name)
        else None,
        view.unlooked(lambda: questions.own_checks(view, view.spec.evaluation)),
        view.unlooked(lambda: _with_examples(view)),
    )


def _with_examples(view: View) -> tuple[str, ...]:
    """Say what the base reaches with examples in its prompt, where it was asked so."""
    base, dataset = view.upstream(BASE_MODEL.name), view.upstream(TASK_DATASET.name)
    found = (Prompted.from_json(each.figures) for each in view.past.with_examples(base, dataset))
    return tuple(line for each in found for line in prompted_sentences(each))


def _refuse_failing(view: View, tuned: Artifact, evaluation: Artifact, before: Artifact) -> None:
    """Raises UserError where the weights do not pass, judged again by what the store has of their answers."""
    verdict = rejudge(view, view.spec, tuned, evaluation, before)
    if not verdict.passed:
        raise UserError(
            f"the gate does not hold for weights {tuned.digest[:12]}: {verdict.failures}",
            fix="Train again with other data or settings, or change the gates and evaluate again",
        )


def build(inputs: ExportInputs, context: BuildContext, attempt: Attempt) -> dict[str, object]:
    figures = context.run("export", attempt, lambda output: _request(inputs, context, output))
    base = base_digest(context.base_files(inputs.base_model))
    check_measured(figures, {"weights": inputs.fine_tuned_model.digest, "base": base})
    if not figures["certified"]:
        _judge_itself(inputs, context, attempt)
    return figures


def _request(inputs: ExportInputs, context: BuildContext, output: Path) -> ExportRequest:
    """Return the export program's run.json. Its probes are prompts of the variant's own rows."""
    base, tuned, files = inputs.base_model, inputs.fine_tuned_model, base_of(inputs.base_model, context)
    named = base.spec["base"]
    return ExportRequest.model_validate(
        {
            "schema_version": 1,
            "base": ExportBase(
                **dict(files),
                digest=base.digest,
                reference=named["reference"],
                revision=named["revision"],
            ),
            "weights": context.payload(tuned),
            "weights_digest": tuned.digest,
            "format": inputs.spec.export.format,
            "card": _card(inputs, context, str(named["reference"])),
            "probes": probe_prompts(
                context.payload(inputs.task_dataset),
                files.folder,
                PROBES,
                exchange=inputs.task.rendering is not None,
                options=options_of(inputs.task.spec.data),
            ),
            "device": inputs.device,
            "output": output,
        }
    )


def _card(inputs: ExportInputs, context: BuildContext, reference: str) -> Card:
    spec, plan, tuned = inputs.spec, inputs.training_plan.figures, inputs.fine_tuned_model
    return Card(
        variant=context.variant,
        description=spec.description,
        owners=spec.owners,
        base_model=reference,
        objective=spec.objective,
        method=plan["method"],
        training=plan["training"],
        figures=TrainingFigures.of(tuned),
        verdict=_verdict(inputs, context, context.payload(inputs.evaluation)),
        sources=tuple(Source(path=source.path, licence=source.licence) for source in spec.data.sources),
        general=None if spec.data.general is None else spec.data.general.name,
        weights=tuned.digest,
        evaluation=inputs.evaluation.digest,
        made=_made(inputs, context),
        with_examples=inputs.with_examples,
        memorization=tuple(memorization_lines(inputs.evaluation.figures)),
        ancestors=tuple(ancestor_lines(inputs.evaluation.figures.get(ANCESTORS, ()))),
    )


def _made(inputs: ExportInputs, context: BuildContext) -> MadeFrom:
    return MadeFrom(
        dataset=inputs.task_dataset.digest,
        rows=inputs.task_dataset.figures["rows"],
        mixture=inputs.fine_tuned_model.inputs[TRAINING_MIXTURE.name],
        plan=inputs.training_plan.digest,
        corpus=inputs.corpus,
        run=context.run_id,
        code=source_digest(),
        day=datetime.now(UTC).date().isoformat(),
    )


def _verdict(inputs: ExportInputs, context: BuildContext, payload: Path) -> Verdict:
    return verdict_on(
        inputs.judged_by,
        inputs.task.spec.evaluation,
        context.payload(inputs.base_evaluation),
        payload,
        declared_in=context.declared_in,
        judging=Judging.of(inputs.evaluation, inputs.called),
    )


def _judge_itself(inputs: ExportInputs, context: BuildContext, attempt: Attempt) -> None:
    """Evaluate a merge that drifted from what was judged. Raises UserError where that is no pass."""
    context.say("the certificate does not hold: the merged weights are evaluated by themselves")
    folder, base = attempt.evidence / OWN, base_of(inputs.base_model, context)
    merged = TunedWeights(folder=attempt.payload, digest=payload_digest(hash_folder(attempt.payload)))
    judged_by, rules = inputs.judged_by, inputs.evaluation.spec.get("rules")
    gates, objective = with_largest(judged_by.gates, rules), judged_by.objective
    decides = Decides(inputs.base_evaluation, gates, tries_of(inputs.evaluation), Opponent(objective))
    question = ModelQuestions(
        base, merged, inputs.device, inputs.dtype, inputs.engine, inputs.task, inputs.general, decides
    )
    question.ask(context, attempt, into=folder)
    if inputs.judged_by.gates.refusals is not None:
        _ask_refusals(inputs, context, attempt, base, merged)
    verdict = _verdict(inputs, context, folder / "payload")
    if not verdict.passed:
        certificate = Certificate.read(attempt.evidence / "certificate.json")
        raise UserError(
            f"the certificate does not hold ({'; '.join(certificate.failures)}), and the merged weights, "
            f"evaluated by themselves, do not pass: {verdict.failures}",
            field="export.format",
            value=inputs.spec.export.format,
            fix="Declare `export: adapter`, which is served exactly as judged",
        )


def _ask_refusals(
    inputs: ExportInputs, context: BuildContext, attempt: Attempt, base: BaseFiles, merged: TunedWeights
) -> None:
    """Ask the merge what the judged weights were asked to refuse, and keep its answers beside the base's."""
    judged = read_pairs(context.payload(inputs.evaluation))
    folder, own = attempt.evidence / REFUSALS.name, attempt.evidence / OWN / "payload"
    folder.mkdir(parents=True, exist_ok=True)
    prompts = folder / "prompts.jsonl"
    write_prompts([RefusalPrompt(*pair[:4]) for pair in judged], prompts)
    asked = PromptsToRefuse(base, merged, File.of(prompts), inputs.device, inputs.dtype, inputs.engine)
    asked.ask(context, attempt, into=folder)
    before = [Answered(*pair[:6]) for pair in judged]
    write_pairs(paired(before, read_answered(folder / "payload")), own)


def judge(workspace: Workspace, artifact: Artifact) -> list[Check]:
    certificate = certificate_of(workspace, artifact)
    figures = certificate.to_json()["figures"]
    if certificate.passed:
        said = ", ".join(f"{name} {value:.3g}" for name, value in certificate.figures.items())
        return [Check("certificate", True, said, figures)]
    own = own_verdict(workspace, artifact, workspace.upstream(EVALUATION.name))
    passed = own is not None and own.passed
    said = f"{'; '.join(certificate.failures)}: evaluated by itself"
    said = f"{said}, it passes" if passed else f"{said}: no pass"
    return [Check("certificate", passed, said, figures)]


def refuse_export(workspace: Workspace) -> None:
    """Raises UserError for an experiment, for what passes below the floors of today's policy, and unless the
    newest evaluation is the one that today's declaration demands.
    """
    refuse_experiment(workspace)
    refuse_frozen(workspace)
    refuse_unjudged(workspace)


def stands(newest: Artifact, others: Collection[str]) -> bool:
    """Say whether only the gates changed, which shape no byte of an export. They shape how much was asked of
    one that had to be evaluated by itself, where that was batch after batch.
    """
    in_batches = newest.spec["task.spec"]["evaluation"].get("limit") == "auto"
    return GATES.issuperset(others) and (newest.figures["certified"] or not in_batches)


STAGE = Stage(
    MODEL_EXPORT,
    reads=(*questions.READS, TRAINING_PLAN, FINE_TUNED_MODEL, BASE_EVALUATION, EVALUATION),
    fields=(*questions.FIELDS, *JUDGED, *DESCRIBED),
    inputs=inputs,
    build=build,
    checks={"certificate": "The export, reloaded from disk, behaves as the weights that were judged"},
    judge=judge,
    refuse=refuse_export,
    stands=stands,
    asks=("with_examples", "part_of_reserve"),
    programs=("export", "evaluation"),
)
