"""Says in one line what came of a training: the first of report, page of `evaluation`, and `compare`.

"Exact match 0.0% → 67.5% on 40 questions. Released as version 1. General ability: 40 questions can only
detect drops of 25.0 points or more".
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ft_dagster.gate.samples import FORMER, TEST_SPLIT_TASK
from ft_dagster.gate.sentences import part_words, units
from ft_dagster.gate.verdict_words import verdict_word
from ft_dagster.lineage.verdict import Rule, Verdict
from ft_dagster.lineage.version_status import VersionStatus
from ft_dagster.report.figures import change, counted
from ft_dagster.report.sentences.next_step import Result

NAMED = 2  # tasks at most
NAMES = {  # of metrics that the variant's own rows are judged by
    "exact_match": "exact match",
    "completion_loss": "loss of the expected answers",
    "json_f1": "F1 of the JSON fields",
    "execution_accuracy": "queries with the right result",
    "calls_right": "answers with the right calls",
    "calls_valid": "answers with valid calls where some are due",
    "undue_call": "answers with a call where none is due",
    "token_f1": "F1 of the words",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "acc": "accuracy",
    "acc_norm": "accuracy",
}


def result_sentence(result: Result) -> str:
    """Return what was gained, what became of it, and what is known of general ability, without the last
    full stop.
    """
    return _around(became(result), result.verdict)


def judged_sentence(result: Result) -> str:
    """Return the same of the verdict alone, where it is not known what became of it."""
    return _around("" if result.verdict is None else verdict_word(result.verdict), result.verdict)


def _around(said: str, verdict: Verdict | None) -> str:
    if verdict is None:
        return "Not judged yet"
    every = [*_gained(verdict.rules), said, general_ability(verdict.rules)]
    return ". ".join(f"{one[0].upper()}{one[1:]}" for one in every)


def metric_words(metric: str) -> str:
    """Return a metric's name as a sentence has it."""
    return NAMES.get(metric, metric.replace("_", " "))


def became(result: Result) -> str:
    """Say what became of judged weights: released, refused, undecided, waiting."""
    status, warned = result.status, _warnings(result.verdict)
    if status is None:
        return _not_released(result.verdict)
    if status.rolled_back is not None:
        return f"version {status.version} was rolled back"
    if status.waits:
        by = "" if result.who is None else f" by {result.who}"
        return f"version {status.version} waits for approval{by}{warned}"
    if not status.was_served:
        return f"version {status.version} was not approved{_served_instead(status)}"
    said = f"released as version {status.version}{warned}"
    return said if status.is_served else f"{said}{_served_instead(status)}"


def _served_instead(status: VersionStatus) -> str:
    return f"; version {status.production} is in production" if status.production else ""


def general_ability(rules: Sequence[Rule]) -> str:
    """Say whether general ability held, by the rule that is worst; of rules alike, by a benchmark first."""
    asked = [rule for rule in rules if rule.rule in ("general_benchmark", "general_loss")]
    if not asked:
        return "general ability was not measured"
    worst = max(asked, key=_how_bad)
    points, _ = units(worst.metric, (worst.base, worst.tuned))
    fall = "drops" if worst.higher_is_better else "rises"
    number = _asked(worst)
    if worst.outcome == "fail":
        return f"general ability fell: {_named(worst)} {_moved(worst)}"
    if worst.outcome == "undecided":
        if not math.isfinite(worst.seen) or (worst.bound is not None and worst.seen >= worst.bound):
            return f"general ability: {number} cannot detect any {fall[:-1]}"
        return f"general ability: {number} can only detect {fall} of {points(worst.seen)} or more"
    if not worst.margin:
        return f"general ability rose: {_named(worst)} {_moved(worst)}"
    return f"general ability held: {number} rule out {fall} of {points(worst.margin)}"


_RANK = {"pass": 0, "undecided": 1, "fail": 2}


def _how_bad(rule: Rule) -> tuple[int, bool, float]:
    """Rank rules: what held is said by the largest margin, which all others rule out too."""
    size = rule.margin if rule.outcome == "pass" else rule.seen if math.isfinite(rule.seen) else math.inf
    return _RANK[rule.outcome], rule.rule == "general_benchmark", size


def _asked(rule: Rule) -> str:
    """Count what a rule of general ability asked: texts, or questions and the groups that they come in."""
    if rule.rule == "general_loss":
        return counted(rule.units or rule.questions, "text")
    grouped = rule.units is not None and rule.units != rule.questions
    groups = f" in {counted(rule.units or 0, 'group')}" if grouped else ""
    return f"{counted(rule.questions, 'question')}{groups}"


def _gained(rules: Sequence[Rule]) -> list[str]:
    task = [rule for rule in rules if rule.rule == "task"]
    if not task:
        return ["no task of its own was judged"]
    said = [f"{_named(rule)} {_moved(rule)} on {_number(rule)}{_parts(rule)}" for rule in task]
    more = [f"{counted(len(task) - NAMED, 'more task')} below"] if len(task) > NAMED else []
    return ["; ".join([*said[:NAMED], *more])]


def _parts(rule: Rule) -> str:
    return f" ({', '.join(map(part_words, rule.parts))})" if rule.parts else ""


def _named(rule: Rule) -> str:
    metric = metric_words(rule.metric)
    return metric if FORMER.get(rule.task, rule.task) == TEST_SPLIT_TASK else f"{metric} of {rule.task}"


def _number(rule: Rule) -> str:
    texts = rule.metric.endswith("_loss") and rule.metric != "completion_loss"
    return counted(rule.questions, "text" if texts else "question")


def _moved(rule: Rule) -> str:
    return change(rule.metric, rule.base, rule.tuned)


def _warnings(verdict: Verdict | None) -> str:
    """Say where what was released is not proved by today's verdict."""
    if verdict is None or verdict.outcome == "pass":
        return ""
    return " with warnings" if verdict.passed else ", which today's gates do not pass"


def _not_released(verdict: Verdict | None) -> str:
    if verdict is None:
        return "not judged yet"
    if verdict.passed:
        return f"passed{_warnings(verdict)}, not released"
    return "undecided, not released" if verdict.outcome == "undecided" else "refused"
