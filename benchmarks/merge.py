"""Does the streaming merge take little memory, and no more time than PEFT's? A markdown table on stdout.

    .venv/bin/python benchmarks/merge.py                      # 4 GB in bfloat16, made in a temporary folder
    .venv/bin/python benchmarks/merge.py --stored float32     # 4 GB in float32: nothing is rounded

Needs 13 GB of disk and 9 GB of memory, which its comparison of logits takes. Every merge runs in a process of
its own, after it has merged a tiny model, so that imports do not count.
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
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
GB = 1e9
WAYS = {
    "streaming": "streaming",
    "PEFT, merge_and_unload": "peft",
}
LAYERS = {"bfloat16": 16, "float32": 6}  # with which the model is 4 GB


def make_model(folder: Path, stored: str, *, narrow: bool = False) -> Path:
    """A Llama with random weights, in files of about 1 GB."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    wide = {"hidden_size": 2560, "intermediate_size": 10240, "num_attention_heads": 20}
    small = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=1000 if narrow else 100_000,
        num_hidden_layers=1 if narrow else LAYERS[stored],
        num_key_value_heads=4,
        tie_word_embeddings=False,
        **(small if narrow else wide),
    )
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, stored))
    model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder, max_shard_size="1GB")
    return folder


def make_adapter(base: Path, folder: Path) -> Path:
    """A LoRA of rank 16 on all linear layers, of which every B is random too."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(model, config)
    for name, weights in adapted.named_parameters():
        if "lora_B" in name:
            weights.data.normal_(0, 0.003)
    adapted.save_pretrained(folder)
    return folder


def merge(way: str, base: Path, adapter: Path, target: Path) -> None:
    """One merge, from the files of base and adapter to those of the merged model."""
    if way == "streaming":
        from ft_dagster.export.merging import merge_weights

        merge_weights(base, adapter, target)
        return
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    merged.save_pretrained(target, max_shard_size="1GB")


def measure(way: str, folder: Path) -> dict[str, float]:
    """Bytes by which this process grew, and seconds, after a tiny model was merged the same way."""
    from ft_dagster.training.figures import peak_process_bytes

    merge(way, folder / "tiny", folder / "tiny-adapter", folder / "warm" / way)
    gc.collect()
    before = peak_process_bytes()
    started = time.monotonic()
    merge(way, folder / "base", folder / "adapter", folder / way)
    return {"seconds": time.monotonic() - started, "grown": peak_process_bytes() - before}


def logits_of(base: Path, adapter: Path | None, out: Path) -> None:
    """Logits of one row of 64 tokens, computed in float32 from the weights as stored."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    torch.manual_seed(5)
    with torch.inference_mode():
        torch.save(model(input_ids=torch.randint(0, 1000, (1, 64))).logits[0], out)


def differences(folder: Path, way: str) -> dict[str, float]:
    """Of the merged model's logits from those of base + adapter: the largest, and the mean KL in nats."""
    import torch

    judged, found = (torch.load(folder / f"{name}.logits", weights_only=True) for name in ("judged", way))
    p, q = judged.log_softmax(-1), found.log_softmax(-1)
    return {
        "largest": float((judged - found).abs().max()),
        "kl": float((p.exp() * (p - q)).sum(-1).mean()),
    }


def child(folder: Path, *given: str, threads: int) -> str:
    """The last line of a process of its own that does one of the steps."""
    command = [sys.executable, "-W", "ignore", __file__, "--folder", str(folder), "--step", *given]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{given}: {done.stderr[-2000:]}")
    return (done.stdout.strip().splitlines() or [""])[-1]


def step(folder: Path, name: str, *given: str) -> None:
    if name == "make":
        make_adapter(make_model(folder / "base", given[0]), folder / "adapter")
        make_adapter(make_model(folder / "tiny", given[0], narrow=True), folder / "tiny-adapter")
    elif name == "merge":
        print(json.dumps(measure(given[0], folder)))
    elif given[0] == "judged":
        logits_of(folder / "base", folder / "adapter", folder / "judged.logits")
    else:
        logits_of(folder / given[0], None, folder / f"{given[0]}.logits")


def compare(folder: Path, stored: str, threads: int, repeats: int) -> None:
    child(folder, "make", stored, threads=threads)
    sizes = [file.stat().st_size for file in (folder / "base").glob("*.safetensors")]
    largest = max(sizes)
    print(
        f"Llama, {stored}, {sum(sizes) / GB:.2f} GB in {len(sizes)} files, the largest {largest / GB:.2f} GB;"
        f" LoRA of rank 16 on all linear layers; {threads} thread(s), the best of {repeats}; GB = 1e9 bytes\n"
    )
    print(
        "| merge | seconds | against PEFT's | grown by, GB | of the largest file | largest logit difference |"
        " mean KL |\n|---|---|---|---|---|---|---|"
    )
    child(folder, "logits", "judged", threads=threads)
    found: dict[str, dict[str, float]] = {}
    for _ in range(repeats):  # in turns, so that an unquiet hour hits all of them
        for way in WAYS.values():
            shutil.rmtree(folder / way, ignore_errors=True)
            one = json.loads(child(folder, "merge", way, threads=threads))
            best = found.setdefault(way, one)
            best["seconds"] = min(best["seconds"], one["seconds"])
            best["grown"] = max(best["grown"], one["grown"])
    for said, way in WAYS.items():
        child(folder, "logits", way, threads=threads)
        one = found[way] | differences(folder, way)
        print(
            f"| {said} | {one['seconds']:.1f} | {one['seconds'] / found['peft']['seconds']:.2f} |"
            f" {one['grown'] / GB:.2f} | {one['grown'] / largest:.2f} | {one['largest']:.1e} |"
            f" {one['kl']:.1e} |",
            flush=True,
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stored", choices=tuple(LAYERS), default="bfloat16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        step(given.folder, *given.step)
        return 0
    folder = Path(tempfile.mkdtemp(prefix="merge-"))
    try:
        compare(folder, given.stored, given.threads, given.repeats)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
