"""Computes how many questions a paired comparison needs, and what so many can show: arithmetic for plans and
verdicts.

That of the test which `paired` applies (Gaffke's, in `gaffke`): its normal approximation, its least number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple, cast

from ft_dagster.errors import UserError
from ft_dagster.gate.level import ALPHA, level_of
from ft_dagster.gate.prompts import PROMPTS
from ft_dagster.gate.samples import FORMER, TEST_SPLIT_TASK
from ft_dagster.lineage.verdict import RuleName
from ft_dagster.spec.data import HELD_OUT_TEXTS, MOST_HELD_OUT
from ft_dagster.spec.variant import EvaluationSpec, GatesSpec, VariantSpec

POWER = 0.80
# Nats a token: a text counts up to so many unless gates.loss_bound says more, and is of the tail beyond them.
LOSS_BOUND: float = GatesSpec.model_fields["loss_bound"].default
LOSS_TAIL: float = GatesSpec.model_fields["loss_tail"].default
SUCCESSORS = ("regression", "reference")  # rules that compare versions with those before
OWN_NAMES = (TEST_SPLIT_TASK, *FORMER)  # what declarations call the test split's task
DISCORDANT = 0.10  # share of the answers that differ between base and tuned model, before any is known


def least_questions(margin: float, *, bound: float = 1.0, alpha: float = ALPHA) -> int:
    """Return the number of questions from which on a rule can pass at all; `bound`: by how much one answer
    can change.

    With a margin: of a model of which not one answer changed, n = ln(alpha) / ln(1 - margin / bound). With
    none: of a model that became better by `bound` in each, n = ln(alpha) / ln(1/2).
    """
    share = margin / bound if margin else 0.5
    return 1 if share >= 1 else math.ceil(math.log(alpha) / math.log1p(-max(share, 1e-300)) - 1e-9)


@dataclass(frozen=True)
class PairedTest:
    """Computes what Gaffke's test of level `alpha` can show, by its normal approximation.

    `spread`: variance of one question's change; of right-or-wrong answers, the share that differs. `bound`:
    by how much one answer can change. `power`: with what probability it is to show that nothing fell.
    """

    spread: float = DISCORDANT
    bound: float = 1.0
    power: float = POWER
    alpha: float = ALPHA

    def questions_needed(self, margin: float) -> int:
        """Return the number of questions, asked of both models, that show a fall to be below `margin` where
        nothing truly fell.

        It is the smallest n with

            n m - (bound - m) >= z(1 - alpha) sqrt(n (spread + m^2) + (bound - m)^2) + z(power) sqrt(n spread)

        and never below `least_questions`. Raises UserError for a margin not above 0 and at most `bound`.
        """
        if not 0 < margin <= self.bound:
            raise UserError(
                f"no number of questions shows a margin that is not above 0 and at most {self.bound:g}",
                field="margin",
                value=margin,
                fix="Allow a fall, such as 0.02",
            )
        low, high = 0, 1
        while not self.would_show(margin, high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.would_show(margin, middle) else (middle, high)
        return high

    def margin_seen(self, questions: float) -> float:
        """Return the smallest margin that so many questions can show; `bound` where they can show none.

        `questions_needed`, solved for the margin.
        """
        low, high = 0.0, self.bound
        while high - low > 1e-6 * self.bound:
            middle = (low + high) / 2
            low, high = (low, middle) if self.would_show(middle, questions) else (middle, high)
        return high

    def would_show(self, margin: float, questions: float) -> bool:
        """Say whether so many questions show a fall to be below `margin`, with this power."""
        if not 0 < margin <= self.bound or questions < self._least(margin):
            return False
        noise = NormalDist().inv_cdf(self.power) * math.sqrt(questions * self.spread)
        return questions * margin - (self.bound - margin) >= self._tested(margin, questions) + noise

    def power_of(self, margin: float, questions: float) -> float:
        """Return with what probability so many questions show a fall to be below `margin` where nothing truly
        fell.
        """
        if questions < self._least(margin):
            return 0.0
        left = questions * margin - (self.bound - margin) - self._tested(margin, questions)
        noise = math.sqrt(questions * self.spread)
        return NormalDist().cdf(left / noise) if noise else float(left >= 0)

    def _least(self, margin: float) -> int:
        return least_questions(margin, bound=self.bound, alpha=self.alpha)

    def _tested(self, margin: float, questions: float) -> float:
        spread = math.sqrt(questions * (self.spread + margin**2) + (self.bound - margin) ** 2)
        return NormalDist().inv_cdf(1 - self.alpha) * spread


@dataclass(frozen=True)
class HopelessGate:
    """Names a rule that no training can make pass as it is declared. `least`: questions from which on it
    can; `of`: see `_Declared`.
    """

    rule: str
    field: str
    value: float
    asked: int
    least: int
    sentence: str
    fix: str
    of: RuleName | None = None


class AfterReference(NamedTuple):
    """Says of which number, from 1, a version would be released after a reference, `named` in words."""

    release: int
    named: str = "the reference"


class SinceReference(NamedTuple):
    """Says what the next version would be after the variant's own reference, and after that of the `descent`
    where it is another variant's; None: it is held against none.
    """

    own: AfterReference | None = None
    descent: AfterReference | None = None

    def of(self, rule: str) -> AfterReference | None:
        """Return after which reference, of those that a rule is held against, it has least of the level. The
        own task is held against that of another variant on the questions that both have alone, where these
        decide anything.
        """
        sides = (self.own, None if rule == "task" else self.descent)
        known = [side for side in sides if side is not None]
        return max(known, key=lambda side: side.release, default=None)


FIRST = SinceReference(AfterReference(1))


def hopeless_gates(
    gates: GatesSpec,
    evaluation: EvaluationSpec,
    known: Mapping[str, int] | None = None,
    there: Mapping[str, int] | None = None,
    tries: int = 1,
    *,
    release: SinceReference = FIRST,
    texts: int = HELD_OUT_TEXTS,
) -> tuple[HopelessGate, ...]:
    """Return the declared rules that too few questions are asked for at this try, whatever is trained; none
    where nothing is declared undecidable (`gates.undecided: measured`).

    A rule with a margin is hopeless where even a model of which not one answer changed would stay undecided;
    the task without a margin, where one that got everything right would. `known`: how many questions there
    are of a rule (task, general_loss, refusals), `there`: of each declared task, by its entry, where that is
    known; fewer are asked then. Of the rule against production that is the task's: without enough no version
    after the first would be released. `release`: what the next would be after the references that it is
    held against; `texts`: of general text, held out at most.
    """
    if gates.undecided == "measured":
        return ()
    rules = declared_rules(gates, evaluation, texts)
    looks = [
        *((rule, _Look(gates.alpha, tries)) for rule in rules),
        *(
            (rule, _Look(level_of(gates.alpha, after.release), tries, after.named))
            for rule, after in rules_since_reference(rules, gates, release)
        ),
    ]
    found = [each for rule, look in looks for each in _hopeless(rule, look, known or {}, there or {})]
    said = {each.of or each.rule for each in found if each.rule != "reference"}
    return tuple(each for each in found if each.rule != "reference" or each.of not in said)


class _Look(NamedTuple):
    """Names a try, and the level over all of them. `against`: the reference of a rule on one."""

    alpha: float
    tries: int
    against: str = ""

    @property
    def level(self) -> float:
        return level_of(self.alpha, self.tries)

    def __str__(self) -> str:
        number = f" (try {self.tries} since the last release)" if self.tries > 1 else ""
        return f"{self.level:.2%}{number}"


def _hopeless(
    rule: DeclaredRule, look: _Look, known: Mapping[str, int], there: Mapping[str, int]
) -> Iterator[HopelessGate]:
    """Yield a rule that is hopeless by all that it is asked; else each of its tasks that has too few
    questions.
    """
    least = least_questions(rule.margin, bound=rule.bound, alpha=look.level)
    asked = rule.asked_of(known)
    if asked is not None and asked < least:
        yield _as_hopeless(rule, look, asked, least)
        return
    for entry in rule.entries:
        if there.get(entry, least) < least:
            yield _as_hopeless(rule, look, there[entry], least, entry)


def _as_hopeless(
    rule: DeclaredRule, look: _Look, asked: int, least: int, entry: str | None = None
) -> HopelessGate:
    said, fix = _words(rule, asked, least, entry, look.against)
    said = f"{said} at level {look}; from {least:,} on it can"
    return HopelessGate(rule.name, f"gates.{rule.field}", rule.margin, asked, least, said, fix, rule.of)


@dataclass(frozen=True)
class DeclaredRule:
    """Describes a rule, its field, and what one answer can change by. `asked`: so many questions at most,
    None: all; `entries`: of each of these tasks, without any of the variant's own rows or of what all are
    asked. `of`: the rule that is asked the same, where it compares versions.
    """

    name: str
    field: str
    margin: float
    bound: float
    asked: int | None
    entries: tuple[str, ...] = ()
    of: RuleName | None = None

    def asked_of(self, known: Mapping[str, int]) -> int | None:
        """Return how many questions are asked at most where so many are known to be there; None: all."""
        own = known.get(self.of or self.name)
        return min((n for n in (self.asked, own) if n is not None), default=None)


def is_judged_by_loss(gates: GatesSpec, evaluation: EvaluationSpec) -> bool:
    """Say whether a loss judges the variant's own task: its test split, unless a kind or `gates.metrics` says
    otherwise.
    """
    declared = next((gates.metrics[name] for name in OWN_NAMES if name in gates.metrics), None)
    loss = evaluation.kind == "text" if declared is None else declared.endswith("_loss")
    return loss and not evaluation.task


class LossTexts(NamedTuple):
    """Says how many texts a loss that judges takes at a first try, and in a sentence what for."""

    what: str
    least: int
    sentence: str


def texts_of_losses(gates: GatesSpec, evaluation: EvaluationSpec, *, general: bool) -> tuple[LossTexts, ...]:
    """Return the losses that judge, with the texts they take. `general`: whether general text is held out."""
    judged = {
        "general text": gates.general_loss_margin if general else None,
        "the test split": gates.task_margin if is_judged_by_loss(gates, evaluation) else None,
    }
    return tuple(_texts(gates, what, margin) for what, margin in judged.items() if margin is not None)


def _texts(gates: GatesSpec, what: str, margin: float) -> LossTexts:
    level, bound, tail = level_of(gates.alpha), gates.loss_bound, gates.loss_tail
    mean, rise = least_questions(margin, bound=bound, alpha=level), least_questions(tail, alpha=level)
    than = "" if bound == LOSS_BOUND else f" than {LOSS_BOUND:g} nats"
    shown = (
        f"a mean rise of {margin:g} nats a token can be ruled out" if margin else "a mean fall can be shown"
    )
    said = (
        f"{what} is judged by its loss: from {mean:,} texts on {shown}, each counted up to {bound:g} nats, "
        f"and from {rise:,} on that {100 * tail:.3g}% or more rise by more{than} (gates.loss_tail)"
    )
    return LossTexts(what, max(mean, rise), said)


def declared_rules(
    gates: GatesSpec, evaluation: EvaluationSpec, texts: int = HELD_OUT_TEXTS
) -> list[DeclaredRule]:
    """Return the declared rules, of at most so many held-out `texts`; of a loss both statistics, since the
    share of the texts which rise is judged against production too.
    """
    limit, tasks, general = evaluation.most, evaluation.task, evaluation.general
    loss = is_judged_by_loss(gates, evaluation)
    own = gates.loss_bound if loss else 1.0
    rules = [
        DeclaredRule("task", "task_margin", gates.task_margin, own, limit, tasks),
        *([DeclaredRule("task", "loss_tail", gates.loss_tail, 1.0, limit)] if loss else []),
        DeclaredRule(
            "general_loss", "general_loss_margin", gates.general_loss_margin, gates.loss_bound, texts
        ),
        DeclaredRule("general_loss", "loss_tail", gates.loss_tail, 1.0, texts),
    ]
    if general:
        margin = gates.general_margin
        rules.append(DeclaredRule("general_benchmark", "general_margin", margin, 1.0, limit, general))
    if gates.regression_margin is not None:
        field = "regression_loss_margin" if loss else "regression_margin"
        rules.append(DeclaredRule("regression", field, getattr(gates, field), own, limit, tasks, "task"))
    if gates.degeneration_margin is not None:
        margin = gates.degeneration_margin
        rules.append(DeclaredRule("degeneration", "degeneration_margin", margin, 1.0, len(PROMPTS)))
    if gates.refusals is not None:
        for name in ("margin", "over_margin"):
            margin = getattr(gates.refusals, name)
            rules.append(DeclaredRule("refusals", f"refusals.{name}", margin, 1.0, None))
    return rules


def rules_since_reference(
    rules: Sequence[DeclaredRule], gates: GatesSpec, release: SinceReference
) -> Iterator[tuple[DeclaredRule, AfterReference]]:
    """Yield the rules against a reference, which are asked the same as these, and against which."""
    loss = any(rule.field in ("loss_tail", "regression_loss_margin") and "task" in (rule.name, rule.of)
               for rule in rules)  # fmt: skip
    margin = gates.regression_loss_margin if loss else gates.regression_margin
    for rule in rules if gates.has_reference else ():
        if rule.name in ("regression", "degeneration", "refusals"):
            continue
        name, against = rule.name, margin if rule.name == "task" else rule.margin
        by_loss = loss if rule.name == "task" else rule.name == "general_loss"
        field = "reference_loss_margin" if by_loss else "reference_margin"
        fall = gates.after_reference(against, loss=by_loss)
        if rule.field == "loss_tail":
            field, fall = "reference_loss_tail", gates.tail_after_reference
        if fall is not None and (after := release.of(name)) is not None:
            of = cast(RuleName, name)
            yield DeclaredRule("reference", field, fall, rule.bound, rule.asked, rule.entries, of), after


def _words(rule: DeclaredRule, asked: int, least: int, entry: str | None, against: str) -> tuple[str, str]:
    """Say why a rule is hopeless, and the way out. `entry`: the task that has no more than is asked;
    `against`: the reference.
    """
    even = "even a model of which no answer changed" if rule.margin else "even one that got everything right"
    first = {
        "regression": "no version after the first passes",
        "reference": f"no further version passes against {against}",
    }.get(rule.name, f"the rule {rule.name} cannot pass")
    questions = f"{asked:,} question{'s' * (asked != 1)}"
    of = f"of {questions}" if entry is None else f"of the {questions} that {entry} has"
    said = f"{first} whatever is trained: {of} {even} would stay undecided"
    if entry is not None:
        return said, f"Give it {least:,} questions, name another in its place, or allow more"
    fix = {
        "degeneration": "Allow more",
        "refusals": "Allow more, or name a file with more prompts (gates.refusals.prompts)",
        "general_loss": "Allow more"
        if least > MOST_HELD_OUT
        else f"Hold out {least:,} texts (data.general.held_out, if the corpus has them), or allow more",
        **dict.fromkeys(
            ("task", "regression"),
            f"Ask {least:,} questions (evaluation.limit, data.splits.test), or allow more",
        ),
    }.get(rule.of or rule.name, f"Raise evaluation.limit to {least:,}, or allow more")
    return said, fix


def too_few_rows(spec: VariantSpec, test_rows: int) -> tuple[str, ...]:
    """Warn that the variant's own rows decide nothing, of a first version or of one against production: a run
    is refused for it, or, where `gates.undecided` lets pass what was measured, no verdict is ever more.
    """
    if spec.evaluation.task:
        return ()
    strict = spec.gates.model_copy(update={"undecided": "fail"})
    asked_all, asked = (
        {
            (rule.rule, rule.field, rule.of): rule
            for rule in hopeless_gates(strict, spec.evaluation, known, texts=spec.data.held_out)
        }
        for known in ({}, {"task": test_rows // spec.evaluation.sets})
    )
    found = [rule for place, rule in asked.items() if place not in asked_all]
    if spec.gates.undecided == "fail":
        return tuple(f"{rule.sentence}. {rule.fix} ({rule.field})" for rule in found)
    return tuple(
        f"{rule.asked:,} test rows leave {rule.field} undecided whatever is trained, and it passes as it was "
        f"measured (gates.undecided); from {rule.least:,} rows on it can be decided"
        for rule in found
    )
