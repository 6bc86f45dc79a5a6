"""Describes how a training is laid out on its devices: all that decides how many bytes one of them holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Stage = Literal[0, 2, 3]  # of ZeRO; 0: copies


@dataclass(frozen=True)
class Layout:
    """Holds all that decides how many bytes one device holds, beside the model."""

    method: str
    micro_batch: int
    gradient_checkpointing: bool
    length: int  # of a row, tokens
    zero_stage: Stage = 0
    offload: Literal["none", "cpu"] = "none"
    gpus: int = 1
