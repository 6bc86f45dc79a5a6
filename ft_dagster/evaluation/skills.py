"""Compares base and tuned model question by question: what was forgotten and what was learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ft_dagster.evaluation.own_checks import OwnChecks
from ft_dagster.gate.samples import Role, Sample, main_metric

# Scores that say right or wrong; a loss or an overlap does not.
RIGHT_OR_WRONG = ("acc_norm", "acc", "exact_match", "execution_accuracy", "calls_right")


@dataclass(frozen=True)
class Skill:
    """Compares one task, or one subject of a group of tasks, on the questions asked of both models.

    `lost`: question ids right before and wrong now; `gained`: the reverse. `base` and `tuned` are the
    shares answered rightly. `own`: whether the questions are the tenant's. `read_answers` gives the text
    behind an id.
    """

    role: Role
    task: str
    subject: str
    metric: str
    base: float
    tuned: float
    questions: int
    lost: tuple[str, ...]
    gained: tuple[str, ...]
    own: bool


def skills(base: Sequence[Sample], tuned: Sequence[Sample], own: OwnChecks | None = None) -> list[Skill]:
    """Return every subject with right-or-wrong answers, the largest fall first, on questions asked of both.
    `own`: what the tenant's own checks are called.
    """
    metrics = _deciding_metrics(tuned)
    before = {(s.role, s.task, s.metric, s.question): s.value for s in base}
    groups: dict[tuple[Role, str, str, str], dict[str, tuple[float, float]]] = {}
    for sample in tuned:
        key = (sample.role, sample.task, sample.metric, sample.question)
        if key in before and sample.metric == metrics.get((sample.role, sample.task)):
            group = (sample.role, sample.task, subject_of(sample.question), sample.metric)
            groups.setdefault(group, {})[sample.question] = (before[key], sample.value)
    found = [_skill(*group, pairs) for group, pairs in groups.items()]
    names = own or {}
    return sorted(
        (_called(one, names.get(one.role, {})) for one in found), key=lambda one: one.tuned - one.base
    )


def _called(skill: Skill, names: Mapping[str, str]) -> Skill:
    """Name a skill by what a tenant's own check is called; `names`: of those of its role."""
    own = skill.role != "general" or skill.task in names
    return replace(skill, subject=names.get(skill.subject, skill.subject), own=own)


def subject_of(question: str) -> str:
    """Return the (sub)task that a question id begins with: `mmlu_anatomy:12:0f3a` is of `mmlu_anatomy`."""
    return question.rsplit(":", 2)[0]


def _deciding_metrics(samples: Sequence[Sample]) -> dict[tuple[Role, str], str]:
    """Return the right-or-wrong metric of each task that has one."""
    offered: dict[tuple[Role, str], dict[str, None]] = {}
    for sample in samples:
        if sample.metric.split(",")[0] in RIGHT_OR_WRONG:
            offered.setdefault((sample.role, sample.task), {})[sample.metric] = None
    return {key: main_metric(list(metrics)) for key, metrics in offered.items()}


def _skill(role: Role, task: str, subject: str, metric: str, pairs: dict[str, tuple[float, float]]) -> Skill:
    count = len(pairs)
    return Skill(
        role,
        task,
        subject,
        metric,
        base=sum(before for before, _ in pairs.values()) / count,
        tuned=sum(after for _, after in pairs.values()) / count,
        questions=count,
        lost=tuple(sorted(q for q, (before, after) in pairs.items() if before >= 0.5 > after)),
        gained=tuple(sorted(q for q, (before, after) in pairs.items() if after >= 0.5 > before)),
        own=True,
    )
