"""Shows what was forgotten to people: subjects by how far they fell, and questions right before and wrong
now.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ft_dagster.evaluation.skills import Skill
from ft_dagster.gate.samples import Answer, Role, Sample, means
from ft_dagster.report.figures import ABSENT, ARROW, percent

SKILLS = ("subject", "base → tuned", "lost", "gained", "questions")
LOST = ("subject", "asked", "right", "now")
SIGNS = ("asked", "share of", "base", "tuned", "of")
EXAMPLES = 3  # of each subject
LONGEST = 300  # characters of a question that are shown: its end, where the question is


def skill_rows(found: Iterable[Skill]) -> list[list[Any]]:
    """Return every task or subject with right-or-wrong answers, the largest fall first; a row for
    `SKILLS`.
    """
    return [
        [
            skill.subject,
            f"{percent(skill.base)}{ARROW}{percent(skill.tuned)}",
            len(skill.lost),
            len(skill.gained),
            skill.questions,
        ]
        for skill in found
    ]


def lost_rows(found: Iterable[Skill], answers: Iterable[Answer], *, own_rows: bool) -> list[list[Any]]:
    """Return for each subject that fell a few questions that were right before and are wrong now; a row for
    `LOST`.

    `answers`: of the tuned model. `own_rows`: whether a tenant's own questions may be shown; those of other
    general benchmarks are public.
    """
    words = {(answer.role, answer.question): answer for answer in answers}
    rows = []
    for skill in (skill for skill in found if skill.tuned < skill.base):
        shown = own_rows or not skill.own
        lost = [words[skill.role, q] for q in skill.lost if shown and (skill.role, q) in words]
        rows += [[skill.subject, _end(a.asked), a.expected, a.answered or ABSENT] for a in lost[:EXAMPLES]]
    return rows


def signs_rows(base: Sequence[Sample], tuned: Sequence[Sample], role: Role) -> list[list[Any]]:
    """Return the means of a role's metrics, base and tuned (degeneration, regurgitation); rows for
    `SIGNS`.
    """
    before, after = (
        {(score.role, score.task, score.metric): score for score in means(side)} for side in (base, tuned)
    )
    return [
        [key[1], key[2], percent(before[key].value), percent(score.value), score.questions]
        for key, score in after.items()
        if key[0] == role and key in before
    ]


def _end(text: str) -> str:
    return text if len(text) <= LONGEST else "…" + text[-LONGEST:]
