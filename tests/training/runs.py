"""A small mixture in the shard format, and run folders for the trainer over it."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ft_dagster.training.__main__ import train_run
from ft_dagster.training.contract import read_run
from ft_dagster.training.progress import Console
from ft_dagster.training.stop_signals import Stop
from tests.programs import RunningProgram

Row = tuple[list[int], list[int]]  # token ids, flattened spans

TRAINING: dict[str, Any] = {
    "learning_rate": 5e-3,
    "num_train_epochs": 2.0,
    "max_steps": None,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.1,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "max_length": 48,
    "packing": True,
    "gradient_checkpointing": False,
    "precision": "fp32",
    "evaluations": 3,
    "keep_best": 3,
    "keep_last": 2,
    "seed": 0,
}
LORA = {
    "name": "lora",
    "rank": 4,
    "alpha": 8.0,
    "dropout": 0.1,
    "target_modules": "all-linear",
    "use_rslora": False,
    "use_dora": False,
}


def leaf(split: str, ordinal: int) -> str:
    return hashlib.sha256(f"{split}/{ordinal}".encode()).hexdigest()


def made_rows(count: int, seed: int) -> list[Row]:
    """Arithmetic runs of token ids: easy to learn. The second half is trained on, in two spans."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        length, start, stride = rng.randint(8, 24), rng.randint(10, 400), rng.choice([1, 2, 3])
        middle = max(1, length // 2)
        spans = [middle, length - 2, length - 1, length] if length - 2 > middle else [middle, length]
        rows.append(([10 + (start + stride * i) % 480 for i in range(length)], spans))
    return rows


def write_shard(file: Path, split: str, first: int, rows: list[Row]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        "input_ids": pa.array([ids for ids, _ in rows], pa.list_(pa.int32())),
        "trained_spans": pa.array([spans for _, spans in rows], pa.list_(pa.int32())),
        "source": pa.array(["faq.jsonl"] * len(rows)),
        "record": pa.array([leaf(split, first + i) for i in range(len(rows))]),
    }
    pq.write_table(pa.table(columns), file, compression="zstd", row_group_size=8)


def write_mixture(
    folder: Path, train: int = 30, validation: int = 6, general: int = 4, shards: int = 3
) -> Path:
    """A mixture with `train` examples over `shards` shards; a split of 0 examples is absent."""
    for split, count, seed in (
        ("train", train, 1),
        ("validation", validation, 2),
        ("general_holdout", general, 3),
    ):
        rows, parts = made_rows(count, seed), shards if split == "train" else 1
        size = -(-count // parts)
        for number in range(parts if count else 0):
            part = rows[number * size : (number + 1) * size]
            write_shard(folder / split / f"shard-{number:05d}.parquet", split, number * size, part)
    return folder


@dataclass
class Runs:
    """Makes run folders over one mixture and one base."""

    folder: Path
    base: Path
    mixture: Path

    def prepare(
        self,
        name: str = "run",
        *,
        training: dict[str, Any] | None = None,
        method: dict[str, Any] | None = None,
        members: dict[str, dict[str, Any]] | None = None,
        ranks: int = 1,
        **member: Any,
    ) -> Path:
        """Write run.json: one member, or `members`, variant -> what differs for it. The run folder.

        `method`: changed settings of LoRA, or with a `name` another method with its settings.
        """
        run_folder = self.folder / name
        run_folder.mkdir(parents=True, exist_ok=True)
        plan = {
            "schema_version": 1,
            "method": method if method and "name" in method else {**LORA, **(method or {})},
            "training": {**TRAINING, **(training or {})},
            "device": {"kind": "cpu", "count": 1},
            "reasons": [],
        }
        listed = [
            {
                "variant": variant,
                "mixture": str(self.mixture),
                "mixture_digest": "m" * 64,
                "plan": plan,
                "seed": 0,
                "output": str(run_folder / variant),
                **member,
                **differs,
            }
            for variant, differs in (members or {"acme.support": {}}).items()
        ]
        run = {
            "schema_version": 1,
            "run_id": name,
            "base": {"folder": str(self.base), "digest": "b" * 64},
            "members": listed,
            "launch": {"nodes": 1, "ranks_per_node": ranks, "rendezvous": None},
        }
        (run_folder / "run.json").write_text(json.dumps(run))
        return run_folder


def result_of(run_folder: Path, variant: str = "acme.support") -> dict[str, Any]:
    return json.loads((run_folder / variant / "result.json").read_text())


def payload_bytes(run_folder: Path, variant: str = "acme.support") -> dict[str, bytes]:
    payload = run_folder / variant / "payload"
    return {p.name: p.read_bytes() for p in sorted(payload.iterdir())}


def means_of(by_example: Sequence[Sequence[float]], sizes: Iterable[str]) -> dict[str, float]:
    """Size -> the loss a token of the first so many examples, from (loss, tokens) of each."""
    of = {size: by_example[: int(size)] for size in sizes}
    return {size: sum(loss for loss, _ in part) / sum(n for _, n in part) for size, part in of.items()}


def train(run_folder: Path) -> int:
    return train_run(read_run(run_folder), Console(), Stop())


def losses(run_folder: Path) -> list[float]:
    lines = (run_folder / "acme.support/evidence/log.jsonl").read_text().splitlines()
    return [line["loss"] for line in map(json.loads, lines) if "loss" in line]


def ledger(run_folder: Path) -> bytes:
    return (run_folder / "acme.support/evidence/ledger.json").read_bytes()


def wait_for_step(process: RunningProgram, run_folder: Path, step: int) -> None:
    """Until the log has the line of that step; fails if the program ends before."""
    log = run_folder / "acme.support/evidence/log.jsonl"
    while f'"step": {step}, "epoch"' not in (log.read_text() if log.exists() else ""):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
