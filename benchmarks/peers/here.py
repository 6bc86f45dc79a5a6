"""Trainings by this project's program, as its launcher starts it: forked from the warm server, or plainly."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.peers.job import rows_of
from ft_dagster.launch.local import start_program
from ft_dagster.launch.warm import choice

PROGRAM = "ft_dagster.training"
VARIANT = "bench.peers"


class Program(NamedTuple):
    """One of a chain: its module, and what writes its run folder once those before it are done."""

    name: str
    folder: Callable[[], Path]


class _Running(NamedTuple):
    """`left`: of the chain, after it. `began`: monotonic seconds."""

    name: str
    folder: Path
    started: Any
    left: list[Program]
    began: float


def run_folder(job: dict[str, Any], folder: Path) -> Path:
    """A folder with run.json and the mixture, as the stages before would leave them."""
    shutil.rmtree(folder, ignore_errors=True)
    rows = rows_of(job)
    for split, name in (("train", "train"), ("held_out", "validation")):
        _write_split(folder / "mixture" / name, rows[split])
    plan = {
        "schema_version": 1,
        "method": {"name": "lora", **job["lora"], "target_modules": "all-linear"},
        "training": {
            "learning_rate": job["learning_rate"],
            "num_train_epochs": 1.0,
            "per_device_train_batch_size": 1,
            "max_length": job["max_length"],
            "warmup_ratio": 0.0,
            "precision": "bf16" if job["bf16"] else "fp32",
        },
        "device": {"kind": "cpu", "count": 1},
    }
    member = {
        "variant": VARIANT,
        "mixture": str(folder / "mixture"),
        "mixture_digest": "m" * 64,
        "plan": plan,
        "seed": job["seed"],
        "output": str(folder / "output"),
    }
    run = {
        "schema_version": 1,
        "run_id": "bench",
        "base": {"folder": job["model"], "digest": "b" * 64},
        "members": [member],
        "launch": {"nodes": 1, "ranks_per_node": 1, "rendezvous": None},
        "first_looks": job["first_looks"],
    }
    (folder / "run.json").write_text(json.dumps(run))
    return folder


def _write_split(folder: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    columns = {
        "input_ids": pa.array([row["input_ids"] for row in rows], pa.list_(pa.int32())),
        "trained_spans": pa.array(
            [[row["labels_from"], len(row["input_ids"])] for row in rows], pa.list_(pa.int32())
        ),
        "source": pa.array(["made.jsonl"] * len(rows)),
        "record": pa.array([f"{i:064x}" for i in range(len(rows))]),
    }
    pq.write_table(pa.table(columns), folder / "shard-00000.parquet")


def environment(warm: bool, threads: int, folder: Path) -> dict[str, str]:
    """Of the program; `folder` is where the warm server listens."""
    return {
        choice.START: "auto" if warm else "off",
        choice.FOLDER: str(folder),
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    }


def finish(
    chains: Sequence[Sequence[Program]], at_once: int, given: dict[str, str]
) -> tuple[float, dict[str, float]]:
    """Seconds until all chains are through, `at_once` beside each other, and of each program's runs by name,
    added up. Raises SystemExit where one fails.
    """
    began, waiting, running = time.monotonic(), [list(chain) for chain in chains], list[_Running]()
    seconds: dict[str, float] = {}
    while waiting or running:
        while waiting and len(running) < at_once:
            running.append(_begin(waiting.pop(0), given))
        for each in list(running):
            code = each.started.wait(0.05)
            if code is None:
                continue
            each.started.close()
            running.remove(each)
            if code != 0:
                raise SystemExit((each.folder / "log.txt").read_text())
            seconds[each.name] = seconds.get(each.name, 0.0) + time.monotonic() - each.began
            if each.left:
                running.append(_begin(each.left, given))
    return time.monotonic() - began, seconds


def _begin(chain: list[Program], given: dict[str, str]) -> _Running:
    program, *left = chain
    folder = program.folder()
    started = start_program(program.name, folder, environment=given, output=folder / "log.txt")
    return _Running(program.name, folder, started, left, time.monotonic())


def figures(run: Path) -> dict[str, Any]:
    """Of a finished training, by the names that a peer's script has; `adapter`: its folder."""
    found = json.loads((run / "output" / "result.json").read_text())["figures"]
    return {
        "steps": found["steps"],
        "steps_seconds": found["training_seconds"],
        "trained_tokens": found["trained_tokens"],
        "imported_bytes": found["imported_bytes"],
        "peak_bytes": found["peak_memory_bytes"],
        "adapter": str(adapter(run)),
    }


def adapter(run: Path) -> Path:
    """Where a training leaves it."""
    return run / "output" / "payload"
