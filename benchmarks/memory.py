"""Is the memory that a plan foretells the memory that a training takes? Markdown tables on stdout.

    .venv/bin/python benchmarks/memory.py             # against the real trainer, tracked and by its process
    .venv/bin/python benchmarks/memory.py --ranks     # copies, ZeRO-2 and ZeRO-3 over two processes
    .venv/bin/python benchmarks/memory.py --table     # 7B to 70B by method, beside the rules of thumb

The first needs the demo's model (`make install && .venv/bin/python examples/demo/prepare.py`), one CPU thread
and a few minutes; every case runs in a process of its own. The second needs nothing and takes a minute.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
MODEL = HERE.parent / "examples" / "demo" / "models" / "smollm2-135m"
LORA = {"name": "lora", "rank": 16, "alpha": 32.0, "dropout": 0.05, "target_modules": "all-linear"}
QLORA = {**LORA, "name": "qlora", "activations": "bf16"}  # as plans have it
METHODS: dict[str, tuple[dict[str, Any], bool]] = {  # with gradient checkpointing or not
    "full": ({"name": "full"}, False),
    "full, checkpointing": ({"name": "full"}, True),
    "LoRA": (LORA, False),
    "LoRA, checkpointing": (LORA, True),
    "QLoRA": (QLORA, False),
    "QLoRA, checkpointing": (QLORA, True),
    "LoRA on int8": ({**LORA, "name": "lora_8bit"}, False),
    "LoRA on int8, checkpointing": ({**LORA, "name": "lora_8bit"}, True),
}
LENGTHS, MICRO_BATCHES = (128, 256), (1, 2)
TRAINED_SHARE = 0.5
BUCKET = 5_000_000  # weights in one communication, of the trainings over several processes
GB = 1e9
RULES = {  # of thumb: GB by full, LoRA and QLoRA at rank 16
    "Llama-2-7B": (98, 18, 10),
    "Llama-2-13B": (180, 32, 16),
    "CodeLlama-34B": (470, 80, 40),
    "Llama-3-70B": (960, 160, 80),
}
WHY = {  # where they differ by more than 20%
    "full": "the rule has {per:.1f} B a weight, this {here:.1f}: fp32 weights, gradients and moments are 16",
    "lora": "the rule has {per:.2f} B a weight, this {here:.2f}",
    "qlora": "the rule has {per:.2f} B a weight, this {here:.2f}: 4 bits and their scales are 0.52,"
    " embeddings and head 2; the rest of the rule is room for longer rows, or a guess",
}


def cases() -> list[dict[str, Any]]:
    return [
        {"name": name, "method": method, "checkpointing": checkpointing, "length": length, "rows": rows}
        for name, (method, checkpointing) in METHODS.items()
        for length in LENGTHS
        for rows in MICRO_BATCHES
    ]


def trained_positions(case: dict[str, Any]) -> int:
    return int(case["length"] * TRAINED_SHARE)


def foretell(case: dict[str, Any], model: Path) -> int:
    """Bytes."""
    from ft_dagster.planning.dryrun.footprint import footprint
    from ft_dagster.planning.dryrun.step import Step
    from ft_dagster.training.contract import method_settings

    step = Step(
        rows=case["rows"],
        length=case["length"],
        trained_positions=trained_positions(case),
        gradient_checkpointing=case["checkpointing"],
        precision=case["precision"],
    )
    return footprint(model, method_settings(case["method"]), step).peak


def write_mixture(folder: Path, case: dict[str, Any]) -> None:
    """Rows of two examples of half the length, packed; the labels fall on the same positions of every row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    half, trained = case["length"] // 2, trained_positions(case) // 2
    count = 8 * case["rows"]
    columns = {
        "input_ids": pa.array(
            [[7 + (i + at) % 400 for at in range(half)] for i in range(count)], pa.list_(pa.int32())
        ),
        "trained_spans": pa.array([[half - trained, half]] * count, pa.list_(pa.int32())),
        "source": pa.array(["made.jsonl"] * count),
        "record": pa.array([f"{i:064x}" for i in range(count)]),
    }
    (folder / "train").mkdir(parents=True)
    pq.write_table(pa.table(columns), folder / "train" / "shard-00000.parquet", compression="zstd")


def make_run(folder: Path, case: dict[str, Any], model: Path) -> None:
    """run.json of two optimizer steps; nothing is evaluated on the way."""
    write_mixture(folder / "mixture", case)
    training = {
        "learning_rate": 1e-4,
        "num_train_epochs": 2.0,
        "max_steps": 2,
        "per_device_train_batch_size": case["rows"],
        "max_length": case["length"],
        "gradient_checkpointing": case["checkpointing"],
        "precision": case["precision"],
    }
    member = {
        "variant": "bench.memory",
        "mixture": str(folder / "mixture"),
        "mixture_digest": "m" * 64,
        "plan": {"method": case["method"], "training": training},
        "output": str(folder / "out"),
    }
    run = {"run_id": "memory", "base": {"folder": str(model), "digest": "b" * 64}, "members": [member]}
    (folder / "run.json").write_text(json.dumps(run))


def measure(case: dict[str, Any], model: Path, tracked: bool) -> int:
    """Bytes of the real trainer's two steps: tracked storages, or what the process grew by. In this process.

    A model of two narrow layers is trained before, so that what is imported on the way does not count.
    """
    import torch

    from ft_dagster.training.figures import peak_process_bytes

    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="memory-"))
    try:
        if tracked:
            return train(folder / "run", case, model, tracked=True)
        narrow = make_narrow(folder / "narrow", model)
        train(folder / "before", {**case, "length": 16, "rows": 1}, narrow, tracked=False)
        gc.collect()
        before = resident()
        train(folder / "run", case, model, tracked=False)
        return peak_process_bytes() - before
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_narrow(folder: Path, like: Path) -> Path:
    """A model of the same architecture and tokenizer, two layers of 64."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shutil.copytree(like, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    config = AutoConfig.from_pretrained(like)
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 64, 128, 2
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = 2, 1, 32
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return folder


def train(folder: Path, case: dict[str, Any], model: Path, *, tracked: bool) -> int:
    """Two steps by the real trainer; the most bytes that its storages took, where they are tracked."""
    from ft_dagster.planning.dryrun.tracker import FROZEN, TRAINED, Tracker
    from ft_dagster.training.arguments import training_arguments
    from ft_dagster.training.contract import read_run, recipe_digest
    from ft_dagster.training.progress import Console
    from ft_dagster.training.stop_signals import Stop
    from ft_dagster.training.trainer import build_trainer, prepare

    make_run(folder, case, model)
    run = read_run(folder)
    (member,) = run.members
    member.checkpoints.mkdir(parents=True)
    work = prepare(run, member, recipe_digest(run, member), Console())
    trainer, _ = build_trainer(run, work, Stop(), training_arguments(work))
    trainer._save_checkpoint = lambda *_args, **_named: None
    if not tracked:
        trainer.train()
        return 0
    tracker = Tracker()
    for weight in trainer.model.parameters():
        tracker.track(_storages(weight), TRAINED if weight.requires_grad else FROZEN)
    tracker.track(trainer.model.buffers(), FROZEN)
    with tracker:
        trainer.train()
    return max(sum(kinds.values()) for kinds in tracker.peaks().values())


def _storages(weight: Any) -> list[Any]:
    """A weight and, quantized, what it is unpacked with."""
    state = getattr(weight, "quant_state", None)
    if state is not None:
        return [weight, state.absmax, *((state.state2.absmax,) if state.nested else ())]
    scales = [tensor for tensor in (getattr(weight, "SCB", None),) if tensor is not None]
    return [weight, *scales]


def resident() -> int:
    """Bytes of this process in memory now."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def in_child(case: dict[str, Any], model: Path, *, tracked: bool = False) -> int:
    """Bytes by `measure` in a process of its own, whose memory is that case's alone."""
    asked = json.dumps({**case, "tracked": tracked})
    command = [sys.executable, "-W", "ignore", __file__, "--model", str(model), "--one", asked]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{case}: {done.stderr[-2000:]}")
    return int(json.loads(done.stdout.strip().splitlines()[-1]))


def compare(model: Path, precision: str, only: str | None) -> None:
    """Predicted, tracked and grown, case by case; and after learning from the method's other cases."""
    from statistics import median

    from ft_dagster.planning.dryrun.occupancy import CPU_CONTEXT

    print(f"{model.name}, {precision}, {TRAINED_SHARE:.0%} of positions trained; MB = 1e6 bytes\n")
    print(
        "| method | length | micro-batch | predicted | tracked | error | process | error | after learning |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name in METHODS:
        if only and only != name:
            continue
        own = [{**case, "precision": precision} for case in cases() if case["name"] == name]
        rows = [
            (case, foretell(case, model), in_child(case, model, tracked=True), in_child(case, model))
            for case in own
        ]
        for case, said, tracked, grown in rows:
            others = [more - less for other, less, _, more in rows if other is not case]
            process = said + CPU_CONTEXT
            learned = said + median(others)
            errors = ((said, tracked), (process, grown), (learned, grown))
            first, second, third = (f"{(a - b) / b:+.2%}" for a, b in errors)
            cells = [name, case["length"], case["rows"], f"{said / 1e6:,.1f}", f"{tracked / 1e6:,.1f}", first,
                     f"{grown / 1e6:,.1f}", second, third]  # fmt: skip
            print(f"| {' | '.join(map(str, cells))} |", flush=True)


def sizes() -> None:
    """The memory table of benchmarks/notes/memory.md, from published architectures."""
    from ft_dagster.planning.dryrun.footprint import footprint
    from ft_dagster.planning.dryrun.occupancy import Sharding, occupancy
    from ft_dagster.planning.dryrun.step import Step
    from ft_dagster.training.contract import method_settings

    print(
        "One GPU, nothing sharded; micro-batch 1, 512 positions packed, 256 trained, checkpointing, bf16;"
        " GB of 1e9 bytes a device\n"
    )
    columns = ("model", "method", "rule", "predicted", "differs", "weights", "gradients", "states",
               "activations, temporaries", "slack, context", "why")  # fmt: skip
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    step = Step(rows=1, length=512, trained_positions=256, gradient_checkpointing=True, device="cuda")
    for model, rules in RULES.items():
        for name, rule in zip(("full", "lora", "qlora"), rules, strict=True):
            method = {"full": {"name": "full"}, "lora": LORA, "qlora": QLORA}[name]
            footprint_ = footprint(model, method_settings(method), step)
            held = occupancy(footprint_, Sharding())
            parts = (held.total, held.frozen + held.trained, held.gradients, held.states,
                     held.activations + held.temporaries, held.slack + held.context)  # fmt: skip
            total, *rest = (f"{part / GB:,.1f}" for part in parts)
            differs = held.total / GB / rule - 1
            weights = footprint_.frozen_weights + footprint_.trained_weights
            why = (
                WHY[name].format(per=rule * GB / weights, here=held.total / weights)
                if abs(differs) > 0.2
                else ""
            )
            print(
                f"| {' | '.join([model, name, f'{rule:,}', total, f'{differs:+.0%}', *rest, why])} |",
                flush=True,
            )


def ranks(model: Path) -> None:
    """Full fine-tuning over processes of this machine: the arithmetic of copies and ZeRO, measured."""
    from ft_dagster.planning.dryrun.footprint import footprint
    from ft_dagster.planning.dryrun.occupancy import Sharding, occupancy
    from ft_dagster.planning.dryrun.step import Step
    from ft_dagster.training.contract import method_settings

    case = {"name": "full", "method": {"name": "full"}, "checkpointing": True, "length": 128, "rows": 1,
            "precision": "bf16"}  # fmt: skip
    print("| processes | ZeRO stage | predicted of each, MB | peak above imports, MB | error |")
    print("|---|---|---|---|---|")
    for count, stage in ((1, 0), (2, 0), (2, 2), (2, 3)):
        step = Step(rows=1, length=128, trained_positions=64, gradient_checkpointing=True, sharded=stage > 0)
        said = occupancy(
            footprint(model, method_settings(case["method"]), step), Sharding(count, stage, "none", BUCKET)
        ).total
        grown = trained_over(count, stage, case, model)
        print(
            f"| {count} | {stage} | {said / 1e6:,.0f} | {grown / 1e6:,.0f} | {said / grown - 1:+.1%} |",
            flush=True,
        )


def trained_over(count: int, stage: int, case: dict[str, Any], model: Path) -> int:
    """Bytes that the first of `count` processes of a training took at most, above its imports."""
    folder = Path(tempfile.mkdtemp(prefix="memory-"))
    try:
        make_run(folder, case, model)
        file = folder / "run.json"
        run = json.loads(file.read_text())
        run["launch"] = {"nodes": 1, "ranks_per_node": count, "rendezvous": None}
        training = run["members"][0]["plan"]["training"]
        training |= {"deepspeed": {"stage": stage, "bucket_bytes": BUCKET}, "evaluations": 1, "keep_best": 1,
                     "keep_last": 1}  # fmt: skip
        file.write_text(json.dumps(run))
        command = [sys.executable, "-W", "ignore", "-m", "ft_dagster.training", str(folder)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        subprocess.run(command, check=True, env=environment, capture_output=True)
        figures = json.loads((folder / "out" / "result.json").read_text())["figures"]
        return int(figures["peak_memory_bytes"] - figures["imported_bytes"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=MODEL, help="a folder with config.json and weights")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--only", help="one method of the table")
    parser.add_argument("--table", action="store_true", help="7B to 70B beside the rules of thumb")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument(
        "--ranks", action="store_true", help="full over two processes: copies, ZeRO-2, ZeRO-3"
    )
    given = parser.parse_args()
    if given.one:
        tracked = given.one.pop("tracked")
        print(f"\n{measure(given.one, given.model, tracked=tracked)}")
        return 0
    if given.ranks:
        ranks(given.model)
    elif given.table:
        sizes()
    else:
        compare(given.model, given.precision, given.only)
    return 0


if __name__ == "__main__":
    sys.exit(main())
