"""Limits how much memory a judgement may spend on being quicker. Imported only where torch is."""

from __future__ import annotations

import os

import torch

from ft_dagster.host_memory import free_memory


def spare_memory() -> int:
    """Return the bytes that copies of weights may take: see `room`."""
    return room(free_memory(), len(os.sched_getaffinity(0)))


def room(free: int, cores: int) -> int:
    """Return half of what this program's share of the cores comes to of so many free bytes.

    Programs that begin side by side find the same bytes free, and have the cores among them.
    """
    return free * min(torch.get_num_threads(), cores) // (2 * cores)
