"""Concludes from what was tried in a probe. Pure functions over what the trainings measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.planning.methods.resolved import with_method
from ft_dagster.planning.paired_losses import ByExample, difference
from ft_dagster.schema_version import refuse_newer, refuse_newer_fields
from ft_dagster.spec import VariantSpec
from ft_dagster.training.training_figures import TrainingFigures

SCHEMA_VERSION = 3
FINALISTS = 2  # arms that are tried once more, for longer
FORGETTING_UNKNOWN = "what is forgotten was not measured: there is no general text"
LATER = ("examples", "whole")  # fields that were stored from some version on


class Arm(NamedTuple):
    """Is one thing that is tried."""

    method: str
    learning_rate: float

    @property
    def name(self) -> str:
        return f"{self.method}-{self.learning_rate:.0e}"

    def __str__(self) -> str:
        return f"{self.method} at {self.learning_rate:g}"


@dataclass(frozen=True)
class TriedArm:
    """Holds what a short training of an arm measured, losses in nats a token.

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
    examples: ByExample = ()
    whole: int | None = None

    @property
    def arm(self) -> Arm:
        return Arm(self.method, self.learning_rate)

    def forgets_past(self, limit: float | None) -> bool:
        """Say whether it forgets past its part of the limit, by steps: what is forgotten grows about as they
        do.
        """
        part = 1.0 if self.whole is None else min(1.0, self.steps / self.whole)
        return limit is not None and (self.general_rise or 0.0) > limit * part


@dataclass(frozen=True)
class ProbeResult:
    """Holds what was tried, by round, and what it came to; without a `method` the usual values hold.
    `sentence`: of the plan's reasons.
    """

    method: str | None
    learning_rate: float | None
    sentence: str
    rounds: tuple[tuple[TriedArm, ...], ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return the result without what says nothing, as it was written before there was any."""
        rounds = [[_without_empty(asdict(each)) for each in tried] for tried in self.rounds]
        return _without_empty({"schema_version": SCHEMA_VERSION, **asdict(self), "rounds": rounds})

    @classmethod
    def from_json(cls, content: Mapping[str, Any], *, file: object = None) -> ProbeResult:
        """Read a result; a rank that an older version tried is passed over. Raises UserError for a newer
        version.
        """
        refuse_newer(content["schema_version"], SCHEMA_VERSION, file=file)
        with refuse_newer_fields(file):
            rounds = tuple(tuple(map(_stored_arm, tried)) for tried in content["rounds"])
        method, rate, sentence = (content[name] for name in ("method", "learning_rate", "sentence"))
        return cls(method, rate, sentence, rounds)

    def applied(self, spec: VariantSpec) -> VariantSpec:
        """Return the declaration with what was found by trial in place of what it leaves open."""
        if self.method is None:
            return spec
        named = spec if spec.method.name == self.method else with_method(spec, self.method)
        training = named.training.model_copy(update={"learning_rate": self.learning_rate})
        return named.model_copy(update={"training": training})


def tried_arm(arm: Arm, steps: int, figures: TrainingFigures, whole: int | None = None) -> TriedArm:
    """Return what the figures of a short training say; losses that are not finite count as not measured.
    Where the one on general text is not, the arm has failed.
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
    method, rate = arm
    return TriedArm(method, rate, steps, losses, rise, flops, failed, examples, whole)


def finalists(tried: Sequence[TriedArm], limit: float | None) -> list[Arm]:
    """Return the arms that are tried for longer: none where there is nothing left to choose."""
    good = [each.arm for each in _ranked(tried, limit)[:FINALISTS]]
    return good if len(tried) > FINALISTS and len(good) > 1 else []


def conclude(
    rounds: Sequence[Sequence[TriedArm]], limit: float | None, *, wholly: bool = False
) -> ProbeResult:
    """Conclude on the best of the last round in which anything forgot no more than its part of `limit`, the
    largest rise of general loss in a whole training; else of the last in which anything was measured. What is
    usual holds unless that is shown to be better, or all were trained `wholly`.
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
    tried = "trained wholly, in" if wholly else "tried for"
    sentence = f"{tried} {span_of([each.steps for each in ranked])} steps: {'; '.join(said)}"
    return ProbeResult(taken.method, taken.learning_rate, sentence, everything)


def _deciding(
    rounds: Sequence[Sequence[TriedArm]], limit: float | None
) -> tuple[list[TriedArm], tuple[Arm, ...]]:
    """Return the arms of the round that decides, the best first; and those that it leaves out, since for
    longer they forgot too much or failed.
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
    """Return the best, or the arm that is usual; and why."""
    usual = rounds[0][0].arm
    both = (_of(tried, best.arm, usual) for tried in reversed(rounds))
    pair = next((each for each in both if each), None)
    known = [each for tried in rounds for each in tried if each.arm == usual]
    if pair is None or any(each.failed or each.forgets_past(limit) for each in known):
        return best, []
    reason = _why_usual(*pair)
    return (best, []) if reason is None else (pair[1], [reason])


def _of(tried: Sequence[TriedArm], one: Arm, other: Arm) -> tuple[TriedArm, TriedArm] | None:
    """Return two arms as one round measured them; None where it did not."""
    found = {each.arm: each for each in tried if each.validation and each.failed is None}
    return (found[one], found[other]) if one != other and {one, other} <= found.keys() else None


def _why_usual(best: TriedArm, usual: TriedArm) -> str | None:
    """Say why the second holds though the first is better; None where it does not."""
    on = _common((best, usual))
    found = difference(best.examples, usual.examples, int(on))
    if found is None or found.high < 0:
        return None
    return f"{usual.arm}, which is usual, holds: {best.arm} less it is {found}"


def _compared(ranked: Sequence[TriedArm], why: Sequence[str]) -> list[str]:
    """Say each arm in words; then the best beside the next, where `why` does not say so."""
    on = _common(ranked)
    words = [_words(each, on) for each in ranked]
    if len(ranked) < 2:
        return words
    best, second = ranked[:2]
    found = difference(best.examples, second.examples, int(on))
    said = found is None or any(str(found) in each for each in why)
    return words if said else [*words, f"{best.arm} less {second.arm} is {found}"]


def _stored_arm(content: Mapping[str, Any]) -> TriedArm:
    examples = tuple((loss, tokens) for loss, tokens in content.get("examples", ()))
    known = {name: value for name, value in content.items() if name != "rank"}
    return TriedArm(**{**known, "examples": examples})


def _without_empty(content: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name not in LATER or value not in (None, ())}


def _ranked(tried: Sequence[TriedArm], limit: float | None) -> list[TriedArm]:
    """Rank by validation loss on the examples that all measured; those that forget too much last."""
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


def span_of(steps: Sequence[int]) -> str:
    return " to ".join(map(str, sorted({min(steps), max(steps)})))
