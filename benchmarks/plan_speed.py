"""How long does a plan take, and in how much memory? A markdown table on stdout.

    .venv/bin/python benchmarks/plan_speed.py

Each case is `ft-dagster recommend` of all methods in a process of its own, imports included, five times, in
turn; the first row is what the imports cost alone, of which a plan leaves some out. GB: of the largest
process; its copies on the other cores share most of it. On two shared cores of an AMD EPYC:

    | plan                                           | s: fastest, median | of imports | CPU s | GB   |
    | the imports alone: torch, transformers, peft   | 7.3, 9.2           | 1.0        | 9.2   | 0.45 |
    | 70B on one A100 80 GB: one method fits         | 7.0, 9.0           | 1.0        | 11.6  | 0.39 |
    | 70B by full on the same: changes are searched  | 7.2, 9.1           | 1.0        | 11.6  | 0.39 |
    | 70B on one T4: nothing fits                    | 8.2, 9.0           | 1.0        | 11.5  | 0.41 |
    | 7B on one T4: micro-batches and more are tried | 7.0, 8.2           | 0.9        | 10.1  | 0.39 |
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

ASKED = ["--examples", "10000", "--objective", "instruction"]
CASES = {
    "70B on one A100 80 GB: one method fits": ["--model", "Llama-3-70B", "--gpus", "1xA100-80GB"],
    "70B by full on the same: changes are searched": [
        "--model", "Llama-3-70B", "--gpus", "1xA100-80GB", "--method", "full",
    ],
    "70B on one T4: nothing fits": ["--model", "Llama-3-70B", "--gpus", "1xT4"],
    "7B on one T4: micro-batches and more are tried": ["--model", "Llama-2-7B", "--gpus", "1xT4"],
}  # fmt: skip


TIMES = 5
IMPORTS = [sys.executable, "-c", "import torch, transformers, peft"]


def measure(command: list[str]) -> tuple[float, float, float]:
    """Seconds, CPU seconds and the GB of the largest process of a command."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    began = time.monotonic()
    child = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )  # fmt: skip
    _, status, used = os.wait4(child.pid, 0)
    if os.waitstatus_to_exitcode(status) not in (0, 1):  # 1: nothing fits
        raise SystemExit(f"failed: {' '.join(command)}")
    return time.monotonic() - began, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e9


def main() -> int:
    program = str(Path(sys.executable).with_name("ft-dagster"))
    commands = {"the imports alone: torch, transformers, peft": IMPORTS}
    commands |= {name: [program, "recommend", *asked, *ASKED, "--json"] for name, asked in CASES.items()}
    taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
    for _ in range(TIMES):  # in turn, so that what else the machine does falls on all alike
        for name, command in commands.items():
            taken[name].append(measure(command))
    print("| plan | s: fastest, median | of imports | CPU s | GB |\n|---|---|---|---|---|")
    imports = None
    for name, runs in taken.items():
        walls, cpus, memories = (sorted(figures) for figures in zip(*runs, strict=True))
        imports = imports or median(walls)
        ratio = median(walls) / imports
        shown = f"{walls[0]:.1f}, {median(walls):.1f} | {ratio:.1f} | {median(cpus):.1f} | {memories[-1]:.2f}"
        print(f"| {name} | {shown} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
