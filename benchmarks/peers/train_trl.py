"""One training by TRL's SFTTrainer: `ENVIRONMENT/bin/python train_trl.py JOB.json`; see `job.py`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer
from watching import Watch


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    watch, lora = Watch(), job["lora"]
    given = (
        {}
        if job["gradient_checkpointing"] is None
        else {"gradient_checkpointing": job["gradient_checkpointing"]}
    )
    arguments = SFTConfig(
        output_dir=job["output"],
        per_device_train_batch_size=job["rows_a_step"],
        packing=job["packing"],
        max_length=job["max_length"],
        learning_rate=job["learning_rate"],
        lr_scheduler_type="cosine",
        num_train_epochs=1,
        seed=job["seed"],
        use_cpu=True,
        bf16=job["bf16"],
        report_to="none",
        disable_tqdm=True,
        **given,
    )
    rows = json.loads(Path(job["rows"]).read_text())["train"]
    trainer = SFTTrainer(
        job["model"],
        args=arguments,
        train_dataset=Dataset.from_list(
            [{name: row[name] for name in ("prompt", "completion")} for row in rows]
        ),
        peft_config=LoraConfig(
            task_type="CAUSAL_LM",
            r=lora["rank"],
            lora_alpha=lora["alpha"],
            lora_dropout=lora["dropout"],
            target_modules="all-linear",
        ),
        callbacks=[watch],
    )
    trainer.train()
    trainer.save_model(job["output"])
    watch.tell("trl")


if __name__ == "__main__":
    main()
