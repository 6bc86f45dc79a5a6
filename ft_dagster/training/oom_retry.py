"""Halves micro-batches once when memory ran out, and accumulates as much longer.

A step then consumes the same bins in the same order, so its loss and gradient differ by rounding (and by what
dropout draws) alone: the recipe stays, and with it the checkpoints.
"""

from __future__ import annotations

import json
from pathlib import Path

from ft_dagster.errors import UserError
from ft_dagster.spec.training import TrainingSettings
from ft_dagster.training.contract import RUN_FILE, Member, read_result

OUT_OF_MEMORY = "out_of_memory"  # the `reason` of a result


def can_halve(member: Member) -> bool:
    """Say whether there is a smaller micro-batch to try, and it was not tried."""
    return not member.micro_batch_halved and member.plan.training.per_device_train_batch_size > 1


def halved(settings: TrainingSettings) -> TrainingSettings:
    """Return the settings with half the micro-batch (the largest divisor up to that), and the same effective
    batch.
    """
    size = settings.per_device_train_batch_size
    smaller = max(part for part in range(1, size // 2 + 1) if size % part == 0)
    accumulation = settings.gradient_accumulation_steps * (size // smaller)
    return settings.model_copy(
        update={"per_device_train_batch_size": smaller, "gradient_accumulation_steps": accumulation}
    )


def in_force(member: Member) -> Member:
    """Return the member with the micro-batch that it is trained with."""
    if not member.micro_batch_halved:
        return member
    plan = member.plan.model_copy(update={"training": halved(member.plan.training)})
    return member.model_copy(update={"plan": plan})


def wants_halving(run_folder: Path, result: Path) -> bool:
    """Say whether the try before this one, in the same folder, was halved or ran out of memory."""
    try:
        before = json.loads((run_folder / RUN_FILE).read_text("utf-8"))["members"][0]
        if before.get("micro_batch_halved"):
            return True
        return read_result(result).reason == OUT_OF_MEMORY
    except (OSError, ValueError, KeyError, IndexError, UserError):
        return False
