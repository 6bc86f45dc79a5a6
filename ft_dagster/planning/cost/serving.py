"""Computes what serving all variants of one base takes: copies of the whole model, or one base with adapters.

GB are 1e9 bytes; memory of a GPU is what its driver reports.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ft_dagster.methods.method import BF16
from ft_dagster.planning.memory_formula import adapter_bytes

HEADROOM = 1.20  # of the weights: keys and values of the running requests, buffers
USABLE = 0.90  # of a GPU's memory: vLLM's own default (gpu_memory_utilization)
Manner = Literal["adapters", "copies"]


@dataclass(frozen=True)
class Serving:
    """Describes how all variants are served together. `gpus` None: the GPU's memory is unknown."""

    manner: Manner
    memory_bytes: int
    gpus: int | None
    sentence: str


def serve_copies(weights_bytes: int, variants: int, gpu_bytes: int | None, *, device: str = "GPU") -> Serving:
    """Serve one copy for each variant; small ones share a GPU, large ones are spread over several.

    `device`: what a sentence calls it.
    """
    one = math.ceil(weights_bytes * HEADROOM)
    whole = one * variants
    said = f"{variants} cop{'ies' if variants > 1 else 'y'} of {weights_bytes / 1e9:,.1f} GB"
    if gpu_bytes is None:
        return Serving("copies", whole, None, f"{said}; the {device}'s memory is unknown")
    together = int(USABLE * gpu_bytes) // one
    if together:
        gpus = math.ceil(variants / together)
        shared = together > 1 and variants > 1
        how = f"{min(together, variants)} on a {device}" if shared else f"a {device} each"
    else:
        each = math.ceil(one / (USABLE * gpu_bytes))
        gpus = each * variants
        how = f"each over {each} {device}s by memory; tensor parallelism usually takes a power of two"
    return Serving("copies", whole, gpus, f"{said}, {how}: {_counted(gpus, device)}")


def serve_adapters(
    base_bytes: int, trained: int, variants: int, gpu_bytes: int | None, *, device: str = "GPU"
) -> Serving:
    """Serve from one server: the base once, every adapter of `trained` weights beside it, loaded in bf16."""
    loaded, stored = BF16 * trained, adapter_bytes(trained)
    whole = math.ceil(base_bytes * HEADROOM) + loaded * variants
    said = (
        f"one base of {base_bytes / 1e9:,.1f} GB with {variants} adapter{'s' if variants > 1 else ''} "
        f"of {stored / 1e6:,.1f} MB in fp32 ({loaded / 1e6:,.1f} MB loaded in bf16)"
    )
    if gpu_bytes is None:
        return Serving("adapters", whole, None, f"{said}; the {device}'s memory is unknown")
    gpus = math.ceil(whole / (USABLE * gpu_bytes))
    return Serving("adapters", whole, gpus, f"{said}: {_counted(gpus, device)}")


def _counted(count: int, device: str) -> str:
    return f"{count} {device}{'s' if count != 1 else ''}"
