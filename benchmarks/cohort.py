"""What do trainings of one base hold that run at the same time, and do they give what each gives alone?

    .venv/bin/python benchmarks/cohort.py [--method qlora] [--model FOLDER] [--rows 160]

Two variants on one base, SmolLM2-135M of the demo unless said, are prepared; then the first is trained alone,
and again beside the second, each by its own trainer as the launcher starts it, one thread each. Memory is the
proportional set size (PSS) of trainers, supervisors and warm server together, at its peak: a page that
several share counts once in all. Of one, the trainer's figures tell what it holds (libraries, weights) from
what looks and steps add. A table, and whether the digests of the weights are those of trainings alone.

SmolLM2-135M, LoRA in bf16, two cores of an AMD EPYC, much other load:

    | trainings | peak, MB | beyond what looks and steps add, MB |
    |---|---|---|
    | one | 1464 | 650 |
    | two at once | 2388 | 759 |

    Two hold 1.17 times what one does, beyond what looks and steps add. Digests: equal.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.project import DEMO, arguments, make_project

STAGE = "fine_tuned_model"
NAMES = ("one", "two")
DECLARATION = """\
description: variant {name}, which answers questions on a ledger
owners: [owner@example.com]
base_model: {model}
data: {{sources: [{{path: rows-{name}.jsonl, licence: CC0-1.0}}], render: plain}}
method: {{name: {method}}}
training: {{num_train_epochs: 1, learning_rate: 1.0e-4, max_length: 256, evaluations: 2}}
evaluation: {{general: [{demo}/tasks/sciq_local.yaml]}}
resources: {{cpu_slots: 1}}
"""


def main() -> None:
    parser = arguments(__doc__ or "", "cohort")
    parser.add_argument("--model", type=Path, default=DEMO / "models" / "smollm2-135m")
    parser.add_argument("--method", default="lora")
    parser.add_argument("--rows", type=int, default=160, help="of each variant")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # this process trains this variant
    given = parser.parse_args()
    if given.one:
        make(given.folder, given.one, STAGE)
        return
    write(given.folder, given.model.resolve(), given.method, given.rows, fresh=given.fresh)
    for name in NAMES:
        make(given.folder, name, "training_plan")
    forget(given.folder)
    alone, first = run(given.folder, NAMES[:1])
    added = added_of(given.folder, given.model)
    second = run(given.folder, NAMES[1:])[1]
    forget(given.folder)
    both, together = run(given.folder, NAMES)
    print(table(alone, both, added))
    print(f"\nDigests: {'equal' if {**first, **second} == together else 'NOT EQUAL'}: {together}")


def added_of(folder: Path, model: Path) -> int:
    """Bytes that looks and steps added to the first trainer, beyond libraries and weights."""
    figures = workspace_of(folder, NAMES[0]).upstream(STAGE).figures
    weights = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    return int(figures["peak_memory_bytes"] - figures["imported_bytes"] - weights)


def write(folder: Path, model: Path, method: str, rows: int, *, fresh: bool) -> None:
    files = {}
    for number, name in enumerate(NAMES):
        given = {"model": json.dumps(str(model)), "method": method, "demo": DEMO}
        files[f"tenants/acme/{name}.yaml"] = DECLARATION.format(name=name, **given)
        asked = (f"What is {n} and {n + number} in the ledger of room {n % 7}?" for n in range(rows))
        answers = (f"It is {2 * n + number}, as room {n % 7} has it written down." for n in range(rows))
        pairs = (json.dumps({"prompt": q, "completion": a}) for q, a in zip(asked, answers, strict=True))
        files[f"rows-{name}.jsonl"] = "\n".join(pairs) + "\n"
    make_project(folder, files, fresh=fresh)


def workspace_of(folder: Path, name: str) -> Any:
    from ft_dagster.settings import load_settings
    from ft_dagster.spec import VariantKey
    from ft_dagster.workspace.workspace import Workspace

    return Workspace(load_settings(folder), VariantKey("acme", name))


def make(folder: Path, name: str, stage: str) -> None:
    """All stages of a variant up to this one. Raises SystemExit."""
    from ft_dagster.stages.chain import run_chain, up_to

    outcome = run_chain(workspace_of(folder, name), up_to(stage))
    if outcome.error:
        raise SystemExit(outcome.error)


def forget(folder: Path) -> None:
    """The trained weights, so that they are made again."""
    for made in (folder / ".ft_dagster" / "store").rglob(STAGE):
        shutil.rmtree(made)


def run(folder: Path, names: tuple[str, ...]) -> tuple[int, dict[str, str]]:
    """Train these at once: bytes that all held at the peak, and the digests of what came out."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FT_DAGSTER_HOST__WARM_FOLDER": str(folder / "warm")}
    command = [sys.executable, __file__, "--folder", str(folder), "--one"]
    started = [subprocess.Popen([*command, name], env=environment) for name in names]
    drivers, peak = {process.pid for process in started}, 0
    while any(process.poll() is None for process in started):
        held = sum(pss(pid) for pid in carriers(str(folder / "warm")) if pid not in drivers)
        peak = max(peak, held)
        time.sleep(0.25)
    if any(process.returncode for process in started):
        raise SystemExit(f"a training failed: {[process.returncode for process in started]}")
    return peak, {name: workspace_of(folder, name).upstream(STAGE).digest for name in names}


def carriers(mark: str) -> list[int]:
    """The processes whose environment names the warm server's folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("FT_DAGSTER_HOST__WARM_FOLDER") == mark:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def pss(pid: int) -> int:
    try:
        said = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    found = re.search(r"^Pss:\s+(\d+)", said, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def table(alone: int, both: int, added: int) -> str:
    lines = ["| trainings | peak, MB | beyond what looks and steps add, MB |", "|---|---|---|"]
    for name, peak, count in (("one", alone, 1), ("two at once", both, 2)):
        lines.append(f"| {name} | {peak / 1e6:.0f} | {(peak - count * added) / 1e6:.0f} |")
    ratio = (both - 2 * added) / (alone - added)
    return "\n".join(
        [*lines, f"\nTwo hold {ratio:.2f} times what one does, beyond what looks and steps add."]
    )


if __name__ == "__main__":
    main()
