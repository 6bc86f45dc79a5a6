"""A probe: which methods at which learning rates are tried shortly before a plan is made, and what that says.

Arms are tried over the same rows in the same order, each from the base; the best by validation loss, of those
that forget no more than is allowed, are tried once more for longer: successive halving (arXiv 1502.07943) in
two rounds. Pure functions over the survey of all methods and what the short trainings measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.planning.facts import Facts
from ft_dagster.planning.load import LORA_LIKE, SOFT_PROMPTS
from ft_dagster.planning.methods import defaults
from ft_dagster.planning.methods.training_settings import steps_of
from ft_dagster.planning.survey import PlannedMethod, Survey, lora_settings, with_method
from ft_dagster.schema_version import refuse_newer
from ft_dagster.spec import VariantSpec
from ft_dagster.spec.variant import ProbeSpec
from ft_dagster.training.training_figures import TrainingFigures

SCHEMA_VERSION = 1
FILE = "probe.json"
METHODS_TRIED = 2
RATES_TRIED = (1.0, 3.0, 1 / 3)  # times the rate that is usual for a method
FINALISTS, LONGER = 2, 2  # arms of the second round, and how many times the steps of the first
MEASURING = 0.5  # of a short training's FLOPs, which a tenth would leave with eight examples


class Arm(NamedTuple):
    """One thing that is tried."""

    method: str
    learning_rate: float

    @property
    def name(self) -> str:
        return f"{self.method}-{self.learning_rate:.0e}"

    def __str__(self) -> str:
        return f"{self.method} at {self.learning_rate:g}"


@dataclass(frozen=True)
class TriedArm:
    """What a short training of an arm measured, losses in nats a token.

    `validation`: number of examples -> the loss on the first so many. `general_rise`: of the loss on held-out
    general text, None without any. `failed`: why it came to nothing, a diverged loss among that.
    """

    method: str
    learning_rate: float
    steps: int
    validation: Mapping[str, float]
    general_rise: float | None = None
    flops: float | None = None
    failed: str | None = None

    @property
    def arm(self) -> Arm:
        return Arm(self.method, self.learning_rate)


@dataclass(frozen=True)
class ProbePlan:
    """What is to be tried: `arms` for `steps` each, then some for longer. `share`: of the training's FLOPs.
    `why`: in a sentence; with no arms, why nothing is tried.
    """

    arms: tuple[Arm, ...]
    steps: int
    share: float
    why: str


@dataclass(frozen=True)
class ProbeResult:
    """What was tried, by round, and what it came to; without a `method` the usual values hold. `sentence`:
    of the plan's reasons.
    """

    method: str | None
    learning_rate: float | None
    sentence: str
    rounds: tuple[tuple[TriedArm, ...], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], *, file: object = None) -> ProbeResult:
        """Raises UserError for one of a newer version."""
        refuse_newer(content["schema_version"], SCHEMA_VERSION, file=file)
        rounds = tuple(tuple(TriedArm(**arm) for arm in tried) for tried in content["rounds"])
        return cls(content["method"], content["learning_rate"], content["sentence"], rounds)

    def applied(self, spec: VariantSpec) -> VariantSpec:
        """The declaration with what was found by trial in place of what it leaves open."""
        if self.method is None:
            return spec
        named = spec if spec.method.name == self.method else with_method(spec, self.method)
        training = named.training.model_copy(update={"learning_rate": self.learning_rate})
        return named.model_copy(update={"training": training})


def leaves_open(spec: VariantSpec) -> bool:
    """Whether a probe is wanted and has anything to find."""
    return spec.plan.probe is not None and (_any_method(spec) or spec.training.learning_rate is None)


def plan_probe(spec: VariantSpec, facts: Facts, found: Survey, settings: ProbeSpec) -> ProbePlan:
    """What a probe would try, and for how long; no arms where it would be dearer than the training."""
    chosen = found.chosen
    steps = steps_of(chosen.resolved.training, facts)
    if steps < 2 * LONGER:
        return ProbePlan((), 0, 0.0, f"nothing is tried: the training has {steps} steps")
    training = steps * _step_cost(chosen, facts)
    arms = arms_of(spec, found)
    if len(arms) < 2:
        return ProbePlan((), 0, 0.0, "nothing is tried: one method fits, and the rate is declared")
    while len(arms) > 1:
        costs = [(1 + MEASURING) * _step_cost(found.planned[arm.method], facts) for arm in arms]
        one = sum(costs) + LONGER * sum(sorted(costs)[-FINALISTS:]) * (len(arms) > FINALISTS)
        tried = min(max(settings.steps, int(settings.share * training / one)), steps // LONGER)
        share = tried * one / training
        if share <= 1:
            again = f", then the best {FINALISTS} of {LONGER * tried}" if len(arms) > FINALISTS else ""
            why = (
                f"{len(arms)} short trainings of {tried} steps{again}: "
                f"about {share:.0%} of the training's FLOPs"
            )
            return ProbePlan(arms, tried, share, why)
        arms = arms[:-1]
    why = f"nothing is tried: {settings.steps} steps of each would exceed the training"
    return ProbePlan((), 0, 0.0, why)


def arms_of(spec: VariantSpec, found: Survey) -> tuple[Arm, ...]:
    """The likeliest first: the methods that fit in their order, one of each family, at their usual rates,
    then at three times and at a third of them; declared values alone where there are any.
    """
    methods = _methods(found) if _any_method(spec) else [found.chosen.resolved.name]
    declared = spec.training.learning_rate
    rates = [1.0] if declared is not None else RATES_TRIED
    return tuple(
        Arm(name, declared or _rounded(factor * defaults.LEARNING_RATES[name].value))
        for factor in rates
        for name in methods
    )


def tried_arm(arm: Arm, steps: int, figures: TrainingFigures) -> TriedArm:
    """What the figures of a short training say; losses that are not finite count as not measured."""
    before, after = figures.general_holdout_loss_first, figures.general_holdout_loss_last
    rise = None if before is None or after is None else after - before
    known = figures.validation_loss_on.items()
    losses = {size: loss for size, loss in known if size.isdigit() and loss is not None}
    flops = None if figures.flops is None else float(figures.flops)
    if not losses:
        return TriedArm(*arm, steps, {}, rise, flops, "no finite validation loss came of it")
    return TriedArm(*arm, steps, losses, rise, flops)


def finalists(tried: Sequence[TriedArm], limit: float | None) -> list[Arm]:
    """The arms that are tried for longer: none where there is nothing left to choose."""
    good = _ranked(tried, limit)
    return [each.arm for each in good[:FINALISTS]] if len(tried) > FINALISTS and len(good) > 1 else []


def conclude(rounds: Sequence[Sequence[TriedArm]], limit: float | None) -> ProbeResult:
    """The best of the last round in which anything was measured. `limit`: largest rise of general loss."""
    everything = tuple(tuple(each) for each in rounds)
    for tried in reversed(everything):
        ranked = _ranked(tried, limit)
        if ranked:
            best, on = ranked[0], _common(ranked)
            said = "; ".join(_words(each, on) for each in ranked)
            failed = [each for each in everything[0] if each.failed]
            lost = f"; {', '.join(str(each.arm) for each in failed)} diverged or failed" if failed else ""
            sentence = f"tried for {best.steps} steps: {said}{lost}"
            return ProbeResult(best.method, best.learning_rate, sentence, everything)
    raise UserError(
        f"every method and rate that was tried failed, the first for this: {everything[0][0].failed}",
        field="plan.probe",
        value=", ".join(str(each.arm) for each in everything[0]),
        fix="Look at the rows, or declare method and training.learning_rate",
    )


def _methods(found: Survey) -> list[str]:
    """The best of each family that fits, soft prompts where nothing else does."""
    fitting = [row.method for row in found.decision.ranking if row.fits and row.method in found.planned]
    weights = [name for name in fitting if name not in SOFT_PROMPTS]
    families: dict[str, str] = {}
    for name in weights or fitting:
        families.setdefault("lora" if name in LORA_LIKE else name, name)
    return list(families.values())[:METHODS_TRIED]


def _any_method(spec: VariantSpec) -> bool:
    return spec.method.name == "auto" and not lora_settings(spec)


def _step_cost(planned: PlannedMethod, facts: Facts) -> float:
    """FLOPs of one optimizer step."""
    training = planned.resolved.training
    rows = training.per_device_train_batch_size * training.gradient_accumulation_steps * facts.ranks
    length = training.max_length if training.packing else facts.tokens / facts.examples
    return planned.candidate.flops_per_token * rows * length


def _ranked(tried: Sequence[TriedArm], limit: float | None) -> list[TriedArm]:
    """By validation loss on the examples that all measured; those that forget too much last."""
    done = [each for each in tried if each.failed is None and each.validation]
    if not done:
        return []
    on = _common(done)

    def order(each: TriedArm) -> tuple[bool, float]:
        rise = each.general_rise or 0.0
        over = limit is not None and rise > limit
        return over, rise if over else each.validation[on]

    return sorted(done, key=order)


def _common(tried: Sequence[TriedArm]) -> str:
    return max(set.intersection(*(set(each.validation) for each in tried)), key=int)


def _words(each: TriedArm, on: str) -> str:
    general = "" if each.general_rise is None else f", general text {each.general_rise:+.3f}"
    return f"{each.arm} {each.validation[on]:.3f} on {on} examples{general}"


def _rounded(rate: float) -> float:
    """To one digit, as rates are written."""
    return float(f"{rate:.0e}")
