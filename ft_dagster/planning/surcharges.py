"""Says what a plan costs more than usual by its base or its card, one line each: examples that are not
packed, attention that makes scores, arithmetic without bf16, and what is estimated of it.
"""

from __future__ import annotations

from dataclasses import replace

from ft_dagster.methods import method_of
from ft_dagster.models.stored import stored_words
from ft_dagster.planning.dryrun.architecture import architecture_file
from ft_dagster.planning.facts import Facts
from ft_dagster.planning.methods.resolved import resolve, with_method
from ft_dagster.planning.methods.training_settings import epochs_of, lone, rows_of, steps_of
from ft_dagster.planning.planned_method import DeviceMemory, PlanContext, PlannedMethod
from ft_dagster.planning.survey import Survey
from ft_dagster.program import of_hours
from ft_dagster.spec import VariantSpec
from ft_dagster.spec.training import TrainingSettings


def surcharges(spec: VariantSpec, facts: Facts, context: PlanContext, found: Survey, steps: int) -> list[str]:
    """Return a line for each that applies to what is to be trained. `steps`: of the optimizer."""
    chosen = found.chosen
    spec = with_method(spec, chosen.resolved.name)
    said = [
        _unpacked(spec, facts, context, found, steps),
        _scores(spec, facts, context, chosen),
        _without_bf16(spec, facts, context, chosen),
        _stored(facts, context, chosen),
        _estimated(spec, facts, context, chosen),
    ]
    return [line for line in said if line]


def _unpacked(spec: VariantSpec, facts: Facts, context: PlanContext, found: Survey, steps: int) -> str | None:
    """Say what it takes that examples of this base are not packed: rows, positions, steps and hours."""
    name, training = found.chosen.resolved.name, found.chosen.resolved.training
    if facts.leak is None or not (spec.training.packing and method_of(name).packs):
        return None
    packed = resolve(spec, lone(facts)).training
    times, counted = found.chosen.candidate.padding, context.lengths is not None
    passed = facts.tokens * epochs_of(training, facts)
    spent = found.decision.row(name).figures.training
    hours = None if spent is None else spent.hours
    long = "" if hours is None else f", {of_hours(hours)} of training in place of {of_hours(hours / times)}"
    return (
        f"not packed, for examples would reach each other ({facts.leak}): each has a row of its own, "
        f"{facts.examples:,} a pass in place of about {rows_of(True, facts):,}, padded to the longest of its "
        f"micro-batch: {'' if counted else 'at most about '}{times:.3g} times the positions "
        f"({passed * times:,.0f} in place of {passed:,.0f}), {steps:,} optimizer steps in place of "
        f"{_steps(packed, lone(facts), context):,}{long}"
    )


def _steps(training: TrainingSettings, facts: Facts, context: PlanContext) -> int:
    counted = None if context.lengths is None else context.lengths.steps(training, facts.ranks)
    return steps_of(training, facts) if counted is None else counted


def _scores(spec: VariantSpec, facts: Facts, context: PlanContext, chosen: PlannedMethod) -> str | None:
    """Say what the scores of attention take, of a base whose class has no attention without them."""
    taken = DeviceMemory(spec, facts, context).scores(chosen.layout)
    if taken is None:
        return None
    held = chosen.occupancy.total
    return (
        "the class of this base has no attention by SDPA (sinks, or a cap on scores, are no part of it): the "
        f"scores of whole rows lie in memory, {_size(taken)} of {_size(held)} a device"
    )


def _without_bf16(spec: VariantSpec, facts: Facts, context: PlanContext, chosen: PlannedMethod) -> str | None:
    """Say what it takes that a card has no bf16 arithmetic."""
    if facts.device_kind != "cuda" or facts.bf16:
        return None
    here, card = DeviceMemory(spec, facts, context), context.hardware
    there = DeviceMemory(spec, replace(facts, bf16=True), context)
    taken, else_taken = (_size(held.bytes_of(chosen.layout)) for held in (here, there))
    peak = "" if card.peak_flops is None else f", and {card.peak_flops / 1e12:g} TFLOP/s at most"
    return (
        f"{card.name} has no bf16 arithmetic: weights and products are in fp32, {taken} a device where bf16 "
        f"would take {else_taken}{peak}"
    )


def _stored(facts: Facts, context: PlanContext, chosen: PlannedMethod) -> str | None:
    """Say how a base that is stored quantized is loaded."""
    file = architecture_file(context.architecture)
    said = stored_words(file, on_gpu=facts.device_kind == "cuda")
    return said and f"the base is {said}; memory counts its weights in {chosen.resolved.training.precision}"


def _estimated(spec: VariantSpec, facts: Facts, context: PlanContext, chosen: PlannedMethod) -> str | None:
    """Say where FLOPs are no count, and with them hours and cost."""
    held = DeviceMemory(spec, facts, context)
    if held.counted_flops(chosen.layout, chosen.resolved.method) is not None:
        return None
    idle = ", those of experts that a token does not reach among them" if facts.expert_parameters else ""
    return (
        "FLOPs of this base cannot be counted on shapes alone: they, and hours and cost by them, are "
        f"estimated by all its weights{idle}"
    )


def _size(value: int) -> str:
    return f"{value / 1e9:,.1f} GB" if value >= 1e9 else f"{value / 1e6:,.1f} MB"
