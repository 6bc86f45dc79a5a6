"""Probes a few methods and learning rates by short trainings, which decide what the declaration leaves open.

Made where the declaration asks for it (`plan.probe`). Each is a training like any other, without its model.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from ft_dagster.data.mixture.mixture_figures import MixtureFigures
from ft_dagster.launch.local import ProgramFailed
from ft_dagster.objectives import objective_of
from ft_dagster.planning.context import counts_of, facts_of, hardware_of
from ft_dagster.planning.facts import Facts
from ft_dagster.planning.packed_rows import counted_lengths, with_shared
from ft_dagster.planning.plan import refuse_unasked
from ft_dagster.planning.planned_method import PlanContext
from ft_dagster.planning.probe import FILE, LONGER, MEASURING, ProbePlan, plan_probe, with_cost
from ft_dagster.planning.survey import Survey, survey
from ft_dagster.planning.trials import Arm, ProbeResult, TriedArm, conclude, finalists, tried_arm
from ft_dagster.spec import VariantSpec
from ft_dagster.spec.narrow import narrowed
from ft_dagster.spec.policy import CostLimit
from ft_dagster.stage_entries import BASE_MODEL, DECLARATION, PROBE, TRAINING_MIXTURE
from ft_dagster.stages.ancestry import refuse_successor
from ft_dagster.store import Artifact, Attempt
from ft_dagster.training.contract import Base, Launch, Member, Plan, TrainingDevice, TrainingRun
from ft_dagster.training.training_figures import TrainingFigures
from ft_dagster.training.watch.first_look import FIRST_LOOKS
from ft_dagster.workspace.build_context import BuildContext
from ft_dagster.workspace.input_view import View
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
from ft_dagster.workspace.stacking import trained_base
from ft_dagster.workspace.stage import Stage
from ft_dagster.workspace.workspace import Workspace, named_in

MARGIN = "gates.general_loss_margin"
TRIED = ("plan.probe", MARGIN)
# A short training has its own of these; of what is watched, the limit ranks arms and the budget methods.
OWN = tuple(f"training.{name}" for name in ("evaluations", "keep_best", "keep_last", "on_bad_rate", "watch"))
KEYED = (
    *(field for field in PLANNED if field not in OWN),
    *("training.watch.general_loss_limit", "training.watch.budget", "plan.probe"),
)


@dataclass(frozen=True)
class ProbeInputs:
    """Names the inputs. `hardware`: what a plan depends on. `ranked_by`, `leaks`, `leak`,
    `experts`: as of a plan.
    `nodes`: how many share the ranks. `cost_limit`: today's, for the probe and the training after it
    together.
    """

    spec: VariantSpec
    training_mixture: Artifact
    base_model: Artifact
    hardware: Annotated[dict[str, Any], told_by(ranks_declared)]
    ranked_by: Annotated[Digest | None, declared_as(*RANKED)]
    leaks: Annotated[bool | None, derived(PACKED_THOUGH_IT_LEAKS)]
    experts: Annotated[bool | None, derived(EXPERTS_UNTRAINED)]
    whole: VariantSpec = recorded()
    context: PlanContext = recorded()
    base: Base = recorded()
    nodes: int = recorded()
    leak: str | None = recorded()
    cost_limit: CostLimit | None = recorded()


def inputs(view: View) -> ProbeInputs:
    base, spec = view.upstream(BASE_MODEL.name), view.spec
    leak = view.by_bytes(lambda: leak_in_key(view, base))
    mixture = view.upstream(TRAINING_MIXTURE.name)
    hardware = view.unlooked(lambda: hardware_of(spec, view.trains_on, view.project))
    return ProbeInputs(
        keyed(spec),
        mixture,
        base,
        hardware_keyed(view, hardware),
        ranked_by(spec),
        leak_kept(leak),
        view.by_bytes(lambda: experts_in_key(view, base)),
        view.unlooked(lambda: narrowed(spec, (*PLANNED, *RANKED, *TRIED))),
        view.unlooked(lambda: context_of(view, spec, base, mixture, hardware)),
        view.unlooked(lambda: trained_base(view, base, spec.method.name)),
        spec.resources.nodes,
        leak,
        view.cost_limit,
    )


def keyed(spec: VariantSpec) -> VariantSpec:
    """Return the part of a declaration that can change a probe: the gate's margin stands in for a limit
    alone.
    """
    limited = spec.training.watch.general_loss_limit is not None
    return narrowed(spec, KEYED if limited else (*KEYED, MARGIN))


def build(inputs: ProbeInputs, context: BuildContext, attempt: Attempt) -> dict[str, object]:
    seconds = list[float]()
    result = _result(inputs, context, attempt, seconds)
    (attempt.payload / FILE).write_text(json.dumps(result.to_json(), indent=1, sort_keys=True), "utf-8")
    figures = {"method": result.method, "learning_rate": result.learning_rate, "sentence": result.sentence}
    return {**figures, "seconds": sum(seconds), "devices": _devices(inputs)}


def read_result(context: BuildContext | Workspace, artifact: Artifact | None) -> ProbeResult | None:
    """Return what a probe found; None where nothing was to be tried."""
    if artifact is None:
        return None
    file = context.payload(artifact) / FILE
    return ProbeResult.from_json(json.loads(file.read_text("utf-8")), file=file)


def hours_taken(artifact: Artifact | None) -> float | None:
    """Return the hours by the clock of all that was tried; None where nothing was."""
    return None if artifact is None else float(artifact.figures.get("seconds") or 0.0) / 3600 or None


def _devices(inputs: ProbeInputs) -> int:
    """Return the GPUs of each short training; 1 without any."""
    return int(inputs.hardware["ranks"]) if inputs.hardware["kind"] == "cuda" else 1


def _result(
    inputs: ProbeInputs, context: BuildContext, attempt: Attempt, seconds: list[float]
) -> ProbeResult:
    """Return the probe's result. `seconds`: takes those of each short training that came to its end, by the
    clock.
    """
    spec, base = inputs.whole, inputs.base_model
    settings = spec.plan.probe
    assert settings is not None
    weights = base.figures["parameters"], base.figures["weights_bytes"]
    counts, folder = counts_of(inputs.training_mixture), context.base_folder(base)
    facts = facts_of(counts, *weights, folder, inputs.context.hardware, leak=inputs.leak)
    if spec.training.share_beginnings != "off":  # so that what is tried is laid out as it will be trained
        mixture = inputs.training_mixture
        lengths = counted_lengths(context.payload(mixture), MixtureFigures.of(mixture), spec.training)
        facts = with_shared(facts, lengths, spec.training)
    with named_in(context.declared_in):
        found = survey(spec, facts, inputs.context)
    planned = plan_probe(spec, facts, found, settings)
    context.say(f"probe: {planned.why}")
    if not planned.arms:
        return ProbeResult(None, None, planned.why)
    stages = [found.planned[arm.method].resolved.training.deepspeed.stage for arm in planned.arms]
    with named_in(context.declared_in):
        refuse_unasked(spec.training.watch.benchmark_limit, min(stages))
    _refuse_dear(inputs, context, found, planned)
    trial = _Trial(inputs, context, attempt, facts, found, seconds, planned)
    limit = spec.training.watch.general_loss_limit or spec.gates.general_loss_margin
    rounds = [trial.round(planned.arms)]
    last = [] if planned.wholly else finalists(rounds[0], limit)
    if last:
        rounds.append(trial.round(last, LONGER))
    with named_in(context.declared_in):
        result = with_cost(conclude(rounds, limit, wholly=planned.wholly), planned)
    context.say(f"probe: {result.sentence}")
    return result


def _refuse_dear(inputs: ProbeInputs, context: BuildContext, found: Survey, planned: ProbePlan) -> None:
    """Raises UserError, before anything is tried, where that and the training that it is for cost more than
    the policy allows.
    """
    if inputs.cost_limit is None or planned.cost.usd is None:
        return
    training, tried = found.decision.row(found.chosen.resolved.name).figures.usd, planned.cost.usd
    usd = None if training is None else training + tried
    if dear := inputs.cost_limit.refusal(usd, context.declared_in, probe_usd=tried):
        raise dear


@dataclass(frozen=True)
class _Trial:
    """Holds what every short training of a probe has in common."""

    inputs: ProbeInputs
    context: BuildContext
    attempt: Attempt
    facts: Facts
    found: Survey
    seconds: list[float]
    planned: ProbePlan

    def round(self, arms: Sequence[Arm], times: int = 1) -> list[TriedArm]:
        return [self._try(arm, self.planned.steps_of(arm, times)) for arm in arms]

    def _try(self, arm: Arm, steps: int) -> TriedArm:
        folder = self.attempt.evidence / f"{arm.name}-{steps}"
        try:
            figures = self.context.run(
                "training", self.attempt, lambda output: self._request(arm, steps, output), into=folder
            )
        except ProgramFailed as failure:
            if failure.mendable:
                raise
            self.context.say(f"probe: {arm}: {failure.happened}")
            return TriedArm(arm.method, arm.learning_rate, steps, {}, failed=failure.happened)
        shutil.rmtree(folder / "payload")
        known = TrainingFigures.from_json(figures)
        self.seconds.append(known.seconds)
        return tried_arm(arm, known.steps, known, self.planned.whole_of(arm))

    def _request(self, arm: Arm, steps: int, output: Path) -> TrainingRun:
        inputs, context, facts, nodes = self.inputs, self.context, self.facts, self.inputs.nodes
        resolved = self.found.planned[arm.method].resolved
        own = {"budget": MEASURING, "questions": 0, "general_loss_limit": None, "benchmark_limit": None}
        watch = resolved.training.watch.model_copy(update=own)  # what is forgotten ranks it, and ends none
        most = resolved.training.max_steps if self.planned.wholly else steps
        short = {
            "learning_rate": arm.learning_rate,
            "max_steps": most,
            "watch": watch,
            "evaluations": 1,
            "on_bad_rate": "stop",  # it is the rate that is tried
        }
        plan = Plan(
            method=resolved.method,
            training=resolved.training.model_copy(update={**short, "keep_best": 1, "keep_last": 1}),
            device=TrainingDevice(
                kind=facts.device_kind, count=facts.ranks if facts.device_kind == "cuda" else 1
            ),
            ranks=facts.ranks,
            own_loss=objective_of(inputs.whole.objective).own_loss,
        )
        member = Member(
            variant=context.variant,
            mixture=context.payload(inputs.training_mixture),
            mixture_digest=inputs.training_mixture.digest,
            plan=plan,
            seed=resolved.training.seed,
            output=output,
            by_example=True,
        )
        return TrainingRun(
            run_id=context.run_id,
            base=inputs.base,
            members=(member,),
            launch=Launch(nodes=nodes, ranks_per_node=facts.ranks // nodes),
            first_looks=context.cache / FIRST_LOOKS,
        )


STAGE = Stage(
    PROBE,
    reads=(DECLARATION, BASE_MODEL, TRAINING_MIXTURE),
    fields=(*PLANNED, *RANKED, *HARDWARE, *NEIGHBOURS, *TRIED),
    inputs=inputs,
    build=build,
    asks=PAST,
    refuse_new=refuse_successor,
    programs=("training",),
)
