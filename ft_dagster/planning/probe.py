"""A probe: which methods at which learning rates are tried shortly before a plan is made, and what that says.

Arms are tried over the same rows in the same order, each from the base and for the same part of its own
training; the best by validation loss, of those that forget no more than that part may, are tried once more
for longer: successive halving (arXiv 1502.07943) in two rounds. Where the rank is open too, half and twice
the usual one are tried in the second, if the budget holds them. A share that pays for two whole trainings or
more is spent on these, in one round. Pure functions over the survey of all methods
and what the short trainings measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from typing import Any, NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.planning.facts import Facts
from ft_dagster.planning.load import LORA_LIKE, SOFT_PROMPTS
from ft_dagster.planning.methods import defaults
from ft_dagster.planning.methods.method_settings import resolve_method
from ft_dagster.planning.methods.rank import largest_rank, least_rank
from ft_dagster.planning.methods.training_settings import steps_of
from ft_dagster.planning.paired_losses import ByExample, difference
from ft_dagster.planning.reasons import Reasons
from ft_dagster.planning.survey import PlannedMethod, Survey, lora_settings, with_method
from ft_dagster.schema_version import refuse_newer
from ft_dagster.spec import VariantSpec
from ft_dagster.spec.variant import ProbeSpec
from ft_dagster.training.contract import LoraSettings, MethodSettings
from ft_dagster.training.training_figures import TrainingFigures

SCHEMA_VERSION = 3
FILE = "probe.json"
METHODS_TRIED = 2
# Times the rate that is usual for a method, the likeliest first; of which family alone, where of one.
RATES_TRIED = ((1.0, None), (3.0, None), (1 / 3, None))
WHOLLY_TRIED = (  # the same of whole trainings (benchmarks/README.md)
    (1.0, None), (5.0, "lora"), (2.5, "lora"), (2.0, "full"), (1.5, "lora"), (3.0, None), (1 / 3, None),
)  # fmt: skip
FINALISTS, LONGER = 2, 2  # arms of the second round, and how many times the steps of the first
RANK_MATTERS = 0.02  # of the loss: by less, the usual rank holds, since tuned LoRAs differ by 1 to 2%
MEASURING = 0.5  # of each training's FLOPs: a tenth would leave eight examples to choose by
FORGETTING_UNKNOWN = "what is forgotten was not measured: there is no general text"
LATER = ("rank", "examples", "whole")  # fields that were stored from some version on


class Arm(NamedTuple):
    """One thing that is tried. `rank`: of a LoRA, where the declaration leaves it open."""

    method: str
    learning_rate: float
    rank: int | None = None

    @property
    def name(self) -> str:
        ranked = "" if self.rank is None else f"-r{self.rank}"
        return f"{self.method}-{self.learning_rate:.0e}{ranked}"

    def __str__(self) -> str:
        ranked = "" if self.rank is None else f" and rank {self.rank}"
        return f"{self.method} at {self.learning_rate:g}{ranked}"


@dataclass(frozen=True)
class TriedArm:
    """What a short training of an arm measured, losses in nats a token.

    `validation`: number of examples -> the loss on the first so many. `general_rise`: of the loss on held-out
    general text, None without any. `flops`: of its steps and of what was measured. `failed`: why it came to
    nothing, a diverged loss among that. `whole`: steps of the training that it stands for, of whose limit it
    has a part; None: it has all of it.
    """

    method: str
    learning_rate: float
    steps: int
    validation: Mapping[str, float]
    general_rise: float | None = None
    flops: float | None = None
    failed: str | None = None
    rank: int | None = None
    examples: ByExample = ()
    whole: int | None = None

    @property
    def arm(self) -> Arm:
        return Arm(self.method, self.learning_rate, self.rank)

    def forgets_past(self, limit: float | None) -> bool:
        """By its part of the whole training's steps: what is forgotten grows about as they do."""
        part = 1.0 if self.whole is None else min(1.0, self.steps / self.whole)
        return limit is not None and (self.general_rise or 0.0) > limit * part


@dataclass(frozen=True)
class ProbePlan:
    """What is to be tried: `arms`, then some for longer. `steps`: of the method whose `whole` training has
    fewest; others take the same part of theirs. `share`: of the training's `flops`. `why`: in a sentence;
    with no arms, why nothing is tried. `ranks`: of the best LoRA, tried for longer beside it.
    """

    arms: tuple[Arm, ...]
    steps: int
    share: float
    why: str
    ranks: tuple[int, ...] = ()
    flops: float = 0.0
    whole: Mapping[str, int] = field(default_factory=dict)

    @property
    def wholly(self) -> bool:
        """Whether each arm is trained as long as the training that it stands for, by the estimate of that."""
        return bool(self.whole) and self.steps == min(self.whole.values())

    def steps_of(self, arm: Arm, times: int = 1) -> int:
        return round(times * self.steps * self.whole[arm.method] / min(self.whole.values()))

    def whole_of(self, arm: Arm) -> int | None:
        """None for a whole training, and for what is usual, which holds unless it forgets past the limit."""
        return None if self.wholly or arm == self.arms[0] else self.whole[arm.method]


@dataclass(frozen=True)
class ProbeResult:
    """What was tried, by round, and what it came to; without a `method` the usual values hold. `sentence`:
    of the plan's reasons. `rank`: None where no two were tried.
    """

    method: str | None
    learning_rate: float | None
    sentence: str
    rounds: tuple[tuple[TriedArm, ...], ...] = ()
    rank: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Without what says nothing, as it was written before there was any."""
        rounds = [[_without_empty(asdict(each)) for each in tried] for tried in self.rounds]
        return _without_empty({"schema_version": SCHEMA_VERSION, **asdict(self), "rounds": rounds})

    @classmethod
    def from_json(cls, content: Mapping[str, Any], *, file: object = None) -> ProbeResult:
        """Raises UserError for one of a newer version."""
        refuse_newer(content["schema_version"], SCHEMA_VERSION, file=file)
        rounds = tuple(tuple(map(_stored_arm, tried)) for tried in content["rounds"])
        method, rate, sentence = (content[name] for name in ("method", "learning_rate", "sentence"))
        return cls(method, rate, sentence, rounds, content.get("rank"))

    def applied(self, spec: VariantSpec) -> VariantSpec:
        """The declaration with what was found by trial in place of what it leaves open."""
        if self.method is None:
            return spec
        named = spec if spec.method.name == self.method else with_method(spec, self.method)
        training = named.training.model_copy(update={"learning_rate": self.learning_rate})
        return with_rank(named.model_copy(update={"training": training}), self.rank)


def with_rank(spec: VariantSpec, rank: int | None) -> VariantSpec:
    """The declaration with that rank in place of the one that it leaves open."""
    if rank is None:
        return spec
    return spec.model_copy(update={"method": spec.method.model_copy(update={"rank": rank})})


def leaves_open(spec: VariantSpec) -> bool:
    """Whether a probe is wanted and has anything to find."""
    open_values = _any_method(spec), spec.training.learning_rate is None, spec.method.rank == "auto"
    return spec.plan.probe is not None and any(open_values)


def plan_probe(spec: VariantSpec, facts: Facts, found: Survey, settings: ProbeSpec) -> ProbePlan:
    """What a probe would try, and for how long; no arms without validation rows, and where it would be dearer
    than the training, or than `share` where that is more.
    """
    if not facts.validated:
        return ProbePlan((), 0, 0.0, "nothing is tried: there is no validation split to compare on")
    arms, ranks = arms_of(spec, facts, found), _other_ranks(spec, facts, found)
    if len(arms) < 2:
        return ProbePlan((), 0, 0.0, "nothing is tried: one method fits, and the rate is declared")
    wholly = _whole_trainings(spec, facts, found, settings)
    if wholly is not None:
        return wholly
    fewest, flops = min(_whole(arms, facts, found).values()), _flops(found.chosen, facts)
    if fewest < 2 * LONGER:
        return ProbePlan((), 0, 0.0, f"nothing is tried: the training has {fewest} steps")

    def of(arms: tuple[Arm, ...], ranks: tuple[int, ...] = ()) -> ProbePlan:
        costs = [(1 + MEASURING) * cost / fewest for cost in _whole_costs(arms, facts, found)]
        longer = sum(sorted(costs)[-FINALISTS:]) * (len(arms) > FINALISTS or bool(ranks))
        one = sum(costs) + LONGER * (longer + len(ranks) * max(costs))
        tried = min(max(settings.steps, int(settings.share / one + 1e-9)), fewest // LONGER)
        whole = _whole(arms, facts, found)
        return _with_words(ProbePlan(arms, tried, tried * one, "", ranks, flops, whole), found)

    planned = of(arms, ranks)
    if ranks and planned.share <= settings.share:
        return planned
    while len(arms) > 1:
        planned = of(arms)
        if planned.share <= max(1.0, settings.share):
            return planned
        arms = arms[:-1]
    why = f"nothing is tried: {settings.steps} steps of each would exceed the training"
    return ProbePlan((), 0, 0.0, why)


def _whole_trainings(spec: VariantSpec, facts: Facts, found: Survey, settings: ProbeSpec) -> ProbePlan | None:
    """Of as many arms as `share` pays for, the likeliest first, other ranks last; None where that is one."""
    arms = arms_of(spec, facts, found, WHOLLY_TRIED)
    ranked = [arm for arm in arms if arm.rank is not None][:1]
    ranks = _other_ranks(spec, facts, found)
    arms += tuple(arm._replace(rank=rank) for arm in ranked for rank in ranks)
    costs = [(1 + MEASURING) * cost for cost in _whole_costs(arms, facts, found)]
    count = sum(spent <= settings.share for spent in accumulate(costs))
    if count < 2:
        return None
    whole, flops = _whole(arms[:count], facts, found), _flops(found.chosen, facts)
    planned = ProbePlan(arms[:count], min(whole.values()), sum(costs[:count]), "", (), flops, whole)
    return _with_words(planned, found)


def _with_words(planned: ProbePlan, found: Survey) -> ProbePlan:
    why = f"{_planned_words(planned)}: about {planned.share:.0%} of the training's FLOPs"
    return replace(planned, why=why + _priced(found, planned.share * planned.flops))


def _whole(arms: Sequence[Arm], facts: Facts, found: Survey) -> dict[str, int]:
    """Steps of each method's whole training."""
    return {arm.method: steps_of(found.planned[arm.method].resolved.training, facts) for arm in arms}


def _whole_costs(arms: Sequence[Arm], facts: Facts, found: Survey) -> list[float]:
    """Of each arm's whole training, without what is measured, over that of the chosen one."""
    return [_flops(found.planned[arm.method], facts) / _flops(found.chosen, facts) for arm in arms]


def arms_of(
    spec: VariantSpec, facts: Facts, found: Survey, tried: Sequence[tuple[float, str | None]] = RATES_TRIED
) -> tuple[Arm, ...]:
    """The likeliest first: the methods that fit in their order, one of each family, at their usual rates,
    then at those that are so many times as high; declared values alone where there are any. Where nothing
    but a rank is open, it is what differs.
    """
    methods = _methods(found) if _any_method(spec) else [found.chosen.resolved.name]
    declared = spec.training.learning_rate
    rates = [(1.0, None)] if declared is not None else tried
    (first, *more) = arms = tuple(
        dict.fromkeys(
            Arm(
                name,
                declared
                or _rounded(factor * defaults.learning_rate(name, facts.hidden_size, spec.objective).value),
                _open_rank(spec, found, name),
            )
            for factor, family in rates
            for name in methods
            if family in (None, _family(name))
        )
    )
    if more or first.rank is None:
        return arms
    return (first, *(first._replace(rank=rank) for rank in _around(first, spec, facts, found)))


def settings_of(arm: Arm, spec: VariantSpec, facts: Facts, found: Survey) -> MethodSettings:
    """The settings of an arm's method, as the trainer takes them."""
    if arm.rank is None:
        return found.planned[arm.method].resolved.method
    return resolve_method(with_rank(with_method(spec, arm.method), arm.rank), facts, Reasons())


def tried_arm(arm: Arm, steps: int, figures: TrainingFigures, whole: int | None = None) -> TriedArm:
    """What the figures of a short training say; losses that are not finite count as not measured. Where the
    one on general text is not, the arm has failed.
    """
    before, after = figures.general_holdout_loss_first, figures.general_holdout_loss_last
    rise = None if before is None or after is None else after - before
    known = figures.validation_loss_on.items()
    losses = {size: loss for size, loss in known if size.isdigit() and loss is not None}
    flops = None if figures.flops is None else figures.flops + (figures.measuring_flops or 0.0)
    failed = None if losses else "no finite validation loss came of it"
    if failed is None and before is not None and after is None:
        failed = "no finite loss on general text came of it"
    apart = figures.validation_by_example[: max(map(int, losses), default=0)]
    examples = tuple((loss, tokens) for loss, tokens in apart)
    method, rate, rank = arm
    return TriedArm(method, rate, steps, losses, rise, flops, failed, rank, examples, whole)


def finalists(tried: Sequence[TriedArm], limit: float | None, ranks: Sequence[int] = ()) -> list[Arm]:
    """The arms that are tried for longer, the better LoRA of them at other `ranks` too: none where there is
    nothing left to choose.
    """
    good = [each.arm for each in _ranked(tried, limit)[:FINALISTS]]
    best = next((arm for arm in good if arm.rank is not None), None)
    others = [] if best is None else [best._replace(rank=rank) for rank in ranks]
    enough = len(tried) > FINALISTS and len(good) > 1
    return [*good, *others] if enough or others else []


def conclude(
    rounds: Sequence[Sequence[TriedArm]], limit: float | None, *, wholly: bool = False
) -> ProbeResult:
    """The best of the last round in which anything forgot no more than its part of `limit`, the largest rise
    of general loss in a whole training; else of the last in which anything was measured. What is usual holds
    unless that is shown to be better, or all were trained `wholly`.
    """
    everything = tuple(tuple(each) for each in rounds)
    ranked, later = _deciding(everything, limit)
    if not ranked:
        raise UserError(
            f"every method and rate that was tried failed, the first for this: {everything[0][0].failed}",
            field="plan.probe",
            value=", ".join(str(each.arm) for each in everything[0]),
            fix="Look at the rows, or declare method and training.learning_rate",
        )
    best = ranked[0]
    free = wholly or best.forgets_past(limit)
    taken, why = (best, []) if free else _or_usual(best, everything, limit)
    failed = [str(each.arm) for each in everything[0] if each.failed]
    over = [str(each.arm) for each in ranked if each.whole and each.forgets_past(limit)]
    shorter = [] if taken in ranked else [f"{_words(taken, _common([taken]))} after {taken.steps}"]
    said = [
        *_compared(ranked, why),
        *shorter,
        *([f"{', '.join(failed)} diverged or failed"] if failed else []),
        *([f"{', '.join(map(str, later))} forgot too much or failed when tried for longer"] if later else []),
        *([f"{', '.join(over)} forgot more than its part, by steps, of {limit:g} nats"] if over else []),
        *([] if any(each.general_rise is not None for each in ranked) else [FORGETTING_UNKNOWN]),
        *why,
    ]
    ranks = {each.rank for tried in everything for each in tried if each.method == taken.method}
    rank = taken.rank if len(ranks) > 1 else None
    tried = "trained wholly, in" if wholly else "tried for"
    sentence = f"{tried} {_span([each.steps for each in ranked])} steps: {'; '.join(said)}"
    return ProbeResult(taken.method, taken.learning_rate, sentence, everything, rank)


def with_cost(result: ProbeResult, planned: ProbePlan) -> ProbeResult:
    """Its sentence with what it took and what was announced; as it is where FLOPs are not counted."""
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


def _deciding(
    rounds: Sequence[Sequence[TriedArm]], limit: float | None
) -> tuple[list[TriedArm], tuple[Arm, ...]]:
    """The arms of the round that decides, the best first; and those that it leaves out, since for longer they
    forgot too much or failed.
    """
    later: dict[Arm, None] = {}
    for tried in reversed(rounds):
        ranked = _ranked([each for each in tried if each.arm not in later], limit)
        if ranked and not ranked[0].forgets_past(limit):
            return ranked, tuple(later)
        later.update(dict.fromkeys(each.arm for each in tried))
    for place in reversed(range(len(rounds))):
        failed = {each.arm: None for tried in rounds[place + 1 :] for each in tried if each.failed}
        ranked = _ranked([each for each in rounds[place] if each.arm not in failed], limit)
        if ranked:
            return ranked, tuple(failed)
    return _ranked(rounds[0], limit), tuple(later)


def _or_usual(
    best: TriedArm, rounds: Sequence[Sequence[TriedArm]], limit: float | None
) -> tuple[TriedArm, list[str]]:
    """The best, or its like at the usual rank, or the arm that is usual; and why."""
    usual_rank = next((each.rank for each in rounds[0] if each.rank is not None), None)
    ranked_as_usual = best.arm if best.rank is None else best.arm._replace(rank=usual_rank)
    taken, why = best, list[str]()
    for usual in dict.fromkeys((ranked_as_usual, rounds[0][0].arm)):
        sides = (taken.arm, ranked_as_usual)  # a rank of the last round alone never stood beside all others
        both = [_of(tried, one, usual) for tried in reversed(rounds) for one in sides]
        pair = next((each for each in both if each), None)
        known = [each for tried in rounds for each in tried if each.arm == usual]
        if pair is None or any(each.failed or each.forgets_past(limit) for each in known):
            continue
        reason = _why_usual(*pair)
        if reason is not None:
            taken, why = pair[1], [*why, reason]
    return taken, why


def _of(tried: Sequence[TriedArm], one: Arm, other: Arm) -> tuple[TriedArm, TriedArm] | None:
    """Two arms as one round measured them; None where it did not."""
    found = {each.arm: each for each in tried if each.validation and each.failed is None}
    return (found[one], found[other]) if one != other and {one, other} <= found.keys() else None


def _why_usual(best: TriedArm, usual: TriedArm) -> str | None:
    """Why the second holds though the first is better; None where it does not."""
    on = _common((best, usual))
    alike = best.arm._replace(rank=usual.rank) == usual.arm
    if alike and usual.validation[on] <= (1 + RANK_MATTERS) * best.validation[on]:
        return f"by less than {RANK_MATTERS:.0%} the usual rank holds"
    found = difference(best.examples, usual.examples, int(on))
    if found is None or found.high < 0:
        return None
    return f"{usual.arm}, which is usual, holds: {best.arm} less it is {found}"


def _compared(ranked: Sequence[TriedArm], why: Sequence[str]) -> list[str]:
    """Each arm in words; then the best beside the next, where `why` does not say so."""
    on = _common(ranked)
    words = [_words(each, on) for each in ranked]
    if len(ranked) < 2:
        return words
    best, second = ranked[:2]
    found = difference(best.examples, second.examples, int(on))
    said = found is None or any(str(found) in each for each in why)
    return words if said else [*words, f"{best.arm} less {second.arm} is {found}"]


def _methods(found: Survey) -> list[str]:
    """The best of each family that fits, soft prompts where nothing else does."""
    fitting = [row.method for row in found.decision.ranking if row.fits and row.method in found.planned]
    weights = [name for name in fitting if name not in SOFT_PROMPTS]
    families: dict[str, str] = {}
    for name in weights or fitting:
        families.setdefault(_family(name), name)
    return list(families.values())[:METHODS_TRIED]


def _family(name: str) -> str:
    return "lora" if name in LORA_LIKE else name


def _any_method(spec: VariantSpec) -> bool:
    return spec.method.name == "auto" and not lora_settings(spec)


def _open_rank(spec: VariantSpec, found: Survey, name: str) -> int | None:
    """The rank of a method by its plan, where the declaration leaves it open."""
    method = found.planned[name].resolved.method
    return method.rank if spec.method.rank == "auto" and isinstance(method, LoraSettings) else None


def _other_ranks(spec: VariantSpec, facts: Facts, found: Survey) -> tuple[int, ...]:
    """What is tried beside the usual rank of the best LoRA, once methods and rates were."""
    arms = arms_of(spec, facts, found)
    first = next((arm for arm in arms if arm.rank is not None), None)
    varied = {arm.rank for arm in arms if arm.rank is not None}
    return () if first is None or len(varied) > 1 else _around(first, spec, facts, found)


def _around(arm: Arm, spec: VariantSpec, facts: Facts, found: Survey) -> tuple[int, ...]:
    """Half and twice the rank of an arm, as far as the objective and the layers allow."""
    method = found.planned[arm.method].resolved.method
    assert isinstance(method, LoraSettings)
    most = max(method.rank, largest_rank(facts, method.target_modules))
    near = (method.rank // 2, min(2 * method.rank, most))
    return tuple(rank for rank in near if rank != method.rank and rank >= least_rank(spec.objective))


def _planned_words(planned: ProbePlan) -> str:
    arms, ranks = planned.arms, planned.ranks
    if planned.wholly:
        return f"{len(arms)} whole trainings of {_span([planned.steps_of(arm) for arm in arms])} steps"
    first, longer = (_span([planned.steps_of(arm, times) for arm in arms]) for times in (1, LONGER))
    again = f", then the best {FINALISTS} of {longer}" if len(arms) > FINALISTS or ranks else ""
    beside = f", at rank {' and '.join(map(str, ranks))} too" if ranks else ""
    return f"{len(arms)} short trainings of {first} steps{again}{beside}"


def _span(steps: Sequence[int]) -> str:
    return " to ".join(map(str, sorted({min(steps), max(steps)})))


def _priced(found: Survey, flops: float) -> str:
    """Hours and USD of so many FLOPs at the speed that is expected of the training, where they are known."""
    training = found.decision.row(found.chosen.resolved.name).figures.training
    if training is None or training.hours is None:
        return ""
    spent = training.times(flops / training.flops)
    usd = "" if spent.usd is None else f", ${spent.usd:,.2f}"
    return f", {spent.hours:,.2f} h{usd} beside what it takes to start them"


def _stored_arm(content: Mapping[str, Any]) -> TriedArm:
    examples = tuple((loss, tokens) for loss, tokens in content.get("examples", ()))
    return TriedArm(**{**content, "examples": examples})


def _without_empty(content: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name not in LATER or value not in (None, ())}


def _flops(planned: PlannedMethod, facts: Facts) -> float:
    """Of all optimizer steps of a method's training."""
    return steps_of(planned.resolved.training, facts) * _step_cost(planned, facts)


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
        over = each.forgets_past(limit)
        return over, (each.general_rise or 0.0) if over else each.validation[on]

    return sorted(done, key=order)


def _common(tried: Sequence[TriedArm]) -> str:
    return max(set.intersection(*(set(each.validation) for each in tried)), key=int)


def _words(each: TriedArm, on: str) -> str:
    general = "" if each.general_rise is None else f", general text {each.general_rise:+.3f}"
    return f"{each.arm} {each.validation[on]:.3f} on {on} examples{general}"


def _rounded(rate: float) -> float:
    """To one digit, as rates are written."""
    return float(f"{rate:.0e}")
