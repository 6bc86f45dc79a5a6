"""Makes the plan: the resolved method and hyperparameters, what they occupy and cost, and the reason for
each.

Two documents. plan.json is what the training reads, and all that its key covers: a new price or a finished
training elsewhere trains nothing again. estimate.json is the evidence beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.objectives import objective_of
from ft_dagster.planning.advice import alpha_note, training_warnings
from ft_dagster.planning.cost.learned import Predicted
from ft_dagster.planning.cost.published_costs import beside_published
from ft_dagster.planning.estimate import Estimate, MemoryBytes
from ft_dagster.planning.facts import Facts
from ft_dagster.planning.judging import JudgedOn, foresee_all
from ft_dagster.planning.memory_formula import RuleOfThumbBytes, memory, storage
from ft_dagster.planning.methods.cautions import limits
from ft_dagster.planning.methods.decision import Decision
from ft_dagster.planning.methods.question import ProbeCost
from ft_dagster.planning.methods.resolved import leaves_method_open, lora_settings
from ft_dagster.planning.methods.training_settings import steps_of
from ft_dagster.planning.packed_rows import ExampleLengths, with_shared
from ft_dagster.planning.planned_method import PlanContext, PlannedMethod
from ft_dagster.planning.probe import ProbePlan, leaves_open, plan_probe
from ft_dagster.planning.probe_advice import advised_probe
from ft_dagster.planning.surcharges import surcharges
from ft_dagster.planning.survey import Say, Survey, survey
from ft_dagster.planning.trials import ProbeResult
from ft_dagster.planning.watched import above_budget
from ft_dagster.spec import VariantSpec
from ft_dagster.spec.training import TrainingSettings
from ft_dagster.training.contract import Plan, TrainingDevice

FAR = 0.20  # of the rule of thumb, from which the difference is explained
OBEYED = "is declared and obeyed"  # of a decision's note on a declared method
BEYOND_RULE = ("activations", "temporaries", "communication", "slack", "context", "correction")


class PlanAndEstimate(NamedTuple):
    """Holds plan.json, as the trainer reads it, and estimate.json."""

    content: Plan
    estimate: Estimate

    @property
    def fits(self) -> bool:
        return self.estimate.fits


def make_plan(
    spec: VariantSpec,
    facts: Facts,
    context: PlanContext,
    tried: ProbeResult | None = None,
    say: Say = lambda line: None,
) -> PlanAndEstimate:
    """Resolve `spec`, what is open in it by trial. `say`: see `survey`. Raises UserError for what cannot be
    trained.
    """
    if facts.trained_tokens == 0:
        raise UserError("the mixture has no trained token", fix="See the counts of training_mixture")
    decided = tried is not None and tried.method is not None
    facts = with_shared(facts, context.lengths, spec.training)
    found = survey(spec if tried is None else tried.applied(spec), facts, context, say)
    if leaves_method_open(spec):
        found = _without_obeyed(found)
    chosen = found.chosen
    if tried is not None and decided:
        _say_what_was_tried(found, spec, tried)
    elif spec.method.name == "auto":
        _say_why(found, spec)
    resolved = chosen.resolved
    refuse_unasked(resolved.training.watch.benchmark_limit, resolved.training.deepspeed.stage)
    count = facts.ranks if facts.device_kind == "cuda" else 1
    content = Plan(
        method=resolved.method,
        training=resolved.training,
        device=TrainingDevice(kind=facts.device_kind, count=count),
        ranks=facts.ranks,
        own_loss=objective_of(spec.objective).own_loss,
    )
    probing = _probing(spec, facts, found, context, tried)
    steps = _steps(resolved.training, facts, context.lengths)
    warnings = [
        *surcharges(spec, facts, context, found, steps),
        *_warnings(spec, facts, found, probing, steps, tried=tried),
    ]
    found = _with_advice(found, advised_probe(spec, facts, found))
    found = _with_advice(found, alpha_note(resolved.method))
    hours = probing.cost.hours
    estimate = _estimate(spec, facts, context, found, warnings, steps=steps, probe_hours=hours)
    return PlanAndEstimate(content, estimate)


def refuse_unasked(benchmark_limit: float | None, zero_stage: int) -> None:
    """Raises UserError where a limit is on questions that the layout lets nobody ask."""
    if benchmark_limit is not None and zero_stage == 3:
        raise UserError(
            "a limit that could not act: the plan shards the weights by ZeRO-3, where no questions are asked",
            field="training.watch.benchmark_limit",
            value=benchmark_limit,
            fix="Declare training.deepspeed: 0 or 2, or in place of it training.watch.general_loss_limit",
        )


def _estimate(
    spec: VariantSpec,
    facts: Facts,
    context: PlanContext,
    found: Survey,
    warnings: Sequence[str],
    *,
    steps: int,
    probe_hours: float | None,
) -> Estimate:
    chosen, resolved = found.chosen, found.chosen.resolved
    figures = found.decision.row(resolved.name).figures
    by_rule = memory(resolved.load, chosen.layout.zero_stage, chosen.layout.offload)
    judged_on = _judged_on(spec, facts, context, resolved.name)
    return Estimate(
        **found.parts(),
        ranks=facts.ranks,
        variants=context.variants,
        steps=steps,
        trainable_parameters=resolved.load.trained,
        utilization=None if figures.training is None else figures.training.utilization,
        storage_usd_per_month=figures.storage.usd_per_month,
        serving=figures.serving.sentence,
        cross_checks=(_beside_rule(chosen.held, by_rule), *_beside_published(facts, chosen)),
        storage=storage(resolved.load, chosen.layout.zero_stage, resolved.training, context.resume_points),
        predicted=Predicted(
            context.base,
            context.hardware.name,
            chosen.layout,
            chosen.occupancy.reserved if facts.device_kind == "cuda" else chosen.occupancy.total,
            context.hardware.peak_flops,
            figures.hours,
            None if figures.training is None else figures.training.hours,
            probe_hours,
        ),
        warnings=(*warnings, *(each.sentence for each in judged_on if each.devices is None)),
        judged_on=judged_on,
    )


def _steps(training: TrainingSettings, facts: Facts, lengths: ExampleLengths | None) -> int:
    """Return the steps that the training will take, else an estimate of them."""
    counted = None if lengths is None else lengths.steps(training, facts.ranks)
    return steps_of(training, facts) if counted is None else counted


def _judged_on(spec: VariantSpec, facts: Facts, context: PlanContext, method: str) -> tuple[JudgedOn, ...]:
    if context.judges is None:
        return ()
    return foresee_all(facts, method, context.judges, merged=spec.export.format == "merged")


def _warnings(
    spec: VariantSpec,
    facts: Facts,
    found: Survey,
    probing: ProbePlan,
    steps: int,
    *,
    tried: ProbeResult | None,
) -> list[str]:
    """Return the warnings of a probe, of the settings, of the limits, and what obeying the declaration
    costs.
    """
    resolved = found.chosen.resolved
    watched = above_budget(spec, facts, found.chosen, steps)
    return [
        *_of_probe(spec, probing, tried),
        *training_warnings(spec, facts, resolved.method, resolved.training, steps),
        *([watched] if watched else []),
        *([found.chosen.untrained] if found.chosen.untrained else []),
        *limits(found.question, found.decision.row(resolved.name).figures, probing.cost),
        *(note for note in found.decision.notes if OBEYED in note),
    ]


def _probing(
    spec: VariantSpec, facts: Facts, found: Survey, context: PlanContext, tried: ProbeResult | None
) -> ProbePlan:
    """Return what is tried before this plan, and what it costs: as announced while it is still to be run, as
    it was once it ran.
    """
    if tried is None and spec.plan.probe is not None and leaves_open(spec):
        return plan_probe(spec, facts, found, spec.plan.probe)
    hours, price = context.probed_hours, context.hardware.usd_per_hour
    usd = None if hours is None or price is None else hours * found.chosen.layout.gpus * price
    return ProbePlan((), 0, 0.0, "", cost=ProbeCost(hours, usd))


def _of_probe(spec: VariantSpec, probing: ProbePlan, tried: ProbeResult | None) -> tuple[str, ...]:
    """Say what a probe came to that found nothing, or what one would take that is still to be run."""
    if tried is not None:
        return () if tried.method else (f"probe: {tried.sentence}; the usual values hold",)
    if spec.plan.probe is None:
        return ()
    if not leaves_open(spec):
        return ("probe: nothing is tried: method and learning rate are declared",)
    return (f"probe, before this plan is final: {probing.why}",)


def _without_obeyed(found: Survey) -> Survey:
    """Drop the note of a declared method: one that was found by trial was surveyed as declared, which it is
    not.
    """
    notes = tuple(note for note in found.decision.notes if OBEYED not in note)
    return replace(found, decision=replace(found.decision, notes=notes))


def _with_advice(found: Survey, advice: str | None) -> Survey:
    if advice is None:
        return found
    return replace(found, decision=replace(found.decision, notes=(*found.decision.notes, advice)))


def _say_what_was_tried(found: Survey, spec: VariantSpec, tried: ProbeResult) -> None:
    """Put what was tried into the reasons, for the values that the declaration leaves open."""
    reasons = found.chosen.resolved.reasons
    if leaves_method_open(spec):
        reasons.explain("method.name", "measured", tried.sentence)
    elif spec.method.name == "auto":
        _say_why(found, spec)
    if spec.training.learning_rate is None:
        reasons.explain("training.learning_rate", "measured", tried.sentence)


def _say_why(found: Survey, spec: VariantSpec) -> None:
    """Put what `auto` came to in place of the name that each method was planned by."""
    why = _why(found.decision, found.chosen, spec)
    found.chosen.resolved.reasons.explain("method.name", "built-in", why)


def _why(decision: Decision, chosen: PlannedMethod, spec: VariantSpec) -> str:
    given = lora_settings(spec)
    if given:
        return f"{', '.join(given)} declared: settings of LoRA"
    name = chosen.resolved.name
    if decision.recommended is None:
        return f"nothing fits; {name} needs least"
    rules = {rule.rule: rule for rule in decision.row(name).rules}
    said = [rules[rule].sentence for rule in ("objective", "dataset_size", "fits") if rule in rules]
    lost = [f"{row.method} by {_lost_by(row, decision)}" for row in decision.ranking[1:]]
    return "; ".join([*said, *([f"ahead of {', '.join(lost)}"] if lost else [])])


def _lost_by(row: Any, decision: Decision) -> str:
    """Return the first rule that set the winner above this row."""
    best = {rule.rule: rule.verdict for rule in decision.ranking[0].rules}
    order = {"for": 0, "neither": 1, "against": 2}
    worse = (rule.rule for rule in row.rules if order[rule.verdict] > order[best[rule.rule]])
    return next(worse, "usual")


def _beside_rule(held: MemoryBytes, by_rule: RuleOfThumbBytes) -> str:
    """Compare the dry run with the rule of thumb, and say what makes the difference where it is above 20%."""
    total, floor = held.total, by_rule.floor_bytes
    said = f"rule of thumb (weights, gradients, states): {_size(floor)}; dry run: {_size(total)}"
    if abs(total - floor) <= FAR * floor:
        return said
    if total < floor:
        return f"{said}: at the highest moment gradients, states and activations do not all live at once"
    parts = sorted(BEYOND_RULE, key=lambda name: -held.of(name))
    named = ", ".join(f"{name} {_size(held.of(name))}" for name in parts if held.of(name) > 0.02 * total)
    return f"{said}: the rule leaves out {named}"


def _size(value: int) -> str:
    return f"{value / 1e9:,.1f} GB" if value >= 1e9 else f"{value / 1e6:,.1f} MB"


def _beside_published(facts: Facts, chosen: PlannedMethod) -> list[str]:
    beside = beside_published(
        chosen.resolved.name,
        facts.parameters,
        chosen.candidate.flops_per_token,
        facts.tokens / facts.examples,
    )
    return [] if beside is None else [beside.sentence()]
