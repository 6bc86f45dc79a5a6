"""Plans method, hyperparameters and layout, each with its reason; what it occupies and costs, and whether it
fits.

All methods are ranked. Prices, the variants on the base and what finished trainings taught are those of the
day it was planned: recorded in the estimate beside the plan, and in no key.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from ft_dagster.data.mixture.mixture_figures import MixtureFigures
from ft_dagster.errors import UserError
from ft_dagster.gate.refused_metrics import refuse_unlisted
from ft_dagster.launch.choice import refuse_lacking
from ft_dagster.lineage.graph import made_in
from ft_dagster.planning.context import base_facts_of, counts_of, facts_of, hardware_of
from ft_dagster.planning.cost.learned import Predicted
from ft_dagster.planning.estimate import Estimate
from ft_dagster.planning.judging import foresee_all
from ft_dagster.planning.packed_rows import counted_lengths
from ft_dagster.planning.plan import make_plan, refuse_unasked
from ft_dagster.planning.planned_method import PlanContext
from ft_dagster.planning.probe import leaves_open
from ft_dagster.report.tables.recommendation import memory_line, refusal_of
from ft_dagster.spec import VariantSpec
from ft_dagster.spec.formats import export_problem
from ft_dagster.spec.narrow import narrowed
from ft_dagster.stage_entries import (
    BASE_MODEL,
    DECLARATION,
    FINE_TUNED_MODEL,
    PROBE,
    TRAINING_MIXTURE,
    TRAINING_PLAN,
)
from ft_dagster.stages import evaluation_texts, probe
from ft_dagster.stages.ancestry import (
    refuse_asked_of_ancestors,
    refuse_few_questions,
    refuse_successor,
)
from ft_dagster.stages.refusals import refuse_no_prompts
from ft_dagster.store import Artifact, Attempt, find_artifact
from ft_dagster.training.contract import PLAN_FILE
from ft_dagster.workspace.answer_engine import refuse_absent
from ft_dagster.workspace.build_context import BuildContext
from ft_dagster.workspace.input_view import View
from ft_dagster.workspace.judging_devices import refuse_unheld
from ft_dagster.workspace.keyed_inputs import Digest, declared_as, derived, recorded, told_by
from ft_dagster.workspace.plan_context import PAST, context_of
from ft_dagster.workspace.plan_fields import (
    EXPERTS_UNTRAINED,
    HARDWARE,
    NEIGHBOURS,
    PACKED_THOUGH_IT_LEAKS,
    PLANNED,
    RANKED,
    experts_in_key,
    hardware_keyed,
    leak_in_key,
    leak_kept,
    ranked_by,
    ranks_declared,
)
from ft_dagster.workspace.policy import refuse_method, too_dear
from ft_dagster.workspace.questions import refuse_no_database
from ft_dagster.workspace.stage import Check, Stage
from ft_dagster.workspace.workspace import Workspace, named_in

ESTIMATE = "estimate.json"
TRAINED_FROM = (BASE_MODEL.name, TRAINING_MIXTURE.name)  # beside the plan
FIGURES = ("steps", "trainable_parameters", "fits", "storage", "warnings", "predicted", "on")


@dataclass(frozen=True)
class PlanInputs:
    """Names the inputs. `hardware`: what the plan depends on. `ranked_by`: digest of what `auto` chooses by.
    `probe`: what was tried beforehand, where the declaration asks for it. `leaks`: whether packed examples of
    the base would reach each other, so that none are packed; None elsewhere. `leak`: how that was found.
    `experts`: whether the base has experts, among all linear layers; None elsewhere.
    """

    spec: VariantSpec
    training_mixture: Artifact
    base_model: Artifact
    hardware: Annotated[dict[str, Any], told_by(ranks_declared)]
    ranked_by: Annotated[Digest | None, declared_as(*RANKED)]
    probe: Annotated[Artifact | None, declared_as("plan.probe")]
    leaks: Annotated[bool | None, derived(PACKED_THOUGH_IT_LEAKS)]
    experts: Annotated[bool | None, derived(EXPERTS_UNTRAINED)]
    whole: VariantSpec = recorded()
    context: PlanContext = recorded()
    leak: str | None = recorded()


def inputs(view: View) -> PlanInputs:
    base, spec = view.upstream(BASE_MODEL.name), view.spec
    leak = view.by_bytes(lambda: leak_in_key(view, base))
    mixture = view.upstream(TRAINING_MIXTURE.name)
    hardware = view.unlooked(lambda: hardware_of(spec, view.trains_on, view.project))
    return PlanInputs(
        narrowed(spec, PLANNED),
        mixture,
        base,
        hardware_keyed(view, hardware),
        ranked_by(spec),
        view.made(probe.STAGE) if leaves_open(spec) else None,
        leak_kept(leak),
        view.by_bytes(lambda: experts_in_key(view, base)),
        view.unlooked(lambda: narrowed(spec, (*PLANNED, *RANKED, "plan.probe"))),
        view.unlooked(lambda: replace(context_of(view, spec, base, mixture, hardware), judges=view.judges)),
        leak,
    )


def build(inputs: PlanInputs, context: BuildContext, attempt: Attempt) -> dict[str, object]:
    base = inputs.base_model
    known = replace(inputs.context, probed_hours=probe.hours_taken(inputs.probe))
    mixture, training = inputs.training_mixture, inputs.whole.training
    lengths = counted_lengths(context.payload(mixture), MixtureFigures.of(mixture), training)
    known = replace(known, lengths=lengths)
    weights = base.figures["parameters"], base.figures["weights_bytes"]
    counts, folder = counts_of(inputs.training_mixture), context.base_folder(base)
    facts = facts_of(counts, *weights, folder, known.hardware, leak=inputs.leak)
    with named_in(context.declared_in):
        plan = make_plan(inputs.whole, facts, known, probe.read_result(context, inputs.probe))
    planned = plan.content.to_json()
    _write(attempt.payload / PLAN_FILE, planned)
    estimate = plan.estimate.to_json()
    _write(attempt.evidence / ESTIMATE, estimate)
    content = {name: planned[name] for name in ("method", "training", "ranks")}
    return {**content, **{name: estimate[name] for name in FIGURES}}


def refuse(workspace: Workspace) -> None:
    """Raises UserError where what is asked for can never be had here, ancestors were trained on what will be
    asked, or no gate could pass.
    """
    refuse_absent(workspace.settings, workspace.device)
    refuse_asked_of_ancestors(workspace)
    refuse_few_questions(workspace)
    with named_in(workspace.declared_in):
        refuse_lacking(workspace.settings, workspace.leases, workspace.key, workspace.spec)


def after(workspace: Workspace, artifact: Artifact) -> None:
    """Refuse a plan before anything is trained: what `auto` chose may not be allowed, not have the declared
    export or cost more than the policy allows, a limit may be on questions that nobody will ask, what comes
    of it may be too large to be judged here, and a gate may be on a metric that its task has not.
    """
    declared, method = workspace.spec.export.format, artifact.figures["method"]["name"]
    refuse_method(workspace, method)
    training = artifact.figures["training"]
    with named_in(workspace.declared_in):
        refuse_unasked(training["watch"]["benchmark_limit"], training["deepspeed"]["stage"])
    dear = too_dear(workspace, Predicted.from_json(artifact.figures["predicted"]))
    if dear and not is_carried_out(workspace, artifact):
        raise dear
    _refuse_other_metrics(workspace)
    refuse_no_database(workspace)
    refuse_no_prompts(workspace)
    _refuse_unheld(workspace, method, declared)
    problem = export_problem(method, declared)
    if problem:
        raise UserError(
            f"by its plan, {problem}",
            file=workspace.declared_in,
            field="export.format",
            value=declared,
            fix="Or name the method, see the reasons of training_plan",
        )


def is_carried_out(workspace: Workspace, plan: Artifact) -> bool:
    """Say whether a model trained by this plan, from its base and mixture, still stands, newest or not: it
    costs nothing more.
    """
    made_from = {TRAINING_PLAN.name: plan.digest, **{name: plan.inputs[name] for name in TRAINED_FROM}}
    store, prefix = workspace.store, workspace.prefix
    models = made_in(store, prefix, FINE_TUNED_MODEL.name, made_from)
    return any(find_artifact(store, model.place) for model in models)


def _refuse_other_metrics(workspace: Workspace) -> None:
    """Refuse a metric that a task does not have. Checked are tasks whose texts were read and whose metrics
    are known; all are once the base was asked.
    """
    offered = dict[str, Sequence[str]]()
    if not workspace.spec.gates.metrics:
        return
    if any(workspace.frozen["tasks"].values()):
        texts = evaluation_texts.read_for(workspace)
        if texts is None:
            return
        offered |= dict.fromkeys(texts.figures["by_task"], ()) | texts.figures.get("metrics", {})
    refuse_unlisted(offered, workspace.spec, workspace.declared_in)


def _refuse_unheld(workspace: Workspace, method: str, format: str) -> None:
    judges = workspace.judges(workspace.spec)
    if judges is None:
        return
    base = workspace.upstream(BASE_MODEL.name)
    weights = base.figures["parameters"], base.figures["weights_bytes"]
    facts = base_facts_of(*weights, workspace.base_folder(base))
    foreseen = foresee_all(facts, method, judges, merged=format == "merged")
    refuse_unheld(foreseen, workspace.declared_in)


def estimate_of(workspace: Workspace, artifact: Artifact) -> Estimate:
    """Return the plan's document with all methods ranked, memory, cost, reasons and changes."""
    file = workspace.evidence(artifact) / ESTIMATE
    return Estimate.from_json(json.loads(file.read_text("utf-8")), file=file)


def judge(workspace: Workspace, artifact: Artifact) -> list[Check]:
    estimate = estimate_of(workspace, artifact)
    held, device = estimate.plan.memory_bytes.total, estimate.device_bytes
    known = {} if device is None else {"device_bytes": device}
    changes = [change.sentence for change in estimate.changes]
    said = f"{memory_line(estimate)}; {estimate.plan.learned}"
    if not estimate.fits:
        said = f"{refusal_of(estimate)}\n{said}"
    return [Check("fits", estimate.fits, said, {"needed": held, "changes": changes, **known})]


def _write(file: Path, document: dict[str, Any]) -> None:
    file.write_text(json.dumps(document, indent=1, sort_keys=True), "utf-8")


STAGE = Stage(
    TRAINING_PLAN,
    reads=(DECLARATION, BASE_MODEL, TRAINING_MIXTURE, PROBE),
    fields=(*PLANNED, *RANKED, *HARDWARE, *NEIGHBOURS, "plan.probe"),
    inputs=inputs,
    build=build,
    asks=PAST,
    checks={"fits": "The training's memory, by a dry run of its step, fits the device"},
    judge=judge,
    refuse=refuse,
    refuse_new=refuse_successor,
    after=after,
)
