"""How fast is one training step, and what share of the machine's rate of products is that? A table on stdout.

    .venv/bin/python benchmarks/step.py [--model examples/demo/models/smollm2-135m] [--lengths 256 512 1024]

One micro-batch of packed examples (lognormal, 120 tokens in the middle, half of them trained) and the update,
in bf16 on one thread, LoRA of rank 16 on all linear layers. *Before*: transformers' mask of the whole row,
PEFT's own layers, AdamW by tensors, Trainer's own step, a loss read after each. Both, and a bf16 product of
the model's size, are run in turn in one process, and CPU seconds are compared, so that what else the machine
does falls on all alike; medians. FLOPs are those needed: attention over examples alone.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
MODEL = HERE.parent / "examples" / "demo" / "models" / "smollm2-135m"
LORA = {"name": "lora", "rank": 16, "alpha": 32.0, "target_modules": "all-linear"}
CASES: dict[str, dict[str, Any]] = {
    "LoRA, dropout 0.05": {**LORA, "dropout": 0.05},
    "LoRA, no dropout": {**LORA, "dropout": 0.0},
    "full": {"name": "full"},
}
ROUNDS, EXAMPLES = 5, 64
PRODUCT = (1024, 576, 1536)  # positions, in, out


def write_mixture(folder: Path, length: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = random.Random(0)
    sizes = [max(16, min(length, round(rng.lognormvariate(4.8, 0.6)))) for _ in range(EXAMPLES)]
    columns = {
        "input_ids": pa.array(
            [[rng.randrange(5, 400) for _ in range(n)] for n in sizes], pa.list_(pa.int32())
        ),
        "trained_spans": pa.array([[n // 2, n] for n in sizes], pa.list_(pa.int32())),
        "source": pa.array(["made.jsonl"] * EXAMPLES),
        "record": pa.array([f"{i:064x}" for i in range(EXAMPLES)]),
    }
    (folder / "train").mkdir(parents=True)
    pq.write_table(pa.table(columns), folder / "train" / "shard-00000.parquet")


def make_run(folder: Path, model: Path, method: dict[str, Any], length: int) -> Path:
    write_mixture(folder / "mixture", length)
    training = {
        "learning_rate": 1e-4,
        "max_steps": ROUNDS,
        "num_train_epochs": 1.0,
        "max_length": length,
        "precision": "bf16",
    }
    training |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 1}
    plan = {
        "schema_version": 1,
        "method": method,
        "training": training,
        "device": {"kind": "cpu", "count": 1},
    }
    member = {
        "variant": "bench.step", "mixture": str(folder / "mixture"), "mixture_digest": "m" * 64,
        "plan": {**plan, "reasons": []}, "seed": 0, "output": str(folder / "out"),
    }  # fmt: skip
    run = {
        "schema_version": 1, "run_id": "bench", "base": {"folder": str(model), "digest": "b" * 64},
        "members": [member], "launch": {"nodes": 1, "ranks_per_node": 1, "rendezvous": None},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(run))
    return folder


def trainer_of(folder: Path) -> tuple[Any, Any]:
    """The trainer as its program builds it, and its FLOPs model."""
    from ft_dagster.training.arguments import training_arguments
    from ft_dagster.training.contract import read_run, recipe_digest
    from ft_dagster.training.progress import Console
    from ft_dagster.training.stop_signals import Stop
    from ft_dagster.training.trainer import build_trainer, prepare

    run = read_run(folder)
    member = run.members[0]
    member.checkpoints.mkdir(parents=True, exist_ok=True)
    with redirect_stdout(sys.stderr):
        work = prepare(run, member, recipe_digest(run, member), Console())
        trainer, observer = build_trainer(run, work, Stop(), training_arguments(work))
    return trainer, observer.measuring.flops


def as_before(trainer: Any) -> None:
    from peft.tuners.lora.layer import Linear
    from trl import SFTTrainer

    from ft_dagster.training.batches.attention import ENDS, LENGTHS
    from ft_dagster.training.methods.low_rank import LowRankLinear

    def step(model: Any, batch: dict[str, Any], tokens: Any) -> Any:
        del batch[LENGTHS], batch[ENDS]
        loss = SFTTrainer.training_step(trainer, model, batch, tokens)
        SFTTrainer.floating_point_ops(trainer, batch)
        loss.item()
        trainer._losses.append(loss)
        return loss

    for layer in trainer.model.modules():
        if type(layer) is LowRankLinear:
            layer.__class__ = Linear
    trainer.args.optim = "adamw_torch"
    trainer.training_step = step


def stepper(trainer: Any) -> Callable[[], float]:
    """A function that makes the next step and says how many CPU seconds it took."""
    trainer.create_optimizer_and_scheduler(ROUNDS)
    model = trainer.accelerator.prepare(trainer.model)
    batches = iter(trainer.get_train_dataloader())

    def step() -> float:
        found, tokens = trainer.get_batch_samples(batches, 1, trainer.args.device)
        began = time.process_time()
        trainer.training_step(model, found[0], tokens)
        trainer._get_grad_norm(model, trainer._clip_grad_norm(model))
        trainer.optimizer.step()
        model.zero_grad()
        return time.process_time() - began

    return step


def product() -> float:
    """FLOP/s of a bf16 product."""
    import torch

    rows, size, out = PRODUCT
    x, weight = (torch.randn(n, size, dtype=torch.bfloat16) for n in (rows, out))
    torch.nn.functional.linear(x, weight)
    began = time.process_time()
    for _ in range(20):
        torch.nn.functional.linear(x, weight)
    return 20 * 2 * rows * size * out / (time.process_time() - began)


def compare(name: str, method: dict[str, Any], length: int, model: Path) -> str:
    """A row of the table."""
    with tempfile.TemporaryDirectory() as scratch:
        (before, _), (after, flops) = (
            trainer_of(make_run(Path(scratch) / when, model, method, length)) for when in ("before", "after")
        )
    as_before(before)
    steps = stepper(before), stepper(after)
    seconds: list[tuple[float, float]] = []
    rates, needed = [], []
    for _ in range(ROUNDS):
        seconds.append((steps[0](), steps[1]()))
        rates.append(product())
        done = after.current
        needed.append(flops.sum(done.slots, done.squares, done.trained_tokens, 1, 1))
    old, new = (median(each) for each in zip(*seconds[1:], strict=True))  # the first makes the states
    speed = median(work / took for work, (_, took) in list(zip(needed, seconds, strict=True))[1:])
    rate = median(rates)
    figures = f"{1 / old:.3f} | {1 / new:.3f} | {old / new:.2f} | {speed / 1e9:.0f} | {speed / rate:.0%}"
    return f"| {name} | {length} | {figures} |"


def main() -> int:
    import torch

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=MODEL, help="a folder with config.json and weights")
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--only", choices=CASES, help="one row by method")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    print("| method | tokens a row | before, steps/CPU s | after | ratio | GFLOP/s | of the product's |")
    print("|---|---|---|---|---|---|---|")
    for name, method in CASES.items():
        if given.only in (None, name):
            for length in given.lengths if name != "full" else given.lengths[-1:]:
                print(compare(name, method, length, given.model), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
