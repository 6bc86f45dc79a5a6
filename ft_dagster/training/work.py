"""Holds what a training works on, and what its plan makes of that."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from ft_dagster.training import ranks
from ft_dagster.training.batches.mixture import Examples
from ft_dagster.training.batches.packing import Bin, total_steps
from ft_dagster.training.contract import Member
from ft_dagster.training.journal import Journal
from ft_dagster.training.methods import TaughtBy, packs
from ft_dagster.training.progress import TrainingProgress
from ft_dagster.training.retrain.resume_points import steps_needed
from ft_dagster.training.watch import forgetting
from ft_dagster.training.watch.budget import Split
from ft_dagster.training.watch.falls import looks_of
from ft_dagster.training.watch.rate import NOTCH


@dataclass
class Work:
    """Is one training in progress.

    `evaluations`: the steps at which it is measured, and whose checkpoints may be exported, by their number
    among all that were planned; the budget of measuring may leave some out. `patience`: see `ranks.patience`.
    `resume_steps`: steps whose states are kept beside what is exported.
    """

    member: Member
    method: TaughtBy
    recipe: str
    train: Examples
    held_out: dict[Split, Examples]  # by split: what is measured, never trained on
    bins: list[Bin]
    journal: Journal
    progress: TrainingProgress
    evaluations: dict[int, int]
    patience: int
    resume_steps: list[int] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    imported: int | None = None  # bytes of this process before it held a weight

    @property
    def steps(self) -> int:
        return total_steps(len(self.bins), self.member.plan.training, ranks.world())

    @property
    def learning_rate(self) -> float:
        """Return the learning rate: as planned, or a notch lower."""
        return self.member.plan.training.learning_rate * (NOTCH if self.journal.lowered else 1)

    @property
    def evaluated_at(self) -> list[int]:
        return list(self.evaluations)

    @property
    def exportable(self) -> list[int]:
        """Return the evaluations at which the model forgot no more than declared, as far as it was
        measured.
        """
        training, journal = self.member.plan.training, self.journal
        general = journal.evaluations.get("general_holdout", {})
        looks = looks_of(training.on_bad_rate, len(self.evaluations))
        return [
            step
            for step in self.evaluations
            if forgetting.passed(training.watch, general, journal.observations, step, looks) is None
        ]

    @property
    def kept_steps(self) -> set[int]:
        """Return the steps whose checkpoints stay for the sake of the resume points, so far."""
        losses = self.journal.evaluations.get("validation", {}) if "validation" in self.held_out else None
        return steps_needed(self.resume_steps, self.journal.steps, self.exportable, losses)

    @property
    def looked_otherwise(self) -> bool:
        """Say whether the journal that it goes on with has other evaluations than are planned: as of a resume
        point, where less is left to measure by.
        """
        measured = self.journal.evaluations.get("validation")
        planned = [step for step in self.evaluated_at if step <= self.journal.steps]
        return measured is not None and sorted(step for step in measured if step) != planned

    @property
    def packs(self) -> bool:
        return packs(self.member.plan)
