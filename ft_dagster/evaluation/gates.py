"""The gate: a tuned model against its base, question by question, by the margins a tenant declared.

A rule **passes** when a fall beyond its margin is ruled out at the level of this try, **fails** when it is
not and a test of harm (a fall beyond 0, Holm-adjusted over all rules of the verdict) says that there is one,
and else is **undecided**. A fall that is real but shown to lie within the margin passes: the tenant allowed
it. `docs/gates.md` explains the tests, which are in `paired`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ft_dagster.errors import UserError
from ft_dagster.evaluation.degeneration import DEGENERATE
from ft_dagster.evaluation.paired import Comparison, compare_paired, holm, not_a_number
from ft_dagster.evaluation.power import LOSS_BOUND, level_of
from ft_dagster.evaluation.samples import FORMER, Role, Sample, main_metric
from ft_dagster.evaluation.sentences import sentence_of
from ft_dagster.lineage.verdict import Outcome, Rule, RuleName, Verdict
from ft_dagster.objectives import DEFAULT, objective_of
from ft_dagster.provenance.digest import sha256_json
from ft_dagster.spec.variant import GatesSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Rule",
    "Verdict",
    "check_metrics",
    "gates_digest",
    "judge",
    "regression",
    "with_rules",
]

RULES_VERSION = 3  # raise it when the same samples and margins may give another verdict
_RULE_OF: dict[Role, RuleName] = {
    "task": "task",
    "test_split_task": "task",
    "general": "general_benchmark",
    "general_loss": "general_loss",
    "general_prompts": "degeneration",
}
_PROBED: tuple[Role, ...] = ("regurgitation",)
_WHAT: dict[RuleName, str] = {
    "task": "the task",
    "general_benchmark": "the benchmark",
    "general_loss": "the loss on",
    "degeneration": "degeneration of the answers to",
}
_UNBOUNDED = "its values have no known bound, so that no interval holds: name another metric (gates.metrics)"
_AGAIN = "Evaluate both with the same tasks, limit and seed"
Questions = dict[str, dict[str, Sample]]  # metric -> question -> sample


def judge(
    base: Sequence[Sample],
    tuned: Sequence[Sample],
    gates: GatesSpec,
    *,
    objective: str = DEFAULT,
    declared_in: object = None,
    tries: int = 1,
) -> Verdict:
    """Apply `gates` to the paired samples of base and tuned model. Pure: same input, same verdict.

    `tries`: the ordinal of this evaluation among those of the same weights; the later, the smaller the level
    of its tests (`power.level_of`). Raises UserError when a question was asked of one model only, nothing was
    asked of the task, or a gate names a metric that its task does not have; `declared_in` is the file it
    names.
    """
    check_metrics(tuned, gates, declared_in)
    before, after = _by_task(base), _by_task(tuned)
    for key in before.keys() ^ after.keys():
        which = "base" if key in before else "tuned model"
        raise UserError(f"{key[1]} was asked of the {which} only", field=key[0], fix=_AGAIN)
    paired = [_pair(key, before[key], after[key], gates) for key in after]
    if not any(_RULE_OF[each.role] == "task" for each in paired):
        raise UserError(
            "nothing was asked of the task",
            field="evaluation.task",
            fix="Declare a task, or leave it out so that the test split is asked",
        )
    order = list(_RULE_OF)
    paired.sort(key=lambda each: order.index(each.role))
    level = level_of(gates.alpha, tries)
    rules = _rules(paired, _margins(gates), level)
    if objective_of(objective).judged_by == "questions":
        rules = _with_questions(rules, objective)
    return _verdict((*rules, *_regurgitation(base, tuned, gates, level)), gates, tries)


def regression(
    production: Sequence[Sample], tuned: Sequence[Sample], gates: GatesSpec, *, version: int, tries: int = 1
) -> tuple[Rule, ...]:
    """A new model against the version in production, on the questions that both were asked.

    Adjusted among themselves; `with_rules` adjusts them together with a verdict's own. The task may fall by
    `gates.regression_margin` (no rules without one), a loss of it by `gates.regression_loss_margin`;
    benchmarks, general text and degeneration by their own margins. A benchmark that only one of them
    was asked is left out; a task without a common question is undecided. A question counts as the same
    wherever it stands in its task.
    """
    if gates.regression_margin is None:
        return ()
    before, after = _by_task(production), _by_task(tuned)
    paired = []
    for key, metrics in after.items():
        metric = _declared_metric(key, gates) or main_metric(list(metrics))
        shared = before.get(key, {}).get(metric, {}).keys() & metrics[metric].keys()
        if shared:
            old, new = ({metric: {q: side[metric][q] for q in shared}} for side in (before[key], metrics))
            paired.append(_pair(key, old, new, gates))
    level = level_of(gates.alpha, tries)
    judged = any(_RULE_OF[each.role] == "task" for each in paired)
    unlike = () if judged else (_nothing_shared(gates, version, level),)
    own = {"task": gates.regression_margin, "task_loss": gates.regression_loss_margin}
    margins = {**_margins(gates), **own}
    rules = _rules(paired, margins, level, against=f"against version {version} in production, ")
    return _settled((*unlike, *(replace(rule, rule="regression") for rule in rules)), gates, tries)


def with_rules(verdict: Verdict, rules: Iterable[Rule], gates: GatesSpec) -> Verdict:
    """The verdict with more rules beside its own: their tests of harm are adjusted together, once."""
    found = _verdict((*verdict.rules, *rules), gates, verdict.tries)
    return replace(verdict, passed=found.passed, outcome=found.outcome, rules=found.rules)


def check_metrics(samples: Iterable[Sample], gates: GatesSpec, declared_in: object = None) -> None:
    """Raises UserError for a gate on what was not measured: a metric that its task does not have, a task that
    is not asked, regurgitation where nothing was probed.
    """
    samples = list(samples)
    if gates.max_regurgitation is not None and not any(s.role == "regurgitation" for s in samples):
        raise UserError(
            "no training row is probed: none is long enough, or none is asked for",
            file=declared_in,
            field="gates.max_regurgitation",
            value=gates.max_regurgitation,
            fix="Declare evaluation.probed_rows or evaluation.canaries, or leave the gate out",
        )
    offered: dict[str, dict[str, None]] = {}
    for sample in samples:
        for name in _names_of(sample.role, sample.task):
            offered.setdefault(name, {})[sample.metric] = None
    for task, metric in gates.metrics.items():
        if metric in offered.get(task, {}):
            continue
        known = task in offered
        raise UserError(
            "the task has no such metric per question" if known else "no such task is asked",
            file=declared_in,
            field=f"gates.metrics.{task}",
            value=metric,
            fix=f"It has: {', '.join(offered[task])}" if known else f"Asked are: {', '.join(offered)}",
        )


def gates_digest(gates: GatesSpec) -> str:
    """What a verdict depends on beside the samples: the margins, and what this version makes of them."""
    return sha256_json({"rules": RULES_VERSION, "gates": gates.model_dump(mode="json")})


@dataclass(frozen=True)
class _Paired:
    """One task's values by one metric: of base and tuned model on the same questions."""

    role: Role
    task: str
    metric: str
    base: NDArray[np.float64]
    tuned: NDArray[np.float64]
    groups: tuple[str | None, ...]
    higher_is_better: bool

    @property
    def means(self) -> tuple[float, float]:
        return float(self.base.mean()), float(self.tuned.mean())

    def compare(self, level: float) -> Comparison:
        import numpy as np

        if not np.isfinite(np.concatenate([self.base, self.tuned])).all():
            return not_a_number(len(self.base))
        better = (self.tuned - self.base) * (1 if self.higher_is_better else -1)
        return compare_paired(better, self.groups, bound=self.bound, level=level)

    @property
    def bound(self) -> float | None:
        """By how much the value of a question can change: as far as 0 to 1, or 0 to 100; None: not known.

        What a loss changes by is counted up to LOSS_BOUND.
        """
        if self.metric.endswith("_loss"):
            return LOSS_BOUND
        low = min(self.base.min(), self.tuned.min())
        high = max(self.base.max(), self.tuned.max())
        return None if low < 0 or high > 100 else 1.0 if high <= 1 else 100.0


def _by_task(
    samples: Sequence[Sample], *, roles: Collection[Role] = _RULE_OF
) -> dict[tuple[Role, str], Questions]:
    """(role, task) -> metric -> question -> sample, of the roles that are compared."""
    found: dict[tuple[Role, str], Questions] = {}
    for sample in samples:
        if sample.role in roles and (sample.role != "general_prompts" or sample.metric == DEGENERATE):
            metrics = found.setdefault((sample.role, sample.task), {})
            metrics.setdefault(sample.metric, {})[sample.question] = sample
    return found


def _names_of(role: Role, task: str) -> tuple[str, ...]:
    """What declarations may call a task: the test split's may have the name that it has in older stores."""
    former = [old for old, now in FORMER.items() if role == now]
    return (task, *former)


def _declared_metric(key: tuple[Role, str], gates: GatesSpec) -> str | None:
    return next((gates.metrics[name] for name in _names_of(*key) if name in gates.metrics), None)


def _pair(key: tuple[Role, str], before: Questions, after: Questions, gates: GatesSpec) -> _Paired:
    import numpy as np

    role, task = key
    metric = _declared_metric(key, gates) or main_metric(list(after))
    asked, answered = before.get(metric, {}), after[metric]
    missing = len(asked.keys() ^ answered.keys())
    if missing:
        raise UserError(
            f"{missing} questions of {task} ({metric}) were not asked of both models", field=role, fix=_AGAIN
        )
    questions = sorted(answered)
    return _Paired(
        role,
        task,
        metric,
        base=np.array([asked[q].value for q in questions]),
        tuned=np.array([answered[q].value for q in questions]),
        groups=tuple(answered[q].group for q in questions),
        higher_is_better=answered[questions[0]].higher_is_better,
    )


def _margins(gates: GatesSpec) -> dict[str, float | None]:
    """The margin of each kind of rule; None: not judged."""
    return {
        "task": gates.task_margin,
        "general_benchmark": gates.general_margin,
        "general_loss": gates.general_loss_margin,
        "degeneration": gates.degeneration_margin,
    }


def _rules(
    paired: Sequence[_Paired], margins: dict[str, float | None], level: float, *, against: str = ""
) -> tuple[Rule, ...]:
    """A rule for each that has a margin, as found; `_verdict` settles them."""
    found = []
    for each in paired:
        name = _RULE_OF[each.role]
        loss = f"{name}_loss" if each.metric.endswith("_loss") else name
        margin = margins.get(loss, margins[name])
        if margin is not None:
            found.append(_rule(each, each.compare(level), margin, level, against))
    return tuple(found)


def _rule(paired: _Paired, comparison: Comparison, margin: float, level: float, against: str) -> Rule:
    """What was found, undecided where it does not pass: whether it fails depends on the rules beside it."""
    name, means, better = _RULE_OF[paired.role], paired.means, paired.higher_is_better
    low, high = (comparison.low, comparison.high) if better else (-comparison.high, -comparison.low)
    # A hair of tolerance, since a mean of shares is rarely the decimal the margin was written as.
    within = -comparison.measured <= margin + 1e-9
    passed = within and comparison.low > -margin
    unbounded = comparison.bound is None and math.isfinite(comparison.improvement)
    return Rule(
        rule=name,
        task=paired.task,
        metric=paired.metric,
        base=means[0],
        tuned=means[1],
        difference=comparison.improvement if better else -comparison.improvement,
        interval=(low, high),
        margin=margin,
        questions=comparison.questions,
        higher_is_better=better,
        passed=passed,
        sentence="",
        outcome="pass" if passed else "undecided",
        confidence=1 - 2 * level,
        harm=comparison.harm,
        seen=comparison.seen,
        needed=None if passed else comparison.needed(margin, level=level),
        what=f"{against}{_WHAT[name]} {paired.task}",
        p=comparison.harm,
        units=comparison.units,
        bound=comparison.bound,
        within=within,
        blocked=_UNBOUNDED if unbounded else "",
    )


def _with_questions(rules: tuple[Rule, ...], objective: str) -> tuple[Rule, ...]:
    """Of a model that is to know a domain: a loss that fell does not pass while no question was asked."""
    tasks = [rule for rule in rules if rule.rule == "task"]
    if any(not rule.metric.endswith("_loss") for rule in tasks):
        return rules
    why = (
        f"objective {objective} needs factual questions of the domain (evaluation.task): perplexity "
        "falls when style is learned, so that alone does not pass"
    )
    return tuple(replace(rule, blocked=why) if rule in tasks else rule for rule in rules)


def _regurgitation(
    base: Sequence[Sample], tuned: Sequence[Sample], gates: GatesSpec, level: float
) -> tuple[Rule, ...]:
    """Where a limit is declared: the measured share of training rows, and of canaries, that are repeated."""
    limit = gates.max_regurgitation
    if limit is None:
        return ()
    before, after = (_by_task(side, roles=_PROBED) for side in (base, tuned))
    rules = []
    for key, metrics in after.items():
        paired = _pair(key, before.get(key, {}), metrics, gates)
        comparison, (share_before, share) = paired.compare(level), paired.means
        passed = share <= limit + 1e-9
        rules.append(
            Rule(
                rule="regurgitation",
                task=paired.task,
                metric=paired.metric,
                base=share_before,
                tuned=share,
                difference=-comparison.improvement,
                interval=(-comparison.high, -comparison.low),
                margin=limit,
                questions=comparison.questions,
                higher_is_better=False,
                passed=passed,
                sentence=f"of {comparison.questions} {paired.task.replace('_', ' ')} probed, {share:.1%} are "
                f"repeated word for word (by the base {share_before:.1%}); {limit:.1%} are allowed",
                outcome="pass" if passed else "fail",
                confidence=1 - 2 * level,
                harm=comparison.harm,
                seen=comparison.seen,
                needed=None,
            )
        )
    return tuple(rules)


def _nothing_shared(gates: GatesSpec, version: int, level: float) -> Rule:
    """The rule for a task of which production was asked no common question: it never passes."""
    why = (
        f"against version {version} in production, the task: undecided, since no question was asked of both; "
        "keep some of its questions, or declare gates.regression_margin: null for this release"
    )
    unknown = math.nan
    return Rule(
        rule="regression", task="task", metric="none", base=unknown, tuned=unknown, difference=unknown,
        interval=(unknown, unknown), margin=gates.regression_margin or 0.0, questions=0,
        higher_is_better=True, passed=False, sentence=why, outcome="undecided", confidence=1 - 2 * level,
        harm=1.0, seen=math.inf, needed=None,
    )  # fmt: skip


def _verdict(rules: tuple[Rule, ...], gates: GatesSpec, tries: int) -> Verdict:
    rules = _settled(rules, gates, tries)
    found = {rule.outcome for rule in rules}
    outcome: Outcome = "fail" if "fail" in found else "undecided" if "undecided" in found else "pass"
    return Verdict(all(rule.passed for rule in rules), outcome, rules, tries)


def _settled(rules: Sequence[Rule], gates: GatesSpec, tries: int) -> tuple[Rule, ...]:
    """The rules with outcome and sentence; those that are tests have their p adjusted together."""
    tests = [rule.p for rule in rules if rule.p is not None]
    harms = iter(holm(tests).tolist() if tests else [])
    return tuple(rule if rule.p is None else _decided(rule, next(harms), gates, tries) for rule in rules)


def _decided(rule: Rule, harm: float, gates: GatesSpec, tries: int) -> Rule:
    """What a test says at this adjusted p of no fall, and its sentence.

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
