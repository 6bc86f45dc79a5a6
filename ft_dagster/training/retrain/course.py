"""Says how weights without some records come to be: they stand, a training goes on from a resume point, or it
begins from the start. Imports no torch.

The measure is the mixture with empty slots in the records' place, trained from step 0 under the old plan:
what goes on from a resume point ends in the same bytes, or is not allowed to.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Literal

from ft_dagster.training.batches.mixture import open_split
from ft_dagster.training.batches.packing import Bin, bins_of_steps, schedule
from ft_dagster.training.checkpoints import Checkpoint, of_another_torch
from ft_dagster.training.contract import Plan
from ft_dagster.training.journal import Journal
from ft_dagster.training.methods import laid_out
from ft_dagster.training.watch.rate import looked_at

How = Literal["STANDS", "RESUMED", "FROM START"]


@dataclass(frozen=True)
class Course:
    """Says how the weights without some records come to be. `step`: the last one that is taken over; `steps`:
    of the whole training; `why`: in words.
    """

    how: How
    step: int
    steps: int
    why: str

    @property
    def share(self) -> float:
        """Return the share of the steps that are trained again, 0 to 1."""
        return 1 - self.step / self.steps if self.steps else 0.0


def first_step_with(bins: Sequence[Bin], plan: Plan, ordinals: Collection[int]) -> int | None:
    """Return the first optimizer step, from 1, that reads one of these examples; None where none does."""
    wanted = set(ordinals)
    for step, of_step in enumerate(bins_of_steps(bins, plan.training, plan.ranks), start=1):
        if any(wanted.intersection(each) for each in of_step):
            return step
    return None


def first_difference(before: Sequence[str], after: Iterable[str]) -> int | None:
    """Return the first step, from 1, whose batch is another than the ledger of the training before says; None
    where all that it made are the same.
    """
    pairs = zip_longest(before, after)
    return next((step for step, (old, new) in enumerate(pairs, start=1) if old and old != new), None)


def bins_of(mixture: Path, plan: Plan, seed: int, scratch: Path) -> list[Bin]:
    """Return the bins of a training as it lays them out; `plan` is in force (`oom_retry.in_force`)."""
    train = open_split(mixture, "train", scratch)
    if train is None:
        return []
    train, capacity = laid_out(plan, train)
    ranks, beginnings = plan.ranks, train.beginnings
    return schedule(train.lengths, train.shards, plan.training, capacity, seed, ranks, beginnings)


def course_of(
    first: int | None,
    plan: Plan,
    steps: int,
    points: Sequence[Checkpoint],
    *,
    recipe: str,
    computed_on: str,
    measured_with: bool,
) -> Course:
    """Say how the weights without some records come to be.

    `first`: the first step that read one of them, None: no step did; `steps`: that the training made.
    `points`: its resume points, verified, the oldest first; `recipe`: of the training before, as it would be
    asked for today; `computed_on`: of this device. `measured_with`: a loss that chooses a checkpoint or ends
    a training counted one of them.
    """
    if measured_with:
        why = "a held-out loss counted it, and that loss may have chosen the rate, the end or the checkpoint"
        return Course("FROM START", 0, steps, f"{why}: the choice is made again")
    if first is None:
        return Course("STANDS", steps, steps, "no step of the training read it")
    judged_at = looked_at(steps, plan.training.warmup_ratio)
    why = "no resume point was kept (`retention.resume_points`)"
    for point in reversed(points):
        if point.step >= first:
            why = f"step {first} read it first, before the first resume point"
            continue
        refused = _refused(point, recipe, computed_on)
        if refused is None and judged_at is not None and first <= judged_at and _lowered(point):
            refused = "the losses by which its learning rate was lowered counted it"
        if refused is None:
            said = f"from the state after step {point.step}: step {first} read it first"
            return Course("RESUMED", point.step, steps, said)
        why = refused
    return Course("FROM START", 0, steps, why)


def _refused(point: Checkpoint, recipe: str, computed_on: str) -> str | None:
    """Say why a training does not go on from a resume point; None where it may."""
    if point.recipe != recipe:
        return "the resume points are of another base, plan, seed or number of ranks"
    if (other := of_another_torch(point)) is not None:
        return other
    if point.computed_on != computed_on:
        return f"the resume points were computed on {point.computed_on}, and this is {computed_on}"
    return None


def _lowered(point: Checkpoint) -> bool:
    return Journal.load(point.folder).lowered
