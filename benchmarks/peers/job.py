"""What all contenders are asked: the same rows, base, LoRA and rate, and one evaluator for all of them.

JOB.json, as a peer's script reads it: `model` (folder), `rows` (file of `write_rows`), `output` (folder; an
adapter in PEFT's layout is left there), `lora` (rank, alpha, dropout; all linear layers), `learning_rate`
(cosine, no warm-up, one epoch), `max_length` (tokens of a row, and what packing fills), `rows_a_step`,
`packing`, `gradient_checkpointing` (null: the peer's default), `bf16`, `seed`.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

LORA = {"rank": 16, "alpha": 32, "dropout": 0.05}
LEARNING_RATE = 2e-4
MAX_LENGTH = 512
HELD_OUT = 24  # rows


def write_rows(model: Path, data: Path, tokens: int, seed: int, file: Path) -> Path:
    """Rows of the demo's questions and answers as the model's chat, `tokens` of them or a little more; the
    held-out rows are the same for every seed. Raises SystemExit where `data` has not enough.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = [json.loads(line) for line in data.read_text("utf-8").splitlines()]
    random.Random(0).shuffle(rows)
    held_out, rest = rows[:HELD_OUT], rows[HELD_OUT:]
    random.Random(seed).shuffle(rest)
    train: list[dict[str, Any]] = []
    left = tokens
    while left > 0:
        if not rest:
            raise SystemExit(f"{data} has fewer than {tokens} tokens of rows: name a longer file by --data")
        train.append(_rendered(rest.pop(), tokenizer))
        left -= len(train[-1]["input_ids"])
    held = [_rendered(row, tokenizer) for row in held_out]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"train": train, "held_out": held}))
    return file


def _rendered(row: dict[str, str], tokenizer: Any) -> dict[str, Any]:
    """The row with `prompt`, `completion`, `input_ids` of both, cut at MAX_LENGTH, and where labels begin."""
    prompt = f"<|im_start|>user\n{row['instruction']}<|im_end|>\n<|im_start|>assistant\n"
    completion = f"{row['output']}<|im_end|>"
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, prompt + completion)]
    if ids[1][: len(ids[0])] != ids[0]:
        raise SystemExit(f"tokens of a prompt change with its completion: {row['instruction']}")
    whole = ids[1][:MAX_LENGTH]
    made = {"prompt": prompt, "completion": completion, "input_ids": whole, "labels_from": len(ids[0])}
    return {**row, **made}


def job_of(
    model: Path,
    rows: Path,
    output: Path,
    seed: int,
    *,
    packing: bool,
    gradient_checkpointing: bool | None = None,
) -> dict[str, Any]:
    """JOB.json, and where the adapter will be."""
    return {
        "model": str(model), "rows": str(rows), "output": str(output), "adapter": str(output),
        "lora": LORA, "learning_rate": LEARNING_RATE, "max_length": MAX_LENGTH,
        "rows_a_step": 1 if packing else rows_a_step(rows, MAX_LENGTH), "packing": packing,
        "bf16": has_bf16(), "seed": seed, "gradient_checkpointing": gradient_checkpointing,
    }  # fmt: skip


def has_bf16() -> bool:
    """Whether this processor multiplies bf16."""
    return "bf16" in Path("/proc/cpuinfo").read_text()


def rows_of(job: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Those of a job: `train` and `held_out`."""
    found: dict[str, list[dict[str, Any]]] = json.loads(Path(job["rows"]).read_text())
    return found


def rows_a_step(rows: Path, max_length: int) -> int:
    """Rows of a step without packing: about as many tokens as a packed row has."""
    train = json.loads(rows.read_text())["train"]
    return max(1, round(max_length * len(train) / sum(len(row["input_ids"]) for row in train)))


def held_out_loss(model: Path, adapter: Path | None, rows: Path) -> float:
    """Nats a completion's token of the held-out rows, in fp32; by transformers and PEFT alone."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    if adapter is not None:
        loaded = PeftModel.from_pretrained(loaded, adapter)
    loaded.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for row in json.loads(rows.read_text())["held_out"]:
            ids, start = torch.tensor([row["input_ids"]]), row["labels_from"]
            scores = loaded(input_ids=ids).logits[0, start - 1 : -1].log_softmax(-1)
            total -= scores.gather(1, ids[0, start:, None]).sum().item()
            count += ids.shape[1] - start
    if not count or not math.isfinite(total):
        raise SystemExit(f"no finite loss of {adapter} on {rows}")
    return total / count
