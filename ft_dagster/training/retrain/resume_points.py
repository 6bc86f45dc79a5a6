"""Keeps states of a training's first pass, from which a retrain without some records can go on.

Such a state is a checkpoint as any other. Beside it is kept the one that would be exported of all before it:
who goes on from the state must be able to choose that too.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from ft_dagster.training.checkpoints import MANIFEST, Checkpoint, commit, complete, damage, folder_of

FOLDER = "resume_points"  # of a training's evidence


def resume_steps(first_pass: int, count: int) -> list[int]:
    """Return the steps whose states are kept: `count`, evenly within the first pass of so many steps; fewer
    where it has fewer.
    """
    at = (round(first_pass * number / (count + 1)) for number in range(1, count + 1))
    return sorted({step for step in at if 0 < step < first_pass})


def share_again(passes: float, count: int) -> float:
    """Return the share of a training's steps, 0 to 1, that a retrain without one record takes on average, by
    its resume points. The record is read once a pass, first at any step of the first pass alike.
    """
    return 1 - count / (2 * (count + 1) * passes)


def steps_needed(
    points: Collection[int], done: int, exportable: Sequence[int], losses: dict[int, float] | None
) -> set[int]:
    """Return the steps whose checkpoints stay for the sake of `points`, as far as `done` steps go: the
    points, and of each the one that would be exported of all before it.

    `exportable`: steps whose checkpoints may be exported; `losses`: validation losses by step, None where
    there is no validation split, and so the newest is exported.
    """
    needed = set[int]()
    for point in points:
        if point > done:
            continue
        needed.add(point)
        before = [step for step in exportable if step <= point]
        if losses is None:
            needed.update(before[-1:])
        else:
            needed.update(sorted(before, key=lambda step: (losses.get(step, float("inf")), step))[:1])
    return needed


def put_by(root: Path, steps: Collection[int], recipe: str, evidence: Path) -> None:
    """Keep the checkpoints of these steps beside what the training exports."""
    shutil.rmtree(evidence / FOLDER, ignore_errors=True)
    for checkpoint in complete(root):
        if checkpoint.step in steps and checkpoint.recipe == recipe:
            target = evidence / FOLDER / checkpoint.folder.name
            shutil.copytree(checkpoint.folder, target, copy_function=_linked)


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


def resume_points(folder: Path) -> Iterator[Checkpoint]:
    """Yield the resume points of a folder that verify, the oldest first."""
    return (checkpoint for checkpoint in complete(folder) if damage(checkpoint) is None)


def take_over(folder: Path, upto: int, root: Path, recipe: str) -> None:
    """Put the resume points up to a step where the training of `recipe` finds its checkpoints.

    Who calls it has made sure that its course is the same up to there (`course.course_of`). Begun again, it
    disturbs no checkpoint that the training wrote meanwhile.
    """
    for point in resume_points(folder):
        target = folder_of(root, point.step)
        if point.step > upto or (target / MANIFEST).exists():
            continue
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(point.folder, target, ignore=shutil.ignore_patterns(MANIFEST))
        commit(target, point.step, recipe, point.validation_loss, point.computed_on)
