"""Explains failures of the machine that a person can mend, as the errors that say how."""

from __future__ import annotations

import errno
import shutil

from ft_dagster.errors import UserError
from ft_dagster.files import is_full
from ft_dagster.methods import method_of
from ft_dagster.training.contract import Member
from ft_dagster.training.oom_retry import can_halve, in_force

NO_MEMORY = (
    "out of memory", "not enough memory", "can't allocate memory", "Cannot allocate memory", "bad_alloc",
    "CUBLAS_STATUS_ALLOC_FAILED",
)  # fmt: skip
NO_SPACE = (  # torch and safetensors raise errors of their own
    "No space left", "File too large", "quota exceeded", "PytorchStreamWriter failed writing",
)  # fmt: skip
NOT_DETERMINISTIC = "does not have a deterministic implementation"
FULL = 1 << 20  # bytes; torch reports a full disk only as a failed write


def out_of_memory(error: Exception) -> bool:
    """Say whether memory ran out, of the device or of the host; torch says it in several ways."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY)


def explained_failure(error: Exception, member: Member) -> UserError | None:
    """Return out of memory, disk full, or an operation without a fixed order as a UserError; None for what
    nobody foresaw.
    """
    if out_of_memory(error):
        return _no_memory(member)
    if NOT_DETERMINISTIC in str(error):
        return UserError(
            f"this model computes what a GPU cannot in a fixed order: {str(error).splitlines()[0][:160]}",
            field="training.deterministic",
            value=True,
            fix="Set it to false: an interrupted training then differs from another by rounding",
        )
    no_space = is_full(error) or (isinstance(error, OSError) and error.errno == errno.EFBIG)
    said = any(words in str(error) for words in NO_SPACE)
    if no_space or said or shutil.disk_usage(member.output).free < FULL:
        return UserError(
            "the disk is full; the checkpoint before this one is whole",
            file=member.output,
            fix="Free some space or lower training.keep_best and keep_last, then run it again",
        )
    return None


def _no_memory(member: Member) -> UserError:
    """Return the error with what would help, the mildest first; a smaller micro-batch is tried by itself."""
    settings = member.plan.training
    changes = [] if settings.gradient_checkpointing else ["training.gradient_checkpointing: true"]
    changes.append(f"a training.max_length below {settings.max_length}")
    changes += [f"method.name: {name}" for name in method_of(member.plan.method.name).smaller[-1:]]
    if not can_halve(member):
        fix = f"Declare {' or '.join(changes)}, or use a device with more memory"
    else:
        fix = "Run it again: it tries half the micro-batch and twice the accumulation, once"
    return UserError(
        "out of memory",
        field="training.per_device_train_batch_size",
        value=in_force(member).plan.training.per_device_train_batch_size,
        fix=fix,
    )
