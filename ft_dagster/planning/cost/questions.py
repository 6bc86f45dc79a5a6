"""Counts the questions an evaluation asks a model, from what is declared and what was counted."""

from __future__ import annotations

from dataclasses import dataclass

from ft_dagster.spec.variant import EvaluationSpec


@dataclass(frozen=True)
class QuestionsThere:
    """Counts the questions there are. `test`: rows of the test split; `declared`: of each task of
    `evaluation.task` and `evaluation.general`. None: nobody counted them.
    """

    test: int | None = None
    declared: tuple[int, ...] | None = None

    def asked(self, evaluation: EvaluationSpec) -> int | None:
        """Return the questions asked of all tasks together; None where all of a task are asked and nobody
        counted them.
        """
        count = len(evaluation.task) + len(evaluation.general)
        counted = self.declared if self.declared is not None and len(self.declared) == count else None
        own = () if evaluation.task else (self.test,)
        most = [_least(evaluation.most, there) for there in (*own, *(counted or (None,) * count))]
        known = [each for each in most if each is not None]
        return sum(known) if len(known) == len(most) else None


NOT_COUNTED = QuestionsThere()


def _least(limit: int | None, there: int | None) -> int | None:
    return min((each for each in (limit, there) if each is not None), default=None)
