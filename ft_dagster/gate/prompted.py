"""Scores the base with examples in its prompt, each number of them held against none, by question."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ft_dagster.gate.answer_scores import ANSWER_METRICS
from ft_dagster.gate.paired import compare_paired
from ft_dagster.gate.samples import Sample
from ft_dagster.gate.sentences import units
from ft_dagster.spec.variant import AnswerKind

EXAMPLES = "examples.json"  # in the evidence: how many questions, which examples, what was left out
COUNTS = (0, 4, 8)
MOST_ROWS = 100
LEVEL = 0.025  # of each end of an interval: 95% lies within
# By which one metric the answers are held against a goal: no loss is asked for, so of free text the words
# that an answer shares with its reference.
METRIC: dict[AnswerKind, str] = {
    **{kind: names[0] for kind, names in ANSWER_METRICS.items()},
    "text": "token_f1",
}


class PromptedScore(NamedTuple):
    """Holds the mean of `metric` with so many `examples` before each question. `change`, `low`, `high`: from
    none, on the same questions, with its interval; null of none itself.
    """

    examples: int
    metric: str
    value: float
    questions: int
    change: float | None = None
    low: float | None = None
    high: float | None = None


class Prompted(NamedTuple):
    """Holds what an artifact says of the base with examples. `rows`: of the split that have a question;
    `asked`: of these. `left_out`: why a number of examples was not tried, by that number. `split`:
    "validation" or "test". `metric`: what a goal is held against.
    """

    split: str
    metric: str
    rows: int
    asked: int
    left_out: Mapping[str, str]
    scores: tuple[PromptedScore, ...]

    def to_json(self) -> dict[str, object]:
        return {**self._asdict(), "scores": [one._asdict() for one in self.scores]}

    @classmethod
    def from_json(cls, figures: Mapping[str, Any]) -> Prompted:
        known = {name: figures[name] for name in cls._fields}
        return cls(**{**known, "scores": tuple(PromptedScore(**one) for one in figures["scores"])})

    @property
    def judged(self) -> list[PromptedScore]:
        """Return the scores of the metric that a goal is held against, by their number of examples."""
        return [one for one in self.scores if one.metric == self.metric]


def examples_task(count: int) -> str:
    """Return the task that samples with so many examples name."""
    return f"{count} examples"


def with_examples(samples: Iterable[Sample]) -> dict[tuple[int, str], dict[str, Sample]]:
    """Sort samples by their number of examples and their metric, then by the question's own name."""
    found: dict[tuple[int, str], dict[str, Sample]] = {}
    for sample in samples:
        name = (int(sample.task.partition(" ")[0]), sample.metric)
        found.setdefault(name, {})[question_name(sample)] = sample
    return found


def question_name(sample: Sample) -> str:
    """Return a question's name without its task: the same whoever is asked it."""
    return sample.question.removeprefix(f"{sample.task}:")


def prompted_of(
    samples: Sequence[Sample], about: Mapping[str, Any], split: str, kind: AnswerKind
) -> Prompted:
    """Make the scores of what was asked. `about`: what EXAMPLES has."""
    found, scores = with_examples(samples), list[PromptedScore]()
    for (count, metric), asked in found.items():
        values = [sample.value for sample in asked.values()]
        score = PromptedScore(count, metric, math.fsum(values) / len(values), len(values))
        before = found.get((0, metric), {})
        scores.append(score if count == 0 else _against(score, before, asked))
    return Prompted(split, METRIC[kind], about["rows"], about["asked"], about["left_out"], tuple(scores))


def _against(
    score: PromptedScore, before: Mapping[str, Sample], after: Mapping[str, Sample]
) -> PromptedScore:
    found = paired_change(before, after)
    return score if found is None else score._replace(change=found[0], low=found[1], high=found[2])


def paired_change(
    before: Mapping[str, Sample], after: Mapping[str, Sample]
) -> tuple[float, float, float] | None:
    """Return the mean change of a share from `before` to `after` on the questions of both, and its interval;
    None where they have none in common.
    """
    import numpy as np

    both = [name for name in after if name in before]
    if not both:
        return None
    better = np.array([after[name].value - before[name].value for name in both])
    found = compare_paired(better, [after[name].group for name in both], bound=1.0, level=LEVEL)
    return found.improvement, found.low, found.high


def goal_met(found: Prompted, goal: float | None) -> PromptedScore | None:
    """Return the score of the fewest examples that meets a goal; None where none does."""
    if goal is None:
        return None
    return next((one for one in found.judged if one.value >= goal), None)


def prompted_sentences(found: Prompted, goal: float | None = None) -> list[str]:
    """Say what the base reaches by examples, what was left out, and whether a training may be spared."""
    said = []
    met = goal_met(found, goal)
    if met is not None and goal is not None:
        show = _show(found.metric, [met.value, goal])
        said.append(
            f"{in_prompt(met.examples)} reach {show(met.value)} ({found.metric}, {_rows(found)}); the goal "
            f"is {show(goal)}: a training may not be needed"
        )
    elif found.judged:
        said.append(f"the base alone ({found.metric}, {_rows(found)}): {_scores(found)}")
    else:
        said.append(f"the base was not asked with examples: the {found.split} split has no questions")
    said += [f"{in_prompt(int(count))} were not tried: {why}" for count, why in found.left_out.items()]
    return said


def in_prompt(count: int) -> str:
    return "no examples in the prompt" if count == 0 else f"{count} examples in the prompt"


def changed_by(one: PromptedScore) -> str:
    """Return the change from no examples and its interval: "+35.0 points (20.1 to 48.2)"."""
    if one.change is None or one.low is None or one.high is None:
        return "-"
    low, high = (f"{100 * end:+.1f}" for end in (one.low, one.high))
    return f"{100 * one.change:+.1f} points ({low} to {high})"


def _scores(found: Prompted) -> str:
    show = _show(found.metric, [one.value for one in found.judged])
    parts = []
    for one in found.judged:
        changed = "" if one.examples == 0 else f", {changed_by(one)}"
        parts.append(f"{show(one.value)} with {in_prompt(one.examples)}{changed}")
    return "; ".join(parts)


def _rows(found: Prompted) -> str:
    asked = str(found.asked) if found.asked == found.rows else f"{found.asked} of {found.rows:,}"
    return f"{asked} {found.split} rows"


def _show(metric: str, values: Sequence[float]) -> Any:
    return units(metric, (min(values), max(values)))[1]
