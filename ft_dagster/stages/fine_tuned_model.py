"""Trains the weights, and keeps the checkpoint with the lowest validation loss.

The trainer is a program of its own; it resumes from its newest checkpoint that verifies.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.launch.launcher import RESULT_FILE
from ft_dagster.lineage.graph import made_in
from ft_dagster.schema_version import stored_as
from ft_dagster.stage_entries import (
    BASE_MODEL,
    DECLARATION,
    FINE_TUNED_MODEL,
    TRAINING_MIXTURE,
    TRAINING_PLAN,
)
from ft_dagster.stages.ancestry import refuse_successor
from ft_dagster.stages.asking.prompted_in_run import ask_before_training
from ft_dagster.store import Artifact, Attempt
from ft_dagster.training.contract import PLAN_FILE, Base, Benchmarks, Launch, Member, Plan, TrainingRun
from ft_dagster.training.oom_retry import wants_halving
from ft_dagster.training.training_figures import TrainingFigures
from ft_dagster.training.watch.first_look import FIRST_LOOKS
from ft_dagster.workspace.build_context import BuildContext
from ft_dagster.workspace.input_view import View
from ft_dagster.workspace.keyed_inputs import recorded
from ft_dagster.workspace.policy import refuse_dear
from ft_dagster.workspace.stacking import trained_base
from ft_dagster.workspace.stage import Check, Stage
from ft_dagster.workspace.workspace import Workspace


@dataclass(frozen=True)
class TrainingInputs:
    """Names the inputs. `questions`: general benchmarks asked while it trains (by digest) and the seed that
    draws them, where the declaration wants any. `nodes`: how many share its ranks. `report_to`: where curves
    are shown too. `checkpoint_minutes`: minutes between checkpoints, beside those at evaluations; None: none.
    `stop_above`, on the first `stop_above_on` validation examples, ends a training without a model.
    `resume_points`: states of the first pass that are kept in its evidence.
    """

    training_plan: Artifact
    training_mixture: Artifact
    base_model: Artifact
    questions: dict[str, Any] | None
    nodes: int = recorded()
    report_to: tuple[str, ...] = recorded()
    checkpoint_minutes: float | None = recorded()
    stop_above: dict[int, float] = recorded()
    stop_above_on: int | None = recorded()
    resume_points: int = recorded()
    base: Base = recorded()


def inputs(view: View) -> TrainingInputs:
    plan, mixture, base = (
        view.upstream(s) for s in (TRAINING_PLAN.name, TRAINING_MIXTURE.name, BASE_MODEL.name)
    )
    view.unlooked(lambda: _refuse_unfitting(plan))
    spec = view.spec
    asked = spec.evaluation.general if spec.training.watch.questions else ()
    return TrainingInputs(
        plan,
        mixture,
        base,
        {"tasks": view.frozen("tasks")["general"], "seed": spec.evaluation.seed} if asked else None,
        spec.resources.nodes,
        spec.training.report_to,
        spec.training.checkpoint_minutes,
        view.stop_above,
        view.stop_above_on,
        0 if view.choosing else view.resume_points,
        view.unlooked(lambda: trained_base(view, base, plan.figures["method"]["name"])),
    )


def _refuse_unfitting(plan: Artifact) -> None:
    if not plan.figures["fits"]:
        raise UserError("the plan does not fit the device", fix="See training_plan, check `fits`")


def build(inputs: TrainingInputs, context: BuildContext, attempt: Attempt) -> dict[str, object]:
    content = json.loads((context.payload(inputs.training_plan) / PLAN_FILE).read_text("utf-8"))
    plan, seed = stored_as(Plan, content, file=PLAN_FILE), content["training"]["seed"]

    def request(output: Path) -> TrainingRun:
        questions = inputs.questions
        member = Member(
            variant=context.variant,
            mixture=context.payload(inputs.training_mixture),
            mixture_digest=inputs.training_mixture.digest,
            plan=plan,
            seed=seed,
            output=output,
            benchmarks=None
            if questions is None
            else Benchmarks(
                tasks=questions["tasks"], project=context.project, roots=context.roots, seed=questions["seed"]
            ),
            report_to=inputs.report_to,
            checkpoint_minutes=inputs.checkpoint_minutes,
            stop_above=inputs.stop_above,
            stop_above_on=inputs.stop_above_on,
            resume_points=inputs.resume_points,
            micro_batch_halved=wants_halving(output.parent, output / RESULT_FILE),
        )
        launch = Launch(nodes=inputs.nodes, ranks_per_node=content["ranks"] // inputs.nodes)
        return TrainingRun(
            run_id=context.run_id,
            base=inputs.base,
            members=(member,),
            launch=launch,
            first_looks=context.cache / FIRST_LOOKS,
        )

    figures = TrainingFigures.from_json(context.run("training", attempt, request))
    # Halved, it measured another layout than the one that was predicted.
    predicted = None if figures.micro_batch_halved else inputs.training_plan.figures["predicted"]
    return replace(figures, predicted=predicted).to_json()


def judge(workspace: Workspace, artifact: Artifact) -> list[Check]:
    figures = TrainingFigures.of(artifact)
    first, best = figures.validation_loss_first, figures.validation_loss_best
    if {"validation_loss_first", "validation_loss_best"} & set(figures.not_finite):
        return [Check("learned", False, "the validation loss was not a finite number")]
    if first is None or best is None:
        return [Check("learned", True, "no validation split was declared: not judged here")]
    on = figures.measured_on.get("validation loss", "")
    said = f"validation loss {first:.3f} → {best:.3f} {on}".rstrip()
    return [Check("learned", best < first, said, {"before": first, "after": best})]


def before_training(workspace: Workspace) -> None:
    """Raises UserError for a training that costs more than the policy allows, or after which the next try
    could decide nothing; else asks what the base can do without it.
    """
    refuse_dear(workspace, workspace.upstream(TRAINING_PLAN.name))
    above = {each.name: workspace.upstream(each.name).digest for each in (TRAINING_PLAN, TRAINING_MIXTURE)}
    if not any(made_in(workspace.store, workspace.prefix, FINE_TUNED_MODEL.name, above)):
        refuse_successor(workspace)
    ask_before_training(workspace)


STAGE = Stage(
    FINE_TUNED_MODEL,
    reads=(DECLARATION, BASE_MODEL, TRAINING_MIXTURE, TRAINING_PLAN),
    fields=(
        *("training.watch", "training.report_to", "training.checkpoint_minutes"),
        *("evaluation.general", "evaluation.seed", "resources.nodes"),
    ),
    inputs=inputs,
    build=build,
    checks={"learned": "The loss on the validation split, never trained on, fell"},
    judge=judge,
    refuse_new=before_training,
    seed=lambda inputs: int(inputs.training_plan.figures["training"]["seed"]),
    programs=("training",),
)
