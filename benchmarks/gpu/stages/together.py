"""Trains run folders one after another in one process: `python -m stages.together FOLDER ...`."""

from __future__ import annotations

import gc
import sys

from ft_dagster.program import leave
from ft_dagster.training.__main__ import main


def each_in_turn(folders: list[str]) -> int:
    """Train each; the largest of their exit codes."""
    codes = []
    for folder in folders:
        codes.append(main([folder]))
        gc.collect()  # a trainer is full of cycles, and the next needs its memory
        _forget_peak()
    return max(codes)


def _forget_peak() -> None:
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    leave(each_in_turn(sys.argv[1:]))
