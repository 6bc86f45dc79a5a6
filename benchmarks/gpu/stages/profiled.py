"""`python -m stages.profiled RUN_DIR`: the trainer program, profiled by torch in its third to fifth step.

Leaves RUN_DIR/profile.json: waits of the host for the device a step, the share of time in which the device
did nothing (null on a CPU), and the operations that took most of the time.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

FIRST, LAST = 3, 5
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
READS = ("aten::_local_scalar_dense",)  # on a CPU nothing waits; these would


class Recorder:
    """Starts and ends the profiler at the trainer's own step boundaries."""

    def __init__(self, target: Path) -> None:
        import torch
        from torch.profiler import ProfilerActivity, profile

        self.target, self.step, self.gpu = target, 0, torch.cuda.is_available()
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.gpu else [])]
        self.profile = profile(activities=kinds)
        self.began = 0.0

    def synchronize(self) -> None:
        import torch

        if self.gpu:
            torch.cuda.synchronize()

    def begin(self) -> None:
        self.step += 1
        if self.step == FIRST:
            self.synchronize()
            self.profile.__enter__()
            self.began = time.perf_counter()

    def end(self) -> None:
        if self.step == LAST:
            self.synchronize()
            seconds = time.perf_counter() - self.began
            self.profile.__exit__(None, None, None)
            self.write(seconds)

    def write(self, seconds: float) -> None:
        from stages.common import write_json

        steps = LAST - FIRST + 1
        names = WAITS if self.gpu else READS
        totals = self.profile.key_averages()
        waits = sum(total.count for total in totals if total.key in names) - (1 if self.gpu else 0)
        spent = sorted(((total.key, taken(total, self.gpu)) for total in totals), key=lambda each: -each[1])
        whole = sum(time for _, time in spent) or 1
        write_json(
            self.target,
            {
                "steps": steps,
                "seconds": seconds,
                "synchronisations": waits / steps,
                "idle_share": 1 - busy(self.profile.events()) / seconds if self.gpu else None,
                "top": [[name, time / whole] for name, time in spent[:8]],
            },
        )


def taken(total: Any, gpu: bool) -> float:
    """Microseconds of an operation itself, on the device that computes."""
    return float(total.self_device_time_total if gpu else total.self_cpu_time_total)


def busy(events: Any) -> float:
    """Seconds in which at least one kernel or copy ran."""
    from torch.autograd import DeviceType

    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in events
        if event.device_type == DeviceType.CUDA
    )
    total, reached = 0.0, float("-inf")
    for start, end in spans:
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total / 1e6


def main(folder: Path) -> int:
    from ft_dagster.training import __main__ as program
    from ft_dagster.training import callbacks

    recorder = Recorder(folder / "profile.json")
    watch: Any = callbacks.WatchCallback  # its own methods, with the recorder's around them
    begin, end = watch.on_step_begin, watch.on_step_end

    def on_step_begin(self: Any, *given: Any, **named: Any) -> None:
        recorder.begin()
        begin(self, *given, **named)

    def on_step_end(self: Any, *given: Any, **named: Any) -> Any:
        recorder.end()
        return end(self, *given, **named)

    watch.on_step_begin, watch.on_step_end = on_step_begin, on_step_end
    return program.main([str(folder)])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
