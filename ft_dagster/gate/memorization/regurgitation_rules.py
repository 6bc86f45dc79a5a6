"""Judges what is repeated word for word: the measured share against the declared limit, and how many training
rows it rests on. Pure, without torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ft_dagster.gate.paired import Comparison, not_a_number
from ft_dagster.gate.pairing import Questions, TaskKey, by_task, judged_metric, pair
from ft_dagster.gate.samples import ROWS, Role, Sample
from ft_dagster.gate.verdict_words import verdict_of
from ft_dagster.lineage.verdict import Outcome, Rule, Verdict
from ft_dagster.spec.variant import GatesSpec

NAME: Role = "regurgitation"


def regurgitation_rules(
    base: Sequence[Sample], tuned: Sequence[Sample], gates: GatesSpec, level: float
) -> tuple[Rule, ...]:
    """Compare the measured share of training rows, and of canaries, that are repeated with the declared
    limit, where there is one.
    """
    limit = gates.max_regurgitation
    if limit is None:
        return ()
    before, after = (by_task(side, roles=(NAME,)) for side in (base, tuned))
    return tuple(_rule(key, before.get(key, {}), after[key], gates, limit, level) for key in after)


def _rule(  # noqa: PLR0917
    key: TaskKey, before: Questions, after: Questions, gates: GatesSpec, limit: float, level: float
) -> Rule:
    metric = judged_metric(key, after, gates)
    asked = after[metric]
    share = sum(sample.value for sample in asked.values()) / len(asked)
    by_base, comparison = _beside_base(key, before, after, gates, level)
    passed = share <= limit + 1e-9
    return Rule(
        rule="regurgitation",
        task=key[1],
        metric=metric,
        base=by_base,
        tuned=share,
        difference=-comparison.improvement,
        interval=(-comparison.high, -comparison.low),
        margin=limit,
        questions=len(asked),
        higher_is_better=False,
        passed=passed,
        sentence=f"of {len(asked)} {key[1].replace('_', ' ')} probed, {share:.1%} are repeated word for word "
        f"(by the base {by_base:.1%}); {limit:.1%} are allowed",
        outcome="pass" if passed else "fail",
        confidence=1 - 2 * level,
        harm=comparison.harm,
        seen=comparison.seen,
        needed=None,
    )


def _beside_base(
    key: TaskKey, before: Questions, after: Questions, gates: GatesSpec, level: float
) -> tuple[float, Comparison]:
    """Return the base's share, and the change, on what both were given: a base that was asked earlier may
    have been given other rows.
    """
    metric = judged_metric(key, after, gates)
    sides = before.get(metric, {}), after[metric]
    both = sides[0].keys() & sides[1].keys()
    if not both:
        return math.nan, not_a_number(0)
    one, other = ({metric: {name: side[name] for name in both}} for side in sides)
    paired = pair(key, metric, one, other, gates=gates)
    return paired.means[0], paired.compare(level)


def with_probed(verdict: Verdict, gates: GatesSpec, *, asked: int, least: int) -> Verdict:
    """Add the number of probed training rows to their rule's sentence, where it is below what was `asked`;
    the rule is undecided where it is below the `least` that the policy asks (0: it asks nothing).
    """
    if gates.max_regurgitation is None:
        return verdict
    rules = list(verdict.rules)
    if least and not any(_of_rows(rule) for rule in rules):
        rules.append(_nothing_probed(gates.max_regurgitation))
    found = verdict_of([_as_probed(rule, asked, least) if _of_rows(rule) else rule for rule in rules])
    return replace(verdict, passed=found.passed, outcome=found.outcome, rules=found.rules)


def _of_rows(rule: Rule) -> bool:
    return (rule.rule, rule.task) == ("regurgitation", ROWS)


def _as_probed(rule: Rule, asked: int, least: int) -> Rule:
    sentence = rule.sentence
    if rule.questions < asked:
        sentence += f"; {asked:,} were to be probed, and no more are long enough"
    if rule.questions >= least:
        return replace(rule, sentence=sentence)
    why = (
        f"the policy asks that {least:,} are probed. Give rows with longer answers; where the answers are of "
        "an older version, another evaluation.probed_rows draws from all rows"
    )
    outcome: Outcome = "fail" if rule.outcome == "fail" else "undecided"
    return replace(rule, passed=False, outcome=outcome, blocked=why, sentence=f"{sentence}; {why}")


def _nothing_probed(limit: float) -> Rule:
    unknown = math.nan
    return Rule(
        rule="regurgitation", task=ROWS, metric="none", base=unknown, tuned=unknown, difference=unknown,
        interval=(unknown, unknown), margin=limit, questions=0, higher_is_better=False, passed=False,
        sentence="no training row was probed", outcome="undecided", confidence=1.0, harm=1.0, seen=math.inf,
        needed=None,
    )  # fmt: skip
