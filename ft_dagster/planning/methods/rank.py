"""`method.rank: auto`: the rank of a LoRA by what is to be learned, or by what was used of the last one."""

from __future__ import annotations

import math

from ft_dagster.objectives import objective_of
from ft_dagster.planning.before import VersionBefore
from ft_dagster.planning.facts import Facts
from ft_dagster.planning.methods import defaults
from ft_dagster.planning.reasons import Reason
from ft_dagster.planning.shapes import adapter_parameters, smallest_dimension

FIELD = "method.rank"
Targets = list[str] | tuple[str, ...] | str
LARGEST = 128  # the top of what is usual; above it an adapter's cost nears that of full fine-tuning


def rank_for(tokens: int, parameters: float) -> int:
    """The least power of two with as many parameters as there are tokens; `parameters`: of one rank."""
    return 2 ** max(0, math.ceil(math.log2(max(1, tokens) / parameters)))


def largest_rank(facts: Facts, targets: Targets) -> int:
    """That the plan takes by itself. Raises UserError for layers that the base has not."""
    return min(LARGEST, smallest_dimension(facts.linear_shapes, targets))


def least_rank(objective: str) -> int:
    """Below which nothing that is left open goes: the objective's own, where it has one."""
    own = objective_of(objective).lora_rank
    return 1 if own is None else int(own[0])


def chosen_rank(
    name: str, facts: Facts, objective: str, targets: Targets, before: VersionBefore | None
) -> Reason:
    """By the spectrum of the version before, else by rule; of a method, and the layers that it targets."""
    if before is not None and before.spectrum is not None and before.target_modules == targets:
        assert before.rank is not None
        span = least_rank(objective), largest_rank(facts, targets)
        return _by_spectrum(before.rank, before.spectrum, *span)
    return _by_capacity(name, facts, objective, targets)


def _by_spectrum(rank: int, spectrum: str, least: int, most: int) -> Reason:
    """One step: twice the rank, half of it, or the same; a step down ends at `least`."""
    said = f"measured: the version before, of rank {rank},"
    if spectrum == "flat":
        value = max(rank, min(2 * rank, most))
        at_most = "" if value > rank else f"; {most} is the most that is taken"
        return Reason(FIELD, value, "measured", f"{said} used all of it alike (flat spectrum){at_most}")
    if spectrum == "collapsed":
        value = min(rank, max(least, rank // 2))
        at_least = "" if value == max(1, rank // 2) else f"; no step down goes below the objective's {least}"
        return Reason(
            FIELD, value, "measured", f"{said} used a quarter of it at most (rank collapse){at_least}"
        )
    return Reason(FIELD, rank, "measured", f"{said} used more than a quarter of it, not all alike: it fits")


def _by_capacity(name: str, facts: Facts, objective: str, targets: Targets) -> Reason:
    """A parameter for each trained token of an epoch, as far as that goes; the usual rank at least."""
    most = largest_rank(facts, targets)
    usual = defaults.lora_rank(name, facts.examples, objective, most)
    tokens = facts.trained_tokens
    needed = rank_for(tokens, adapter_parameters(facts.linear_shapes, 1, targets))
    if needed <= usual.value:
        more = f"; it has a parameter for each of {tokens:,} trained tokens"
        return Reason(FIELD, usual.value, "built-in", f"rule: {usual.reason}{more}")
    said = f"rule: a parameter for each of {tokens:,} trained tokens, as LoRA needs to do as well as full"
    if needed > most:
        said += f", would take rank {needed:,}; {most} is the most that is taken"
    return Reason(FIELD, max(min(needed, most), usual.value), "built-in", f"{said}; else {usual.value}")
