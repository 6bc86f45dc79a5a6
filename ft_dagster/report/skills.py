"""What was forgotten, for people: subjects by how far they fell, and questions right before and wrong now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ft_dagster.evaluation.samples import Answer, Sample
from ft_dagster.evaluation.samples import scores as means_of
from ft_dagster.evaluation.skills import Skill
from ft_dagster.report.tables import ABSENT, ARROW, markdown_table, percent

EXAMPLES = 3  # of each subject
LONGEST = 300  # characters of a question that are shown: its end, where the question is


def skill_table(found: Iterable[Skill]) -> str:
    """Every task or subject with right-or-wrong answers, the largest fall first."""
    rows = [
        [
            skill.subject,
            skill.role,
            f"{percent(skill.base)}{ARROW}{percent(skill.tuned)}",
            len(skill.lost),
            len(skill.gained),
            skill.questions,
        ]
        for skill in found
    ]
    return markdown_table(["subject", "role", "right before → now", "lost", "gained", "questions"], rows)


def forgotten_markdown(found: Iterable[Skill], answers: Iterable[Answer], *, own_rows: bool) -> str:
    """The subjects that fell, each with a few questions that were right before and are wrong now.

    `answers`: of the tuned model. `own_rows`: whether a tenant's own questions may be shown; those of general
    benchmarks are public.
    """
    words = {(answer.role, answer.question): answer for answer in answers}
    fallen = [skill for skill in found if skill.tuned < skill.base]
    if not fallen:
        return "No subject fell."
    parts = []
    for skill in fallen:
        shown = skill.role == "general" or own_rows
        lost = [words[skill.role, q] for q in skill.lost if shown and (skill.role, q) in words]
        said = (
            f"**{skill.subject}**: {percent(skill.base)}{ARROW}{percent(skill.tuned)} of {skill.questions} "
            f"questions, {len(skill.lost)} lost and {len(skill.gained)} gained"
        )
        table = [[_end(a.asked), a.expected, a.answered or ABSENT] for a in lost[:EXAMPLES]]
        parts.append(said + (f"\n\n{markdown_table(['asked', 'right', 'now'], table)}" if table else ""))
    return "\n\n".join(parts)


def signs_markdown(base: Sequence[Sample], tuned: Sequence[Sample], roles: Mapping[str, str]) -> str:
    """The means of the named roles' metrics, base and tuned: degeneration, regurgitation."""
    before, after = (
        {(score.role, score.task, score.metric): score for score in means_of(side)} for side in (base, tuned)
    )
    rows = [
        [roles[key[0]], key[1], key[2], percent(before[key].value), percent(score.value), score.questions]
        for key, score in after.items()
        if key[0] in roles and key in before
    ]
    return markdown_table(["what", "asked", "share", "base", "tuned", "of"], rows)


def _end(text: str) -> str:
    return text if len(text) <= LONGEST else "…" + text[-LONGEST:]
