"""Measures what this host computes in, and how much it holds, where there is no GPU to ask a driver about."""

from __future__ import annotations

import os
from pathlib import Path

from ft_dagster.host_memory import group_memories

USUAL_MHZ = 2_500.0


def cpu_memory() -> int:
    """Return the bytes of this host's memory, or of its container's where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([total, *(each.limit for each in group_memories())])


def cpu_peak(cores: int) -> float:
    """Return the fp32 operations a second of so many cores by their widest vectors: two multiply-adds a
    cycle, at the clock that the kernel reports. A stated ceiling to hold trainings against, not a promise.
    """
    import psutil

    cpuinfo, clock = Path("/proc/cpuinfo"), psutil.cpu_freq()
    flags = cpuinfo.read_text("utf-8") if cpuinfo.exists() else ""
    megahertz = clock.max or clock.current if clock else USUAL_MHZ
    lanes = 16 if "avx512f" in flags else 8 if "avx2" in flags else 4
    return cores * megahertz * 1e6 * lanes * 4
