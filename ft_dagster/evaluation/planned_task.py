"""Holds a task as it is asked, and makes samples of what lm-eval returns of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ft_dagster.errors import UserError
from ft_dagster.evaluation.tasks.task_files import PER_UNIT
from ft_dagster.gate.samples import Answer, Role, Sample, main_metric

SECRET: tuple[Role, ...] = ("platform_canaries",)  # roles of which no text is kept

if TYPE_CHECKING:
    from lm_eval.api.task import Task


@dataclass(frozen=True)
class PlannedTask:
    """Describes one task as it will be asked: lm-eval's tasks, and which documents of each (None: all of
    them).

    `ids`: of a declared task, those of all documents of each part; other documents bring their own.
    `grouped`: whether a document's `group` says on which others it depends; lm-eval's own have other fields
    of that name.
    """

    role: Role
    task: str
    parts: dict[str, Task]
    chosen: dict[str, list[int]] | None
    ids: Mapping[str, Sequence[str]] = field(default_factory=dict)
    grouped: bool = True

    @property
    def questions(self) -> int:
        if self.chosen is not None:
            return sum(map(len, self.chosen.values()))
        return len({doc["index"] for part in self.parts.values() for doc in part.eval_docs})

    @cached_property
    def places(self) -> dict[str, list[tuple[str, int]]]:
        """Return for each question, by its id, in which parts it stands, as which document."""
        found: dict[str, list[tuple[str, int]]] = {}
        if self.chosen is not None:
            return {
                f"{name}:{self.ids[name][index]}": [(name, index)]
                for name, indices in self.chosen.items()
                for index in indices
            }
        for name, part in self.parts.items():
            for index, doc in enumerate(part.eval_docs):
                found.setdefault(f"{self.task}:{doc['question']}", []).append((name, index))
        return found

    def batch(self, questions: Iterable[str]) -> dict[str, list[int]]:
        """Return the documents of these questions: by part, ascending."""
        found: dict[str, list[int]] = {}
        for question in questions:
            for name, index in self.places[question]:
                found.setdefault(name, []).append(index)
        return {name: sorted(indices) for name, indices in found.items()}


def samples_of(asked: PlannedTask, name: str, part: Any, row: dict[str, Any]) -> list[Sample]:
    better = part.higher_is_better()
    scored: list[Sample] = []
    for metric in row["metrics"]:
        value, weight, said = row[metric], 1.0, metric
        if metric in PER_UNIT:
            value, weight, said = -row[metric][0] / row[metric][1], float(row[metric][1]), PER_UNIT[metric]
        elif metric in ("completion_loss", "general_loss"):
            weight = float(row["doc"]["tokens"])
        elif isinstance(value, tuple | list | dict | str):
            continue  # only meaningful over all questions (f1, mcc): nothing to pair
        said = said if row["filter"] == "none" else f"{said},{row['filter']}"
        higher = bool(better.get(metric, True))
        question = _question(asked, name, row)
        group = group_of(row["doc"]) if asked.grouped else None
        scored.append(Sample(asked.role, asked.task, said, question, float(value), weight, higher, group))
    if not scored:
        raise UserError(
            f"the task has no metric per question: {', '.join(row['metrics'])}",
            value=asked.task,
            fix="Declare one such as acc or exact_match in the task's metric_list",
        )
    return scored


def group_of(doc: Any) -> str | None:
    """Return the group that a document says it depends on."""
    said = doc.get("group") if isinstance(doc, dict) else None
    return None if said is None or str(said) in ("", "nan") else str(said)


def _question(asked: PlannedTask, name: str, row: dict[str, Any]) -> str:
    """Return the question's id: (sub)task, number among its equals, hash of its content."""
    if asked.chosen is None:
        return f"{asked.task}:{row['doc']['question']}"
    return f"{name}:{asked.ids[name][row['doc_id']]}"


def answer_of(asked: PlannedTask, name: str, part: Any, row: dict[str, Any], metrics: list[str]) -> Answer:
    """Return what was asked, expected and answered, in words; a loss has no answer, and of a secret of the
    platform's nothing is written.
    """
    question = (asked.role, asked.task, _question(asked, name, row))
    if asked.role in SECRET:
        return Answer(*question, "", "", "")
    arguments, given, target = row["arguments"], row["filtered_resps"], row["target"]
    if len(arguments) == 1:
        answered = given[0] if isinstance(given[0], str) else ""
        return Answer(*question, str(arguments[0][0]), str(target), answered)
    # Multiple choice: one request a choice, told apart by the continuation, or else by the context.
    which = 1 if len({argument[1] for argument in arguments}) > 1 else 0
    choices = [str(argument[which]).strip() for argument in arguments]
    normed = main_metric(metrics) == "acc_norm"
    scores = [g[0] / max(1, len(c)) if normed else g[0] for g, c in zip(given, choices, strict=True)]
    right = target if which else part.doc_to_text(row["doc"])
    expected = choices[right] if isinstance(right, int) and 0 <= right < len(choices) else str(right)
    return Answer(*question, str(arguments[0][1 - which]), expected, choices[scores.index(max(scores))])
