"""Judges a tuned model against its base, question by question, by the margins a tenant declared.

A rule **passes** when a fall beyond its margin is ruled out at the level of this try, **fails** when it is
not and a test of harm (a fall beyond 0, adjusted by Holm) says that there is one, and else is **undecided**.
A fall that is real but shown to lie within the margin passes: the tenant allowed it. A rule on a loss has two
statistics, and both have to hold. `docs/gates-statistics.md` explains the tests, which are in `paired`.

Where the questions were asked batch after batch (`evaluation.limit: auto`) the looks are replayed from the
samples: what was asked is exactly what `sequential_looks` says.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.gate.answer_scores import PARTS
from ft_dagster.gate.groups import groups_of
from ft_dagster.gate.judged_by import BASE, RULE_OF, Opponent, gates_digest, is_of_facts, later_rules
from ft_dagster.gate.level import level_of
from ft_dagster.gate.memorization.membership_rules import membership_rules
from ft_dagster.gate.memorization.regurgitation_rules import regurgitation_rules
from ft_dagster.gate.paired import Allowed, Comparison, holm
from ft_dagster.gate.pairing import (
    AGAIN,
    Paired,
    Questions,
    TaskKey,
    by_task,
    is_loss,
    judged_metric,
    only,
    pair,
    shared_pairs,
)
from ft_dagster.gate.refusals.refusals import KINDS
from ft_dagster.gate.refused_metrics import check_metrics
from ft_dagster.gate.samples import Sample
from ft_dagster.gate.sentences import sentence_of
from ft_dagster.gate.sequential_looks import Order, harm_shown, look_on
from ft_dagster.lineage.verdict import Groups, Outcome, Part, Rule, RuleName, Verdict
from ft_dagster.objectives import DEFAULT
from ft_dagster.spec.variant import GatesSpec

__all__ = [
    "Rule",
    "Verdict",
    "check_metrics",
    "descent",
    "gates_digest",
    "judge",
    "later_rules",
    "refusal_rules",
    "regression",
    "with_rules",
]

WHAT: dict[RuleName, str] = {
    "task": "the task",
    "general_benchmark": "the benchmark",
    "general_loss": "the loss on",
    "degeneration": "degeneration of the answers to",
    "refusals": "refusals of",
}
NONE_OF: dict[RuleName, str] = {
    "task": "the task",
    "general_benchmark": "the benchmarks",
    "general_loss": "the general text",
}
KEEP = "keep some of its questions"
_UNBOUNDED = "its values have no known bound, so that no interval holds: name another metric (gates.metrics)"


class TooFewQuestions(UserError):
    """Signals that asking batch after batch ended before a rule was decided."""


def judge(
    base: Sequence[Sample],
    tuned: Sequence[Sample],
    gates: GatesSpec,
    *,
    objective: str = DEFAULT,
    declared_in: object = None,
    tries: int = 1,
    order: Order | None = None,
    own: Collection[str] = (),
) -> Verdict:
    """Apply `gates` to the paired samples of base and tuned model. Pure: same input, same verdict.

    `tries`: the ordinal of this evaluation since the last release; the later, the smaller the level
    of its tests (`level.level_of`). `order`: in which the questions were asked until each rule was decided;
    None: all were asked. `own`: see `_settled`. Raises TooFewQuestions, and UserError when a question was
    asked of one model only, nothing was asked of the task, or a gate names a metric that its task does not
    have; `declared_in` is the file it names.
    """
    check_metrics(tuned, gates, declared_in)
    before, after = _by_task(base), _by_task(tuned)
    for key in before.keys() ^ after.keys():
        which = "base" if key in before else "tuned model"
        raise UserError(f"{key[1]} was asked of the {which} only", field=key[0], fix=AGAIN)
    paired = [_pair(key, before[key], after[key], gates, order) for key in after]
    if not any(RULE_OF[each.role] == "task" for each in paired):
        raise UserError(
            "nothing was asked of the task",
            field="evaluation.task",
            fix="Declare a task, or leave it out so that the test split is asked",
        )
    roles = list(RULE_OF)
    paired.sort(key=lambda each: roles.index(each.role))
    judges = Opponent(objective)
    level = judges.level(gates, tries)
    found = _found(paired, gates, level, order, judges)
    for each in found:
        if not each.decided:
            raise TooFewQuestions(
                f"asking {each.paired.task} ended after {each.paired.answered} questions, before anything "
                "was decided",
                file=declared_in,
                field=each.paired.role,
                fix="Materialize evaluation again",
            )
    rules = tuple(_with_parts(_rule(each), each, before, after) for each in found)
    if is_of_facts(objective):
        rules = _with_questions(rules, objective)
    repeated = regurgitation_rules(base, tuned, gates, level)
    return _verdict((*rules, *repeated, *membership_rules(base, tuned, gates, level)), gates, tries, own)


def regression(
    production: Sequence[Sample],
    tuned: Sequence[Sample],
    gates: GatesSpec,
    *,
    version: int,
    tries: int = 1,
    order: Order | None = None,
    own: Collection[str] = (),
) -> tuple[Rule, ...]:
    """Judge a new model against the version in production, on the questions that both were asked.

    Adjusted among themselves; `with_rules` adjusts them together with a verdict's own. The task may fall by
    `gates.regression_margin` (no rules without one), a loss of it by `gates.regression_loss_margin`;
    benchmarks, general text and degeneration by their own margins. A benchmark that only one of them
    was asked is left out; a task without a common question is undecided. A question counts as the same
    wherever it stands in its task. `order`, `own`: see `judge`; a rule that is not decided by the questions
    asked of both is undecided.
    """
    if gates.regression_margin is None:
        return ()
    paired, judges = (
        shared_pairs(_by_task(production), _by_task(tuned), gates, _questions(order)),
        Opponent(against="production"),
    )
    level, against = judges.level(gates, tries), f"against version {version} in production, "
    found = _found(paired, gates, level, order, judges)
    rules = [_rule(each, against) for each in found]
    if not any(RULE_OF[each.role] == "task" for each in paired):
        keep = "keep some of its questions, or declare gates.regression_margin: null for this release"
        rules.insert(0, _nothing_shared(f"{against}the task", keep, gates.regression_margin, level))
    return _settled([replace(rule, rule="regression") for rule in rules], gates, tries, own)


class Since(NamedTuple):
    """Says what a reference is: its name in words, after which the new model would be release number
    `release`; whether it is the variant's own (`whole`); why it can no longer be asked and what would decide
    then (`gone`).
    """

    named: str
    release: int
    whole: bool = True
    gone: str = ""


def descent(
    reference: Sequence[Sample],
    tuned: Sequence[Sample],
    gates: GatesSpec,
    since: Since,
    *,
    tries: int = 1,
    order: Order | None = None,
    own: Collection[str] = (),
) -> tuple[Rule, ...]:
    """Judge a new model against the reference, on the questions that both were asked: its task, benchmarks
    and general text.

    The task has to share a question where the reference is the variant's own, benchmarks and general text
    where it was asked some: what shares none is undecided. Of another variant's reference the task is judged
    where enough questions of it are shared to decide anything. All else as in `regression`.
    """
    if not gates.has_reference:
        return ()
    judges, before, after = (
        Opponent(against="reference", release=since.release),
        _by_task(reference),
        _by_task(tuned),
    )
    paired, level = shared_pairs(before, after, gates, _questions(order)), judges.level(gates, tries)
    against, margin = f"against {since.named}, ", gates.after_reference(gates.regression_margin, loss=False)
    if not since.whole:
        paired = [
            each for each in paired if RULE_OF[each.role] != "task" or judges.decides(each, gates, level)
        ]
    asked = [{RULE_OF[role] for role, _ in side} for side in (before, after)]
    due = ({"task"} if since.whole else set()) | ((asked[0] & asked[1]) - {"task"})
    unlike = [name for name in NONE_OF if name in due - {RULE_OF[each.role] for each in paired}]
    rules = [
        *(_nothing_shared(f"{against}{NONE_OF[name]}", since.gone or KEEP, margin, level) for name in unlike),
        *(_rule(each, against) for each in _found(paired, gates, level, order, judges)),
    ]
    return _settled([replace(rule, rule="reference") for rule in rules], gates, tries, own)


def refusal_rules(
    before: Sequence[Sample], after: Sequence[Sample], gates: GatesSpec, *, tries: int = 1
) -> tuple[Rule, ...]:
    """Judge the refusals of a tuned model against those of its base, of each kind of prompt. Decided here,
    harm adjusted among themselves: no other rule is diluted by them, nor they by others.
    """
    sides = _by_task(before), _by_task(after)
    found = _found(
        [_pair(key, sides[0][key], sides[1][key], gates, None) for key in sides[1]],
        gates,
        level_of(gates.alpha, tries),
        None,
        Opponent(),
    )
    rules = [replace(_rule(each), what=f"{WHAT['refusals']} {KINDS[each.paired.task]}") for each in found]
    return tuple(replace(rule, p=None) for rule in _settled(rules, gates, tries, ()))


@dataclass(frozen=True)
class Referee:
    """Says while a model is asked, batch after batch, of which task no more is to be asked.

    `before`: the samples of the model that it is compared with, which was asked everything; `judges`: as
    what. `order`: of asking.
    """

    before: Sequence[Sample]
    gates: GatesSpec
    order: Order
    tries: int = 1
    judges: Opponent = BASE

    @cached_property
    def _before(self) -> dict[TaskKey, Questions]:
        return _by_task(self.before)

    def decided(self, key: TaskKey, tuned: Sequence[Sample]) -> bool:
        """Say whether the samples of the task so far decide its rules, as `judge`, `regression` or `descent`
        will find them.
        """
        before, gates, judges = self._before, self.gates, self.judges
        level = judges.level(gates, self.tries)
        rules = sum(judges.allowed(key, judged_metric(key, metrics, gates), gates) is not None
                    for key, metrics in before.items())  # fmt: skip
        metric = judged_metric(key, before[key], gates)
        allowed, after = judges.allowed(key, metric, gates), _by_task(tuned)[key]
        if allowed is None or metric not in after:
            return False
        questions = self.order.questions[key]
        paired = pair(key, metric, before[key], after, gates=gates, order=questions)
        return look_on(paired, questions, allowed, level=level, harm=gates.alpha / rules).decided


def with_rules(
    verdict: Verdict, rules: Iterable[Rule], gates: GatesSpec, own: Collection[str] = ()
) -> Verdict:
    """Return the verdict with more rules beside its own: their tests of harm are adjusted together, once.
    `own`: see `judge`.
    """
    found = _verdict((*verdict.rules, *rules), gates, verdict.tries, own)
    return replace(verdict, passed=found.passed, outcome=found.outcome, rules=found.rules)


def _questions(order: Order | None) -> Mapping[TaskKey, Sequence[str]]:
    return {} if order is None else order.questions


def _by_task(samples: Iterable[Sample]) -> dict[TaskKey, Questions]:
    """Return the questions of the roles that are compared, by task."""
    return by_task(samples, roles=RULE_OF)


def _pair(key: TaskKey, before: Questions, after: Questions, gates: GatesSpec, order: Order | None) -> Paired:
    questions = None if order is None else order.questions.get(key)
    metric = judged_metric(key, after if questions is None else before, gates)
    return pair(key, metric, before, after, gates=gates, order=questions)


@dataclass(frozen=True)
class _Found:
    """Holds the outcome of a rule's test: see `LookedAt`. `there`: the questions of a task that was asked in
    batches; `look`: which of how many looks.
    """

    paired: Paired
    comparison: Comparison
    allowed: Allowed
    level: float
    p: float
    passed: bool
    decided: bool = True
    there: int | None = None
    look: tuple[int, int] | None = None


def _found(
    paired: Sequence[Paired], gates: GatesSpec, level: float, order: Order | None, judges: Opponent
) -> list[_Found]:
    """Test each pair that is judged."""
    judged = [
        (each, allowed)
        for each in paired
        if (allowed := judges.allowed((each.role, each.task), each.metric, gates)) is not None
    ]
    found = []
    for each, allowed in judged:
        questions = None if order is None else order.questions.get((each.role, each.task))
        if questions is None:
            comparison = each.compare(level, allowed.tail)
            rose = 1.0 if comparison.tail is None else comparison.tail.harm
            p = harm_shown(comparison, allowed, comparison.harm, rose)
            found.append(_Found(each, comparison, allowed, level, p, comparison.holds(allowed)))
        else:
            seen = look_on(each, questions, allowed, level=level, harm=gates.alpha / len(judged))
            found.append(
                _Found(
                    seen.paired,
                    seen.comparison,
                    allowed,
                    seen.level,
                    seen.p,
                    seen.passed,
                    seen.decided,
                    len(questions),
                    seen.look,
                )
            )
    return found


def _rule(found: _Found, against: str = "") -> Rule:
    """Make the rule of an outcome, undecided where it does not pass: whether it fails depends on the rules
    beside it.
    """
    paired, comparison, level, allowed = found.paired, found.comparison, found.level, found.allowed
    name, means, better = RULE_OF[paired.role], paired.means, paired.higher_is_better
    low, high = (comparison.low, comparison.high) if better else (-comparison.high, -comparison.low)
    unbounded = comparison.bound is None and math.isfinite(comparison.improvement)
    return Rule(
        rule=name,
        task=paired.task,
        metric=paired.metric,
        base=means[0],
        tuned=means[1],
        difference=comparison.improvement if better else -comparison.improvement,
        interval=(low, high),
        margin=allowed.margin,
        questions=comparison.questions,
        higher_is_better=better,
        passed=found.passed,
        sentence="",
        outcome="pass" if found.passed else "undecided",
        confidence=1 - 2 * level,
        harm=found.p,
        seen=comparison.seen,
        needed=None if found.passed else comparison.needed(allowed, level=level),
        what=f"{against}{WHAT[name]} {paired.task}",
        p=found.p,
        units=comparison.units,
        bound=comparison.bound,
        counted=_counted(comparison, better),
        within=comparison.within(allowed),
        blocked=_UNBOUNDED if unbounded else "",
        there=found.there,
        look=found.look,
        tail=comparison.tail,
        groups=_groups(found),
    )


def _groups(found: _Found) -> Groups | None:
    """Say how groups of unlike size count, where that is not by the sizes of those asked alone, or where
    these are too few.
    """
    sizes, counting, bound = found.comparison.sizes, found.paired.counting, found.comparison.bound
    if sizes is None:
        return None
    groups = groups_of(sizes, counting, found.allowed.margin, bound, found.level)
    otherwise = groups.weights == "group" or groups.largest > sizes.max()
    return groups if otherwise or (groups.least or 0) > len(sizes) else None


def _with_parts(
    rule: Rule, found: _Found, before: Mapping[TaskKey, Questions], after: Mapping[TaskKey, Questions]
) -> Rule:
    """Add what the metric is made of, on the questions of both models that have each part."""
    key, parts = (found.paired.role, found.paired.task), list[Part]()
    asked = {sample.question for sample in found.paired.asked}
    for metric in PARTS.get(rule.metric, ()):
        sides = (before[key].get(metric, {}), after[key].get(metric, {}))
        shared = asked & sides[0].keys() & sides[1].keys()
        if shared:
            base, tuned = (only(shared, {metric: side}, metric) for side in sides)
            pairs = replace(pair(key, metric, base, tuned, gates=GatesSpec()), counting=found.paired.counting)
            compared, means = pairs.compare(found.level), pairs.means
            low, high = (compared.low, compared.high)
            ends = (low, high) if pairs.higher_is_better else (-high, -low)
            parts.append(Part(metric, *means, ends, compared.questions))
    return replace(rule, parts=tuple(parts))


def _counted(comparison: Comparison, better: bool) -> float | None:
    """Return the mean change that its interval is of, where that is not the measured one."""
    measured, counted = comparison.improvement, comparison.counted
    if not math.isfinite(counted) or math.isclose(measured, counted, rel_tol=1e-9, abs_tol=1e-12):
        return None
    return counted if better else -counted


def _with_questions(rules: tuple[Rule, ...], objective: str) -> tuple[Rule, ...]:
    """Hold back the verdict on a model that is to know a domain: a loss that fell does not pass while no
    question was asked, nor do facts that fell pass within a margin.
    """
    tasks = [rule for rule in rules if rule.rule == "task"]
    facts = [rule for rule in tasks if not is_loss(rule.metric)]
    if facts:
        why = (
            f"facts that fell are not released under objective {objective}, whatever gates.task_margin allows"
        )
        fell = [rule for rule in facts if rule.margin and not rule.within]
        return tuple(replace(rule, blocked=why, needed=None) if rule in fell else rule for rule in rules)
    why = (
        f"objective {objective} needs factual questions of the domain (evaluation.task): perplexity "
        "falls when style is learned, so that alone does not pass"
    )
    return tuple(replace(rule, blocked=why) if rule in tasks else rule for rule in rules)


def _nothing_shared(what: str, way_out: str, margin: float | None, level: float) -> Rule:
    """Return the rule for what shares no question with the opponent: it never passes."""
    why, unknown = f"{what}: undecided, since no question was asked of both; {way_out}", math.nan
    return Rule(
        rule="regression", task="task", metric="none", base=unknown, tuned=unknown, difference=unknown,
        interval=(unknown, unknown), margin=margin or 0.0, questions=0,
        higher_is_better=True, passed=False, sentence=why, outcome="undecided", confidence=1 - 2 * level,
        harm=1.0, seen=math.inf, needed=None,
    )  # fmt: skip


def _verdict(rules: tuple[Rule, ...], gates: GatesSpec, tries: int, own: Collection[str]) -> Verdict:
    rules = _settled(rules, gates, tries, own)
    found = {rule.outcome for rule in rules}
    outcome: Outcome = "fail" if "fail" in found else "undecided" if "undecided" in found else "pass"
    return Verdict(all(rule.passed for rule in rules), outcome, rules, tries)


def _settled(rules: Sequence[Rule], gates: GatesSpec, tries: int, own: Collection[str]) -> tuple[Rule, ...]:
    """Return the rules with outcome and sentence; those that are tests have their p adjusted together, those
    on the tasks `own` apart: whatever a tenant asks besides, a fall of what everybody is asked is as easily
    shown.
    """
    harms = dict[int, float]()
    for chosen in (False, True):
        family = [n for n, r in enumerate(rules) if r.p is not None and (r.task in own) is chosen]
        if family:
            harms |= zip(family, holm([rules[n].p for n in family]).tolist(), strict=True)
    return tuple(
        _decided(rule, harms[n], gates, tries) if n in harms else rule for n, rule in enumerate(rules)
    )


def _decided(rule: Rule, harm: float, gates: GatesSpec, tries: int) -> Rule:
    """Decide a rule by its test's adjusted p of no fall, and write its sentence.

    Harm is tested at the declared alpha in every try: a model that fails costs nobody's trust.
    """
    outcome = rule.outcome
    if outcome != "pass":
        outcome = "fail" if harm < gates.alpha or math.isnan(rule.difference) else "undecided"
    if rule.blocked and outcome == "pass":
        outcome = "undecided"
    measured = gates.undecided == "measured" and rule.within and not rule.blocked
    passed = outcome == "pass" or (outcome == "undecided" and measured)
    found = replace(rule, outcome=outcome, harm=harm, passed=passed)
    return replace(found, sentence=sentence_of(found, tries=tries))
