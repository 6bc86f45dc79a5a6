"""What this host computes in."""

from __future__ import annotations

from pathlib import Path


def computes_bf16(kind: str) -> bool:
    """Whether the device has bf16 arithmetic: the CPU by its flags, a GPU by torch's word."""
    if kind == "cuda":
        import torch

        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text("utf-8") if cpuinfo.exists() else ""
    return "amx_bf16" in flags or "avx512_bf16" in flags
