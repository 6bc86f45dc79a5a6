"""`python -m stages.rates DEVICE`: the rates of a large bf16 product and of a copy, on random data.

By the device's own clock, the median of ten after three to warm up. Copied bytes count read and written.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

HONEST = 0.3  # of the catalogue's peak: below, the card is shared or throttled, or it is another card


def main(device: str) -> int:
    import torch

    gpu = device == "cuda"
    dtype = torch.bfloat16 if gpu else torch.float32
    size, numbers = (8192, 2**30) if gpu else (512, 2**22)
    one, other = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    source = torch.randn(numbers, device=device).to(dtype)
    target = torch.empty_like(source)
    product = timed(lambda: one @ other, gpu)
    copy = timed(lambda: target.copy_(source), gpu)
    if not torch.equal(target, source):
        raise SystemExit("the copy is not equal to its source")
    print(
        json.dumps(
            {
                "product_flops": 2 * size**3 / product,
                "copy_bytes": 2 * source.nbytes / copy,
                "size": size,
                "dtype": str(dtype).removeprefix("torch."),
            }
        )
    )
    return 0


def timed(work: Callable[[], Any], gpu: bool) -> float:
    """Seconds of one call."""
    import torch

    taken = []
    for turn in range(13):
        if gpu:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            torch.cuda.synchronize()
            seconds = start.elapsed_time(end) / 1e3
        else:
            began = time.perf_counter()
            work()
            seconds = time.perf_counter() - began
        if turn >= 3:
            taken.append(seconds)
    return statistics.median(taken)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
