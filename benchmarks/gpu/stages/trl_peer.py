"""`python -m stages.trl_peer ASKED.json`: TRL's SFTTrainer as its user sets it up, timed step by step.

Rows of the same length in the same micro-batches as ours, each one document; loss on as many tokens.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WARM = 2


def main(file: Path) -> int:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    asked = json.loads(file.read_text())
    settings, gpu = asked["settings"], asked["device"] == "cuda"
    length, rows = settings["max_length"], settings["per_device_train_batch_size"]
    bf16 = settings["precision"] == "bf16"
    model = AutoModelForCausalLM.from_pretrained(
        asked["model"], **loading(asked["method"]["name"], gpu, bf16)
    )
    drawn = random.Random(0)
    a_step = rows * settings["gradient_accumulation_steps"]
    ids = [[10 + drawn.randrange(380) for _ in range(length)] for _ in range(a_step * settings["max_steps"])]
    masks = [[0] * (length // 2) + [1] * (length - length // 2)] * len(ids)
    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_given: Any, **_named: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_given: Any, **_named: Any) -> None:
            if gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - self.began)

    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model,
            args=SFTConfig(
                output_dir=folder, per_device_train_batch_size=rows, max_steps=settings["max_steps"],
                gradient_accumulation_steps=settings["gradient_accumulation_steps"], learning_rate=1e-4,
                gradient_checkpointing=settings["gradient_checkpointing"], bf16=bf16, use_cpu=not gpu,
                max_length=None, completion_only_loss=True, save_strategy="no", logging_strategy="no",
                report_to="none", disable_tqdm=True, optim="adamw_torch",
            ),
            train_dataset=Dataset.from_dict({"input_ids": ids, "completion_mask": masks}),
            processing_class=AutoTokenizer.from_pretrained(asked["model"]),
            peft_config=adapter(asked["method"]),
            callbacks=[Clock()],
        )  # fmt: skip
        trainer.train()
    peak = torch.cuda.max_memory_reserved() if gpu else None
    print(
        json.dumps(
            {"tokens_per_second": a_step * length * len(times[WARM:]) / sum(times[WARM:]), "reserved": peak}
        )
    )
    return 0


def loading(name: str, gpu: bool, bf16: bool) -> dict[str, Any]:
    """How TRL's examples load a base: full in fp32 under autocast, frozen in bf16, QLoRA in NF4."""
    import torch
    from transformers import BitsAndBytesConfig

    half = torch.bfloat16 if bf16 else torch.float32
    if name == "full":
        return {"dtype": torch.float32}
    if name == "lora":
        return {"dtype": half}
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=half,
    )
    return {"dtype": half, "quantization_config": config, **({"device_map": {"": 0}} if gpu else {})}


def adapter(method: dict[str, Any]) -> Any:
    """LoRA as ours; None for full."""
    from peft import LoraConfig

    if method["name"] == "full":
        return None
    return LoraConfig(
        task_type="CAUSAL_LM", r=method["rank"], lora_alpha=method["alpha"], lora_dropout=method["dropout"],
        target_modules="all-linear",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
