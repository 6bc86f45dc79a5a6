from collections.abc import Iterable
from typing import Any

from ft_dagster.evaluation.skills import skills
from ft_dagster.gate.samples import Sample
from tests.evaluation.questions import sample


def of(subject: str, values: Iterable[float], **fields: Any) -> list[Sample]:
    return [
        sample(0, value, task="mmlu", question=f"{subject}:{number}:00", **fields)
        for number, value in enumerate(values)
    ]


def test_lost_and_gained_questions_are_listed() -> None:
    (skill,) = skills(of("mmlu_law", [1, 1, 0]), of("mmlu_law", [1, 0, 1]))
    assert (skill.lost, skill.gained) == (("mmlu_law:1:00",), ("mmlu_law:2:00",))


def test_a_group_is_split_into_its_subjects_the_largest_fall_first() -> None:
    base = of("mmlu_law", [1, 1]) + of("mmlu_anatomy", [1, 1])
    tuned = of("mmlu_law", [1, 1]) + of("mmlu_anatomy", [0, 1])
    assert [(s.subject, s.base, s.tuned) for s in skills(base, tuned)] == [
        ("mmlu_anatomy", 1.0, 0.5),
        ("mmlu_law", 1.0, 1.0),
    ]


def test_a_loss_is_no_skill() -> None:
    assert (
        skills(
            of("test_split_task", [2.0], metric="completion_loss"),
            of("test_split_task", [1.0], metric="completion_loss"),
        )
        == []
    )


def test_a_question_of_one_model_is_left_out() -> None:
    (skill,) = skills(of("mmlu_law", [1]), of("mmlu_law", [1, 0]))
    assert skill.questions == 1
