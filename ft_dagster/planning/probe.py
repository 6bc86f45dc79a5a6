"""Plans a probe: which methods at which learning rates are tried shortly before a plan is made, and what that
says.

Arms are tried over the same rows in the same order, each from the base and for the same part of its own
training; the best by validation loss, of those that forget no more than that part may, are tried once more
for longer: successive halving (arXiv 1502.07943) in two rounds. A share that pays for two whole trainings or
more is spent on these, in one round. Pure functions over the survey of all methods; what the trainings came
to is in `trials`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from ft_dagster.methods import method_of
from ft_dagster.planning.facts import Facts
from ft_dagster.planning.methods import defaults
from ft_dagster.planning.methods.question import NO_PROBE, ProbeCost
from ft_dagster.planning.methods.resolved import leaves_method_open
from ft_dagster.planning.methods.training_settings import steps_of
from ft_dagster.planning.planned_method import PlannedMethod
from ft_dagster.planning.survey import Survey
from ft_dagster.planning.trials import FINALISTS, Arm, ProbeResult, span_of
from ft_dagster.planning.watched import least_tokens, step_tokens
from ft_dagster.program import of_hours
from ft_dagster.spec import VariantSpec
from ft_dagster.spec.variant import ProbeSpec
from ft_dagster.training.watch.budget import forward_share

FILE = "probe.json"
METHODS_TRIED = 2
# Times the rate that is usual for a method, the likeliest first; of which family alone, where of one.
RATES_TRIED = ((1.0, None), (3.0, None), (1 / 3, None))
WHOLLY_TRIED = (  # the same of whole trainings (benchmarks/notes/decisions.md)
    (1.0, None), (5.0, "layers"), (2.5, "layers"), (2.0, "weights"), (1.5, "layers"), (3.0, None),
    (1 / 3, None),
)  # fmt: skip
LONGER = 2  # times the steps of the first round, in the second
FEW = 16  # validation examples: the best of whole trainings by so many lost up to 4.8%, by 8 up to 8.5%
MEASURING = 0.5  # of each training's FLOPs: a tenth would leave eight examples to choose by


@dataclass(frozen=True)
class ProbePlan:
    """Describes what is to be tried: `arms`, then some for longer. `steps`: of the method whose `whole`
    training has fewest; others take the same part of theirs. `share`: of the training's `flops`. `why`: in a
    sentence; with no arms, why nothing is tried. `cost`: of all of them.
    """

    arms: tuple[Arm, ...]
    steps: int
    share: float
    why: str
    flops: float = 0.0
    whole: Mapping[str, int] = field(default_factory=dict)
    cost: ProbeCost = NO_PROBE

    @property
    def wholly(self) -> bool:
        """Say whether each arm is trained as long as the training that it stands for, by the estimate of
        that.
        """
        return bool(self.whole) and self.steps == min(self.whole.values())

    def steps_of(self, arm: Arm, times: int = 1) -> int:
        return round(times * self.steps * self.whole[arm.method] / min(self.whole.values()))

    def whole_of(self, arm: Arm) -> int | None:
        """Return the steps of the training that an arm stands for; None for a whole training, and for what is
        usual, which holds unless it forgets past the limit.
        """
        return None if self.wholly or arm == self.arms[0] else self.whole[arm.method]


def leaves_open(spec: VariantSpec) -> bool:
    """Say whether a probe is wanted and has anything to find."""
    is_open = leaves_method_open(spec) or spec.training.learning_rate is None
    return spec.plan.probe is not None and is_open


def plan_probe(spec: VariantSpec, facts: Facts, found: Survey, settings: ProbeSpec) -> ProbePlan:
    """Plan what a probe would try, and for how long; no arms without validation rows, and where it would be
    dearer than the training, or than `share` where that is more.
    """
    if not facts.validation:
        return ProbePlan((), 0, 0.0, "nothing is tried: there is no validation split to compare on")
    arms = arms_of(spec, facts, found)
    if len(arms) < 2:
        return ProbePlan((), 0, 0.0, "nothing is tried: one method fits, and the rate is declared")
    wholly = _whole_trainings(spec, facts, found, settings)
    if wholly is not None:
        return wholly
    fewest, flops = min(_whole(arms, facts, found).values()), _flops(found.chosen, facts)
    if fewest < 2 * LONGER:
        return ProbePlan((), 0, 0.0, f"nothing is tried: the training has {fewest} steps")

    def of(arms: tuple[Arm, ...]) -> ProbePlan:
        whole = _whole(arms, facts, found)
        first = sorted(_whole_costs(arms, facts, found))
        dearest = first[-FINALISTS:] if len(arms) > FINALISTS else []
        longer = [LONGER * cost for cost in dearest]
        a_step = [cost / fewest for cost in (*first, *longer)]
        look = _look(arms, spec, facts, found)
        affordable = (settings.share - look) / ((1 + MEASURING) * sum(a_step))
        tried = min(max(settings.steps, int(affordable + 1e-9)), fewest // LONGER)
        share = look + sum(tried * each + max(MEASURING * tried * each, look) for each in a_step)
        return _with_words(ProbePlan(arms, tried, share, "", flops, whole), facts, found)

    while len(arms) > 1:
        planned = of(arms)
        if planned.share <= max(1.0, settings.share):
            return planned
        arms = arms[:-1]
    why = f"nothing is tried: {settings.steps} steps of each would exceed the training"
    return ProbePlan((), 0, 0.0, why)


def _whole_trainings(spec: VariantSpec, facts: Facts, found: Survey, settings: ProbeSpec) -> ProbePlan | None:
    """Plan whole trainings of as many arms as `share` pays for, the likeliest first; None where that is
    one.
    """
    arms = arms_of(spec, facts, found, WHOLLY_TRIED)
    look = _look(arms, spec, facts, found)
    costs = [cost + max(MEASURING * cost, look) for cost in _whole_costs(arms, facts, found)]
    costs[0] += look  # the base's own
    count = sum(spent <= settings.share for spent in accumulate(costs))
    if count < 2:
        return None
    whole, flops = _whole(arms[:count], facts, found), _flops(found.chosen, facts)
    planned = ProbePlan(arms[:count], min(whole.values()), sum(costs[:count]), "", flops, whole)
    return _with_words(planned, facts, found)


def _with_words(planned: ProbePlan, facts: Facts, found: Survey) -> ProbePlan:
    spent = f"about {planned.share:.0%} of the training's FLOPs"
    cost = _cost(found, planned.share * planned.flops)
    rows = f"{facts.validation} validation row{'s' * (facts.validation > 1)}"
    said = f"; by {rows} alone, which may choose by chance" if facts.validation < FEW else ""
    return replace(planned, why=f"{_planned_words(planned)}: {spent}{_priced(cost)}{said}", cost=cost)


def _whole(arms: Sequence[Arm], facts: Facts, found: Survey) -> dict[str, int]:
    """Return the steps of each method's whole training."""
    return {arm.method: steps_of(found.planned[arm.method].resolved.training, facts) for arm in arms}


def _whole_costs(arms: Sequence[Arm], facts: Facts, found: Survey) -> list[float]:
    """Return the cost of each arm's whole training, without what is measured, over that of the chosen one."""
    return [_flops(found.planned[arm.method], facts) / _flops(found.chosen, facts) for arm in arms]


def arms_of(
    spec: VariantSpec, facts: Facts, found: Survey, tried: Sequence[tuple[float, str | None]] = RATES_TRIED
) -> tuple[Arm, ...]:
    """Return the arms, the likeliest first: the methods that fit in their order, one of each family, at their
    usual rates, then at those that are so many times as high; declared values alone where there are any.
    """
    methods = _methods(found) if leaves_method_open(spec) else [found.chosen.resolved.name]
    declared = spec.training.learning_rate
    rates = [(1.0, None)] if declared is not None else tried
    return tuple(
        dict.fromkeys(
            Arm(
                name,
                declared
                or _rounded(factor * defaults.learning_rate(name, facts.hidden_size, spec.objective).value),
            )
            for factor, family in rates
            for name in methods
            if family in (None, _family(name))
        )
    )


def with_cost(result: ProbeResult, planned: ProbePlan) -> ProbeResult:
    """Return the result, its sentence with what it took and what was announced; as it is where FLOPs are not
    counted.
    """
    flops = [each.flops for tried in result.rounds for each in tried]
    known = [each for each in flops if each is not None]
    if not known:
        return result
    least = "at least " if len(known) < len(flops) else ""
    said = (
        f"{result.sentence}; they took {least}{sum(known) / planned.flops:.0%} of the training's FLOPs, "
        f"where {planned.share:.0%} were announced"
    )
    return replace(result, sentence=said)


def _methods(found: Survey) -> list[str]:
    """Return the best of each family that fits, soft prompts where nothing else does."""
    fitting = [row.method for row in found.decision.ranking if row.fits and row.method in found.planned]
    weights = [name for name in fitting if method_of(name).trains != "prompt"]
    families: dict[str, str] = {}
    for name in weights or fitting:
        families.setdefault(_family(name), name)
    return list(families.values())[:METHODS_TRIED]


def _family(name: str) -> str:
    """Return a method's family: methods of one are told apart by their bytes alone; each soft prompt is one
    of its own.
    """
    trains = method_of(name).trains
    return name if trains == "prompt" else trains


def _planned_words(planned: ProbePlan) -> str:
    arms = planned.arms
    if planned.wholly:
        return f"{len(arms)} whole trainings of {span_of([planned.steps_of(arm) for arm in arms])} steps"
    first, longer = (span_of([planned.steps_of(arm, times) for arm in arms]) for times in (1, LONGER))
    again = f", then the best {FINALISTS} of {longer}" if len(arms) > FINALISTS else ""
    return f"{len(arms)} short trainings of {first} steps{again}"


def _cost(found: Survey, flops: float) -> ProbeCost:
    """Compute the cost of so many FLOPs at the speed that is expected of the training."""
    training = found.decision.row(found.chosen.resolved.name).figures.training
    if training is None:
        return NO_PROBE
    spent = training.times(flops / training.flops)
    return ProbeCost(spent.hours, spent.usd)


def _priced(cost: ProbeCost) -> str:
    """Say a cost in words, where it is known."""
    if cost.hours is None:
        return ""
    usd = "" if cost.usd is None else f", ${cost.usd:,.2f}"
    return f", {of_hours(cost.hours)}{usd} beside what it takes to start them"


def _flops(planned: PlannedMethod, facts: Facts) -> float:
    """Count the FLOPs of all optimizer steps of a method's training."""
    return steps_of(planned.resolved.training, facts) * _step_cost(planned, facts)


def _look(arms: Sequence[Arm], spec: VariantSpec, facts: Facts, found: Survey) -> float:
    """Count the least that is measured of an arm, over the FLOPs of the chosen training: of the dearest."""

    def flops(planned: PlannedMethod) -> float:
        training = planned.resolved.training
        tokens = sum(least_tokens(spec, facts, training))
        checkpointing = training.gradient_checkpointing
        forward = forward_share(planned.resolved.method, gradient_checkpointing=checkpointing)
        return forward * planned.candidate.flops_per_token * tokens

    return max(flops(found.planned[arm.method]) for arm in arms) / _flops(found.chosen, facts)


def _step_cost(planned: PlannedMethod, facts: Facts) -> float:
    """Count the FLOPs of one optimizer step."""
    return planned.candidate.flops_per_token * step_tokens(facts, planned.resolved.training)


def _rounded(rate: float) -> float:
    """Round to one digit, as rates are written."""
    return float(f"{rate:.0e}")
