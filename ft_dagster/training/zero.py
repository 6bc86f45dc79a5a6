"""Configures DeepSpeed: the ZeRO configuration of a training, and its whole fp32 weights out of a
checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ft_dagster.errors import UserError
from ft_dagster.training.batches.packing import Bin, bins_of_steps
from ft_dagster.training.contract import Member

if TYPE_CHECKING:
    from torch import Tensor

FILE = "deepspeed.json"


def configuration(member: Member, ranks: int) -> dict[str, Any] | None:
    """Return DeepSpeed's own configuration; None where each rank holds a copy (stage 0).

    Master weights and moments are fp32; the weights that compute are in the training's precision.
    """
    settings = member.plan.training
    zero = settings.deepspeed
    if zero.stage == 0:
        return None
    micro, accumulation = settings.per_device_train_batch_size, settings.gradient_accumulation_steps
    return {
        "bf16": {"enabled": settings.precision == "bf16"},
        "zero_optimization": {
            "stage": zero.stage,
            "overlap_comm": member.plan.device.kind == "cuda",
            "contiguous_gradients": True,
            "reduce_bucket_size": zero.bucket_bytes,
            **_offload(member),
            **(_STAGE_3 if zero.stage == 3 else {"allgather_bucket_size": zero.bucket_bytes}),
        },
        "zero_force_ds_cpu_optimizer": False,
        "gradient_clipping": settings.max_grad_norm,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": accumulation,
        "train_batch_size": micro * accumulation * ranks,
        "steps_per_print": 10**9,
    }


def refuse_whole_base(member: Member, *, quantized: bool) -> None:
    """Raises UserError where an older plan divides a `quantized` base over GPUs by ZeRO-3: transformers loads
    it whole onto each, and what was planned to fit does not.
    """
    plan = member.plan
    if quantized and plan.training.deepspeed.stage == 3 and plan.device.kind == "cuda":
        raise UserError(
            f"the plan divides the base of {plan.method.name} by ZeRO-3, and each GPU would load it whole",
            field="training.deepspeed.stage",
            value=3,
            fix="Declare training.deepspeed: 0, or method: lora, and run it again: it is planned anew",
        )


def refuse_unlabelled(member: Member, bins: Sequence[Bin], trained: NDArray[np.int64], ranks: int) -> None:
    """Raises UserError where ZeRO would make an optimizer step without a label, all of whose examples are
    slots of erased records: its optimizer would move weights by their moments there. `trained`: labels of
    each example.
    """
    settings = member.plan.training
    if settings.deepspeed.stage == 0:
        return
    for step, of_step in enumerate(bins_of_steps(bins, settings, ranks), start=1):
        if not any(trained[ordinals].sum() for ordinals in of_step):
            raise UserError(
                f"all that step {step} would read was erased, and ZeRO's optimizer would move weights there",
                file=member.mixture,
                field="training.deepspeed.stage",
                value=settings.deepspeed.stage,
                fix="Train without the slots: prepare the mixture anew, of the rows that are left",
            )


# A checkpoint keeps the shards with their fp32 masters, out of which the export is made whole.
_STAGE_3 = {"stage3_gather_16bit_weights_on_model_save": False}


def join() -> None:
    """Tell DeepSpeed of the ranks before a model is loaded in shards; on CPUs transformers does not."""
    import deepspeed

    # On CPUs it would compile, for most of a minute, an all-reduce that only its inference engine calls.
    # The module by its name: as an attribute of the package it may be torch itself.
    setattr(import_module("deepspeed.comm.torch"), "build_shm_op", lambda: None)  # noqa: B010
    deepspeed.init_distributed(verbose=False)


def _offload(member: Member) -> dict[str, object]:
    zero = member.plan.training.deepspeed
    if zero.offload == "none":
        return {}
    place: dict[str, object] = {"device": zero.offload, "pin_memory": member.plan.device.kind == "cuda"}
    if zero.offload == "nvme":
        place["nvme_path"] = zero.nvme_path
    parts: dict[str, object] = {"offload_optimizer": place}
    return parts | ({"offload_param": place} if zero.stage == 3 else {})


def whole_weights(checkpoint: Path, *, trained_only: bool) -> dict[str, Tensor]:
    """Return the fp32 weights by name, put together from every rank's shards (DeepSpeed's own
    zero_to_fp32).
    """
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    weights: dict[str, Tensor] = get_fp32_state_dict_from_zero_checkpoint(
        str(checkpoint), exclude_frozen_parameters=trained_only
    )
    return weights
