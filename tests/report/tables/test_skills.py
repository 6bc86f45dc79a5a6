from collections.abc import Iterable

from ft_dagster.evaluation.skills import skills
from ft_dagster.gate.samples import Answer, Role, Sample
from ft_dagster.report.tables.skills import lost_rows, signs_rows, skill_rows
from tests.evaluation.questions import sample


def asked(role: str, values: Iterable[float], subject: str) -> list[Sample]:
    return [
        sample(0, value, role=role, task=role, question=f"{subject}:{number}:00")
        for number, value in enumerate(values)
    ]


FOUND = skills(
    asked("general", [1, 1, 0], "law") + asked("task", [1, 1], "exam") + asked("general", [1], "sums"),
    asked("general", [0, 0, 0], "law") + asked("task", [0, 1], "exam") + asked("general", [1], "sums"),
)
ANSWERS = [
    Answer("general", "general", "law:0:00", "What is a tort?", "a wrong", "a cake"),
    Answer("task", "task", "exam:0:00", "What is the tenant's secret?", "tea", "milk"),
]


def test_what_fell_comes_with_questions_right_before_and_wrong_now() -> None:
    assert lost_rows(FOUND, ANSWERS, own_rows=False) == [["law", "What is a tort?", "a wrong", "a cake"]]
    assert skill_rows(FOUND)[0] == ["law", "66.7% → 0.0%", 2, 0, 3]


def test_a_tenants_own_questions_are_shown_only_where_they_may_be() -> None:
    shown = ["exam", "What is the tenant's secret?", "tea", "milk"]
    assert shown not in lost_rows(FOUND, ANSWERS, own_rows=False)
    assert shown in lost_rows(FOUND, ANSWERS, own_rows=True)


def test_questions_of_a_general_check_that_is_the_tenants_own_are_shown_only_where_its_rows_may_be() -> None:
    base, tuned = asked("general", [1, 1], "law"), asked("general", [0, 0], "law")
    found = skills(base, tuned, {"general": {"general": "acme/general"}})
    assert lost_rows(found, ANSWERS, own_rows=False) == []
    assert lost_rows(found, ANSWERS, own_rows=True) == [["law", "What is a tort?", "a wrong", "a cake"]]


def test_a_long_question_is_shown_by_its_end() -> None:
    long = ANSWERS[0]._replace(asked="x" * 400 + " What is a tort?")
    ((_, asked, *_),) = lost_rows(FOUND, [long], own_rows=False)
    assert asked.startswith("…")
    assert asked.endswith("What is a tort?")


def test_without_a_fall_nothing_was_forgotten() -> None:
    assert lost_rows(FOUND[-1:], ANSWERS, own_rows=True) == []


def test_the_table_has_every_subject_with_the_largest_fall_first() -> None:
    assert [row[0] for row in skill_rows(FOUND)] == ["law", "exam", "sums"]


def test_signs_show_the_base_beside_the_tuned_model() -> None:
    role: Role = "general_prompts"
    told = {"role": role, "task": role, "metric": "empty_answer"}
    base, tuned = ([sample(n, value, **told) for n, value in enumerate(v)] for v in ([0, 0], [1, 0]))
    assert signs_rows(base, tuned, role) == [["general_prompts", "empty_answer", "0.0%", "50.0%", 2]]
