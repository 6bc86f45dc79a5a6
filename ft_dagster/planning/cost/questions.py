"""Counts the questions an evaluation asks a model, from what is declared and what was counted."""

from __future__ import annotations

from dataclasses import dataclass

from ft_dagster.data.rows.planted import REFERENCES
from ft_dagster.spec.variant import EvaluationSpec


@dataclass(frozen=True)
class QuestionsThere:
    """Counts the questions there are. `test`, `train`: rows of these splits; `declared`: of each task of
    `evaluation.task` and `evaluation.general`. None: nobody counted them. `refusals`: prompts that are put to
    a model for `gates.refusals`; `planted`: the platform's canaries in the corpus. 0: none are asked.
    """

    test: int | None = None
    declared: tuple[int, ...] | None = None
    train: int | None = None
    refusals: int = 0
    planted: int = 0

    def asked(self, evaluation: EvaluationSpec) -> int | None:
        """Return the questions asked of all tasks together, and `beside` them; None where all of a task are
        asked and nobody counted them.
        """
        count = len(evaluation.task) + len(evaluation.general)
        counted = self.declared if self.declared is not None and len(self.declared) == count else None
        own = () if evaluation.task else (self._held(evaluation),)
        most = [_least(evaluation.most, there) for there in (*own, *(counted or (None,) * count))]
        known = [each for each in most if each is not None]
        return sum(known) + sum(self.beside(evaluation).values()) if len(known) == len(most) else None

    def beside(self, evaluation: EvaluationSpec) -> dict[str, int]:
        """Return what is asked beside the tasks because it is declared, by what it is: a prompt, the loss of
        a row, and a canary with its references count as a question each.
        """
        sides = [_least(evaluation.membership, there) for there in (self.train, self._held(evaluation))]
        found = {
            "prompts of gates.refusals": self.refusals,
            "rows of evaluation.membership": sum(side or 0 for side in sides),
            "canaries of the platform and references": self.planted + REFERENCES if self.planted else 0,
        }
        return {what: asked for what, asked in found.items() if asked}

    def _held(self, evaluation: EvaluationSpec) -> int | None:
        """Return how many test rows are asked: of a reserve one set of them."""
        return None if self.test is None else self.test // evaluation.sets


NOT_COUNTED = QuestionsThere()


def _least(limit: int | None, there: int | None) -> int | None:
    return min((each for each in (limit, there) if each is not None), default=None)
