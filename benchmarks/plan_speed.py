"""How long does a plan take, and in how much memory? A markdown table on stdout.

    .venv/bin/python benchmarks/plan_speed.py

Each case is `ft-dagster recommend` of all methods in a process of its own, imports included; the machine
should be quiet. Needs nothing. On two cores, one thread, other programs at rest for most of the time:

    | plan                                           | seconds | CPU seconds | GB   |
    | 70B on one A100 80 GB: one method fits         | 11.6    | 11.3        | 0.53 |
    | 70B by full on the same: changes are searched  | 12.4    | 12.0        | 0.53 |
    | 70B on one T4: nothing fits                    | 14.1    | 13.7        | 0.52 |
    | 7B on one T4: micro-batches and more are tried | 10.2    | 10.0        | 0.51 |
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ASKED = ["--examples", "10000", "--objective", "instruction"]
CASES = {
    "70B on one A100 80 GB: one method fits": ["--model", "Llama-3-70B", "--gpus", "1xA100-80GB"],
    "70B by full on the same: changes are searched": [
        "--model", "Llama-3-70B", "--gpus", "1xA100-80GB", "--method", "full",
    ],
    "70B on one T4: nothing fits": ["--model", "Llama-3-70B", "--gpus", "1xT4"],
    "7B on one T4: micro-batches and more are tried": ["--model", "Llama-2-7B", "--gpus", "1xT4"],
}  # fmt: skip


def measure(asked: list[str]) -> tuple[float, float, float]:
    """Seconds, CPU seconds and the most GB in memory of one `ft-dagster recommend`."""
    program = Path(sys.executable).with_name("ft-dagster")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    began = time.monotonic()
    child = subprocess.Popen(
        [program, "recommend", *asked, *ASKED, "--json"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    _, _, used = os.wait4(child.pid, 0)
    return time.monotonic() - began, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e9


def main() -> int:
    print("| plan | seconds | CPU seconds | GB |\n|---|---|---|---|")
    for name, asked in CASES.items():
        wall, cpu, memory = measure(asked)
        print(f"| {name} | {wall:.1f} | {cpu:.1f} | {memory:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
