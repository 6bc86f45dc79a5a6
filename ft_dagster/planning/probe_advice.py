"""Advises a probe where one was measured to find much and takes minutes."""

from __future__ import annotations

from ft_dagster.objectives import objective_of
from ft_dagster.planning.facts import Facts
from ft_dagster.planning.methods.rules import SMALL
from ft_dagster.planning.probe import plan_probe
from ft_dagster.planning.survey import Survey
from ft_dagster.spec import VariantSpec
from ft_dagster.spec.variant import ProbeSpec

SHARE = 10.0  # pays for the whole grid of the bench of decisions
HOURS = 1.0  # more is not for a note to propose


def advised_probe(spec: VariantSpec, facts: Facts, found: Survey) -> str | None:
    """Advise a probe for one narrow task on a small base whose method and rate are both open; None elsewhere,
    where a probe is declared, and where it would take long, or nobody knows how long.
    """
    is_open = spec.method.name == "auto" and spec.training.learning_rate is None
    measured = objective_of(spec.objective).narrow and facts.parameters <= SMALL
    if spec.plan.probe is not None or not (is_open and measured):
        return None
    planned = plan_probe(spec, facts, found, ProbeSpec(share=SHARE))
    training = found.decision.row(found.chosen.resolved.name).figures.training
    hours = None if training is None else training.hours
    if not planned.wholly or hours is None or planned.share * hours > HOURS:
        return None
    return (
        "method and learning rate are open: on narrow tasks of a 135M base such plans lost 14% to the best "
        f"of six; `plan.probe: {{share: {SHARE:g}}}` tries it: {planned.why}"
    )
