"""Failures of the machine that a person can mend, as the errors that say how."""

from __future__ import annotations

import errno
import shutil

from ft_dagster.errors import UserError
from ft_dagster.training.contract import Member

FULL = 1 << 20  # bytes; torch reports a full disk only as a failed write


def explained(error: Exception, member: Member) -> UserError | None:
    """Out of memory and disk full as a UserError; None for what nobody foresaw."""
    if (
        isinstance(error, MemoryError)
        or "out of memory" in str(error)
        or "can't allocate memory" in str(error)
    ):
        return UserError(
            "out of memory",
            field="training.per_device_train_batch_size",
            value=member.plan.training.per_device_train_batch_size,
            fix="Halve it and double gradient_accumulation_steps, or turn gradient_checkpointing on",
        )
    no_space = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if no_space or "No space left" in str(error) or shutil.disk_usage(member.output).free < FULL:
        return UserError(
            "the disk is full; the checkpoint before this one is whole",
            file=member.output,
            fix="Free some space or lower training.keep_best and keep_last, then run it again",
        )
    return None
