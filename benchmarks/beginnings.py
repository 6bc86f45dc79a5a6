"""How much faster are rows that begin alike, computed once? Against each row whole, and TRL packed.

    .venv/bin/python benchmarks/beginnings.py [--model examples/demo/models/smollm2-135m] [--rounds 3]

Rows of 300 tokens in common and 100 of their own, which are trained on; packs of 1,024 tokens, one a step;
LoRA of rank 16 on all linear layers, no dropout; bf16 where the processor has it. Each contender is a program
of its own that makes the optimizer's steps of one pass over the same rows, and says what these took, without
start and loading: wall and CPU seconds on `--threads` threads. They are run in turn, round after round;
medians. A row is an example whoever computes it, so fewer steps are counted as what they are: less work.
TRL (of this environment) packs without checkpointing, its weights in fp32 under autocast, or in bf16.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.peers.job import has_bf16

MODEL = Path(__file__).resolve().parents[1] / "examples" / "demo" / "models" / "smollm2-135m"
COMMON, OWN, PACK = 300, 100, 1024
LORA = {"name": "lora", "rank": 16, "alpha": 32.0, "dropout": 0.0, "target_modules": "all-linear"}
SHARED, WHOLE = "shared beginnings", "each row whole"
TRL, TRL_BF16 = "TRL, packed", "TRL, packed, bf16 weights"


def rows_of(count: int) -> list[list[int]]:
    import random

    rng = random.Random(0)
    common = [rng.randrange(5, 400) for _ in range(COMMON)]
    return [common + [400 + i % 90] + [rng.randrange(5, 400) for _ in range(OWN - 1)] for i in range(count)]


def ours(model: Path, rows: list[list[int]], share: str, folder: Path) -> dict[str, float]:
    """What the steps of one pass took."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from benchmarks.step import trainer_of

    columns = {
        "input_ids": pa.array(rows, pa.list_(pa.int32())),
        "trained_spans": pa.array([[COMMON, COMMON + OWN]] * len(rows), pa.list_(pa.int32())),
        "source": pa.array(["made.jsonl"] * len(rows)),
        "record": pa.array([f"{i:064x}" for i in range(len(rows))]),
    }
    (folder / "mixture" / "train").mkdir(parents=True)
    pq.write_table(pa.table(columns), folder / "mixture" / "train" / "shard-00000.parquet")
    training = {
        "learning_rate": 1e-4, "num_train_epochs": 1.0, "max_length": PACK, "share_beginnings": share,
        "precision": "bf16" if has_bf16() else "fp32", "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 1,
    }  # fmt: skip
    member = {
        "variant": "bench.beginnings", "mixture": str(folder / "mixture"), "mixture_digest": "m" * 64,
        "plan": {"method": LORA, "training": training, "device": {"kind": "cpu", "count": 1}, "reasons": []},
        "seed": 0, "output": str(folder / "out"),
    }  # fmt: skip
    run = {
        "schema_version": 1, "run_id": "bench", "base": {"folder": str(model), "digest": "b" * 64},
        "members": [member], "launch": {"nodes": 1, "ranks_per_node": 1, "rendezvous": None},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(run))
    trainer, _ = trainer_of(folder)
    loader = trainer.get_train_dataloader()
    trainer.create_optimizer_and_scheduler(len(loader))
    prepared, batches = trainer.accelerator.prepare(trainer.model), iter(loader)
    took, steps, slots = (-time.monotonic(), -time.process_time()), len(loader), 0
    for _ in range(steps):
        found, tokens = trainer.get_batch_samples(batches, 1, trainer.args.device)
        trainer.training_step(prepared, found[0], tokens)
        trainer._get_grad_norm(prepared, trainer._clip_grad_norm(prepared))
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
        prepared.zero_grad()
        slots += trainer.current.slots
    wall, cpu = took[0] + time.monotonic(), took[1] + time.process_time()
    return {"wall": wall, "cpu": cpu, "steps": steps, "positions": slots}


def peers(model: Path, rows: list[list[int]], folder: Path, *, bf16_weights: bool) -> dict[str, float]:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.monotonic(), time.process_time()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.took = time.monotonic() - self.began[0], time.process_time() - self.began[1]

    clock = Clock()
    mask = [0] * COMMON + [1] * OWN
    trainer = SFTTrainer(
        str(model),
        args=SFTConfig(
            output_dir=str(folder), per_device_train_batch_size=1, packing=True, max_length=PACK,
            learning_rate=1e-4, num_train_epochs=1, use_cpu=True, bf16=has_bf16(), report_to="none",
            disable_tqdm=True, gradient_checkpointing=False, save_strategy="no", logging_strategy="no",
            model_init_kwargs={"dtype": "bfloat16" if bf16_weights else "float32"},
            completion_only_loss=True,
        ),
        train_dataset=Dataset.from_list([{"input_ids": row, "completion_mask": mask} for row in rows]),
        peft_config=LoraConfig(
            task_type="CAUSAL_LM", r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear"
        ),
        callbacks=[clock],
    )  # fmt: skip
    trainer.train()
    positions = sum(map(len, trainer.train_dataset["input_ids"]))
    (wall, cpu), steps = clock.took, trainer.state.global_step
    return {"wall": wall, "cpu": cpu, "steps": steps, "positions": positions}


def measured(name: str, given: argparse.Namespace) -> dict[str, float]:
    """What one contender took, in a program of its own."""
    command = [
        sys.executable,
        __file__,
        "--model",
        str(given.model),
        "--rows",
        str(given.rows),
        "--only",
        name,
    ]
    threads = {"OMP_NUM_THREADS": str(given.threads)}
    done = subprocess.run(command, env={**os.environ, **threads}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def alone(name: str, given: argparse.Namespace) -> dict[str, float]:
    rows = rows_of(given.rows)
    with tempfile.TemporaryDirectory() as scratch, redirect_stdout(sys.stderr):
        if name in (SHARED, WHOLE):
            return ours(given.model, rows, "on" if name == SHARED else "off", Path(scratch))
        return peers(given.model, rows, Path(scratch), bf16_weights=name == TRL_BF16)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=MODEL, help="a folder with config.json and weights")
    parser.add_argument("--rows", type=int, default=56, help="examples of the pass")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    contenders = [SHARED, WHOLE, TRL, *([TRL_BF16] if has_bf16() else [])]
    parser.add_argument("--only", choices=contenders, help="run this one here, and print its seconds as JSON")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    if given.only:
        print(json.dumps(alone(given.only, given)))
        return 0
    found: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for number in range(given.rounds):
        for name in contenders:
            found[name].append(measured(name, given))
            print(f"round {number + 1}, {name}: {json.dumps(found[name][-1])}", file=sys.stderr, flush=True)
    of = {
        name: {figure: median(each[figure] for each in rounds) for figure in rounds[0]}
        for name, rounds in found.items()
    }
    print(f"load of the machine at the end: {os.getloadavg()[0]:.1f}, threads: {given.threads}\n")
    print("| contender | steps | positions | wall s | CPU s | times the CPU s of shared | wall |")
    print("|---|---|---|---|---|---|---|")
    for name, each in of.items():
        cpu, wall = (each[kind] / of[SHARED][kind] for kind in ("cpu", "wall"))
        work = f"{each['steps']:.0f} | {each['positions']:,.0f}"
        print(f"| {name} | {work} | {each['wall']:.1f} | {each['cpu']:.1f} | {cpu:.2f} | {wall:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
