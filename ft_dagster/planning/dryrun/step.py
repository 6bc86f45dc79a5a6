"""Describes which training step is run without memory: its shapes and types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ft_dagster.training.methods import Precision


@dataclass(frozen=True)
class Step:
    """Describes one training step of one process.

    `trained_positions`: positions of a micro-batch at which some row has a label, where logits are computed.
    `packed`: position_ids say where examples begin, so attention needs a mask. `sharded`: under DeepSpeed,
    which trains weights in `precision` without autocast; gradients, masters, moments are counted elsewhere.
    `device`: whose kernels; a GPU's are stood in for, no GPU is needed. `own_loss`: the objective whose own
    loss it is, None for the one that all others share. `fused`: as if a kernel that makes no scores computed
    attention, of a base whose class has none: what it would hold tells what its scores take.
    """

    rows: int
    length: int
    trained_positions: int
    precision: Precision = "bf16"
    gradient_checkpointing: bool = False
    gradient_accumulation_steps: int = 1
    packed: bool = True
    sharded: bool = False
    device: Literal["cpu", "cuda"] = "cpu"
    own_loss: str | None = None
    fused: bool = False
