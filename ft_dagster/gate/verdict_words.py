"""Puts a verdict into words: the one word and the one sentence that every page, command and report has
of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from ft_dagster.gate.sentences import out_of_reach, units, wanted, would_decide
from ft_dagster.lineage.verdict import Outcome, Rule, RuleName, Verdict

NAMED = 3  # rules that a sentence names at most
VERSIONS: dict[RuleName, str] = {
    "regression": "Against production",
    "reference": "Against the reference",
}
WORDS = ("passed", "passed with warnings", "undecided", "failed")


def verdict_word(verdict: Verdict) -> str:
    """Return one of `WORDS`: what was found, and, where that is undecided, whether it counts as passed."""
    if verdict.passed:
        return "passed" if verdict.outcome == "pass" else "passed with warnings"
    return "undecided" if verdict.outcome == "undecided" else "failed"


def rule_word(rule: Rule) -> str:
    """Return the word for one rule: "pass" where it is proved and "fail" where more questions cannot mend
    it.
    """
    if rule.outcome == "undecided":
        return "undecided, counts as passed" if rule.passed else "undecided"
    return "pass" if rule.passed else "fail"


def verdict_sentence(verdict: Verdict) -> str:
    """Return a verdict's sentence: "Undecided: 1 of 6 rules is neither shown to hold nor to fail (sea_quiz
    acc 50.0% → 45.0%); about 1,433 questions would decide". Begins with the word of `verdict_word`. Of the
    verdict's own rules: what holds it against versions before is said by `versions_sentence`.
    """
    return _sentence(verdict_word(verdict), [rule for rule in verdict.rules if rule.rule not in VERSIONS])


def versions_sentence(verdict: Verdict) -> str | None:
    """Return the sentences on the rules that compared a new version with those before; None where there were
    none.
    """
    found = {words: [rule for rule in verdict.rules if rule.rule == name] for name, words in VERSIONS.items()}
    said = [
        f"{words}: {_sentence(verdict_word(verdict_of(rules)), rules)}"
        for words, rules in found.items()
        if rules
    ]
    return ". ".join(said) or None


def verdict_of(rules: Sequence[Rule]) -> Verdict:
    """Return the verdict that some rules come to by themselves."""
    found = {rule.outcome for rule in rules}
    outcome: Outcome = "fail" if "fail" in found else "undecided" if "undecided" in found else "pass"
    return Verdict(all(rule.passed for rule in rules), outcome, tuple(rules))


def slowest_rule(rules: Sequence[Rule]) -> Rule | None:
    """Return the undecided rule that takes the most questions to decide; None where that is known of none."""
    known = [rule for rule in rules if rule.outcome == "undecided" and rule.needed]
    return max(known, key=lambda rule: (out_of_reach(rule), wanted(rule)), default=None)


def _sentence(word: str, rules: Sequence[Rule]) -> str:
    begin = word.capitalize()
    unproved = [rule for rule in rules if rule.outcome == "undecided"]
    failed = [rule for rule in rules if rule.outcome == "fail"]
    if word == "passed":
        return f"{begin}: {_count(len(rules))} of the gate {'holds' if len(rules) == 1 else 'hold'}"
    if word == "failed":
        broken = failed or [rule for rule in rules if not rule.passed]
        more = f"; {len(unproved)} more undecided" if unproved else ""
        return f"{begin}: {_of(broken, rules)} {_do(broken, 'does', 'do')} not hold ({_named(broken)}){more}"
    if word == "passed with warnings":
        said = f"{_of(unproved, rules)} {_do(unproved, 'is', 'are')} not proved ({_named(unproved)})"
        return "; ".join([f"{begin}: {said}", *_let_pass(unproved)])
    said = f"{_of(unproved, rules)} {_do(unproved, 'is', 'are')} neither shown to hold nor to fail"
    return f"{begin}: {said} ({_named(unproved)}){_way_out(unproved)}"


def _let_pass(unproved: Sequence[Rule]) -> list[str]:
    """Say why undecided rules count as passed: one that cannot be judged says so itself."""
    said = list(dict.fromkeys(rule.blocked for rule in unproved if rule.blocked))
    if all(rule.blocked for rule in unproved):
        return said
    return ["what was measured is within the margins, which gates.undecided lets pass", *said]


def _way_out(unproved: Sequence[Rule]) -> str:
    blocked = next((rule.blocked for rule in unproved if rule.blocked), None)
    if blocked:
        return f"; {blocked}"
    slowest = slowest_rule(unproved)
    return "" if slowest is None else f"; {would_decide(slowest)}"


def _count(number: int) -> str:
    return "the one rule" if number == 1 else f"all {number} rules"


def _of(some: Sequence[Rule], rules: Sequence[Rule]) -> str:
    return f"{len(some)} of {len(rules)} rule{'s' if len(rules) != 1 else ''}"


def _do(some: Sequence[Rule], one: str, several: str) -> str:
    return one if len(some) == 1 else several


def _named(rules: Sequence[Rule]) -> str:
    said = [_change(rule) for rule in rules[:NAMED]]
    if len(rules) > NAMED:
        said.append(f"{len(rules) - NAMED} more")
    return ", ".join(said)


def _change(rule: Rule) -> str:
    _, show = units(rule.metric, (rule.base, rule.tuned))
    return f"{rule.task} {rule.metric} {show(rule.base)} → {show(rule.tuned)}"
