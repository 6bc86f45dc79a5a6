"""Chooses the number format in which a device computes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

Dtype = Literal["bfloat16", "float32"]
WITH_BF16 = (8, 0)  # the compute capability from which GPUs have it
# Tokens of one forward pass, padding included: more costs a CPU its caches, and a GPU wants a few thousand.
BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}
# Tokens of one generated batch, answers included: a step costs about the same for any number of rows.
GENERATION_TOKENS = {"cpu": 16384, "cuda": 32768}
USABLE_SHARE = 0.9  # of a GPU's memory that a plan fills: its context and the allocator's gaps are estimates


def computes_bf16(kind: str, flags: str | None = None) -> bool:
    """Say whether the device ("cuda", "cpu") has bf16 arithmetic: a CPU by its flags, a GPU by its driver."""
    if kind == "cuda":
        return _gpus_compute_bf16()
    cpuinfo = Path("/proc/cpuinfo")
    if flags is None:
        flags = cpuinfo.read_text("utf-8") if cpuinfo.exists() else ""
    return "amx_bf16" in flags or "avx512_bf16" in flags


def _gpus_compute_bf16() -> bool:
    """Say whether all GPUs of this host compute in bf16. Torch would open a context for it, memory of the
    device that this process keeps; it is asked only where there is no NVML.
    """
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # not installed, or no driver of NVIDIA's
        import torch

        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    try:
        gpus = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return all(pynvml.nvmlDeviceGetCudaComputeCapability(gpu) >= WITH_BF16 for gpu in gpus)
    finally:
        pynvml.nvmlShutdown()


def judging_dtype(kind: str, flags: str | None = None) -> Dtype:
    """Return the type in which models are judged: bfloat16, as servers load them, where emulating it would
    not take many times as long (SmolLM2-135M on an AVX2 core: 7 times).
    """
    return "bfloat16" if computes_bf16(kind, flags) else "float32"
