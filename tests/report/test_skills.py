from collections.abc import Iterable

from ft_dagster.evaluation.samples import Answer, Sample
from ft_dagster.evaluation.skills import skills
from ft_dagster.report.skills import forgotten_markdown, signs_markdown, skill_table
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
    said = forgotten_markdown(FOUND, ANSWERS, own_rows=False)
    assert "**law**: 66.7% → 0.0% of 3 questions, 2 lost and 0 gained" in said
    assert "| What is a tort? | a wrong | a cake |" in said
    assert "sums" not in said


def test_a_tenants_own_questions_are_shown_only_where_they_may_be() -> None:
    assert "secret" not in forgotten_markdown(FOUND, ANSWERS, own_rows=False)
    assert "| What is the tenant's secret? | tea | milk |" in forgotten_markdown(
        FOUND, ANSWERS, own_rows=True
    )


def test_a_long_question_is_shown_by_its_end() -> None:
    long = ANSWERS[0]._replace(asked="x" * 400 + " What is a tort?")
    said = forgotten_markdown(FOUND, [long], own_rows=False)
    assert "…" in said
    assert "What is a tort?" in said


def test_without_a_fall_nothing_was_forgotten() -> None:
    assert forgotten_markdown(FOUND[-1:], ANSWERS, own_rows=True) == "No subject fell."


def test_the_table_has_every_subject_with_the_largest_fall_first() -> None:
    rows = skill_table(FOUND).splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == ["law", "exam", "sums"]


def test_signs_show_the_base_beside_the_tuned_model() -> None:
    role = {"role": "general_prompts", "task": "general_prompts", "metric": "empty_answer"}
    base, tuned = ([sample(n, value, **role) for n, value in enumerate(v)] for v in ([0, 0], [1, 0]))
    table = signs_markdown(base, tuned, {"general_prompts": "greedy answers"})
    assert "| greedy answers | general_prompts | empty_answer | 0.0% | 50.0% | 2 |" in table
