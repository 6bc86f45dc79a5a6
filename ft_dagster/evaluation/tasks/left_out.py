"""Leaves questions of tasks out before any are drawn: those that an ancestor of the model was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from ft_dagster.errors import UserError
from ft_dagster.evaluation.request import EvaluationRequest
from ft_dagster.gate.sampling import draw_questions
from ft_dagster.strict_json import loads


class LeftOutOfTask(TypedDict):
    """Names the questions of a task that are not asked, by their numbers among all documents of all its
    parts. `of`: how many these are.
    """

    of: int
    numbers: list[int]


def read_left_out(request: EvaluationRequest) -> Mapping[str, LeftOutOfTask]:
    """Return what is left out, by task."""
    if request.left_out is None:
        return {}
    tasks: dict[str, LeftOutOfTask] = loads(request.left_out.path.read_bytes())["tasks"]
    return tasks


def without(
    questions: Mapping[str, Sequence[str]], left_out: LeftOutOfTask | None, task: str
) -> dict[str, list[int]]:
    """Return the numbers of the documents of each part that may be asked. Raises UserError where the task has
    another number of documents than were looked for.
    """
    if left_out is None:
        return {name: list(range(len(ids))) for name, ids in questions.items()}
    if sum(map(len, questions.values())) != left_out["of"]:
        raise UserError(
            "the task has another number of questions than were looked for in what ancestors were trained on",
            value=task,
            fix="Run the variant again",
        )
    gone, first, found = {*left_out["numbers"]}, 0, {}
    for name, ids in questions.items():
        found[name] = [number for number in range(len(ids)) if first + number not in gone]
        first += len(ids)
    return found


def drawn_of(
    questions: Mapping[str, Sequence[str]],
    asked: Mapping[str, Sequence[int]],
    limit: int | None,
    seed: int,
    *,
    beyond: bool = False,
) -> dict[str, list[int]]:
    """Draw from those that may be asked, see `draw_questions`."""
    ids = {name: [questions[name][number] for number in numbers] for name, numbers in asked.items()}
    chosen = draw_questions(ids, limit, seed, beyond=beyond)
    return {name: [asked[name][place] for place in places] for name, places in chosen.items()}
