"""Lays the base with examples in its prompt beside base and tuned model, as a table and in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ft_dagster.gate.prompted import Prompted, changed_by, with_examples
from ft_dagster.gate.samples import Sample
from ft_dagster.report.figures import score

PROMPTED = ("examples", "asked on", "score", "change", "tuned")


class Beside(NamedTuple):
    """Holds one split that the base was asked with examples on. `tuned`: the trained model's score by metric,
    on the same questions; none where it was asked others.
    """

    found: Prompted
    tuned: Mapping[str, float] = {}

    @classmethod
    def of(cls, found: Prompted, prompted: Iterable[Sample], tuned: Iterable[Sample]) -> Beside:
        """Set a split beside the samples of the trained model."""
        return cls(found, on_same_questions(prompted, tuned) if found.split == "test" else {})


def prompted_rows(sides: Iterable[Beside]) -> list[list[Any]]:
    """Make a row for each split, metric and number of examples."""
    return [
        [
            one.examples,
            f"{one.questions} {found.split} rows",
            f"{one.metric} {score(one.metric, one.value)}",
            changed_by(one),
            score(one.metric, tuned.get(one.metric)),
        ]
        for found, tuned in sides
        for one in found.scores
    ]


def on_same_questions(prompted: Iterable[Sample], tuned: Iterable[Sample]) -> dict[str, float]:
    """Return the trained model's mean of each metric on the questions of `prompted`."""
    asked = {(metric, name) for (_, metric), each in with_examples(prompted).items() for name in each}
    values = dict[str, list[float]]()
    for sample in tuned:
        name = sample.question.removeprefix(f"{sample.task}:")
        if sample.role == "test_split_task" and (sample.metric, name) in asked:
            values.setdefault(sample.metric, []).append(sample.value)
    return {metric: sum(each) / len(each) for metric, each in values.items()}
