"""One training by LLaMA-Factory: `ENVIRONMENT/bin/python train_llamafactory.py JOB.json`; see `job.py`."""

from __future__ import annotations

import json
import os
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

os.environ["DISABLE_VERSION_CHECK"] = "1"
try:
    import torchaudio  # noqa: F401
except (ImportError, OSError):  # absent, or of another torch; nothing of it is used where there is only text
    sys.modules["torchaudio"] = ModuleType("torchaudio")
    sys.modules["torchaudio"].__spec__ = ModuleSpec("torchaudio", None)

from llamafactory.train.tuner import run_exp
from watching import Watch


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    output, lora = Path(job["output"]), job["lora"]
    watch = Watch()
    given = (
        {}
        if job["gradient_checkpointing"] is None
        else {"disable_gradient_checkpointing": not job["gradient_checkpointing"]}
    )
    run_exp(
        {
            "model_name_or_path": job["model"],
            "stage": "sft",
            "do_train": True,
            "finetuning_type": "lora",
            "lora_rank": lora["rank"],
            "lora_alpha": lora["alpha"],
            "lora_dropout": lora["dropout"],
            "lora_target": "all",
            "dataset_dir": str(written(output / "data", Path(job["rows"]))),
            "dataset": "rows",
            "template": "empty",  # the rows are rendered
            "cutoff_len": job["max_length"],
            "packing": job["packing"],
            "output_dir": str(output),
            "per_device_train_batch_size": job["rows_a_step"],
            "gradient_accumulation_steps": 1,
            "learning_rate": job["learning_rate"],
            "lr_scheduler_type": "cosine",
            "num_train_epochs": 1,
            "seed": job["seed"],
            "use_cpu": True,
            "bf16": job["bf16"],
            "report_to": "none",
            "disable_tqdm": True,
            **given,
        },
        [watch],
    )
    watch.tell("llamafactory")


def written(folder: Path, rows: Path) -> Path:
    """A data set in its layout."""
    folder.mkdir(parents=True, exist_ok=True)
    train = json.loads(rows.read_text())["train"]
    (folder / "rows.json").write_text(
        json.dumps([{name: row[name] for name in ("prompt", "completion")} for row in train])
    )
    columns = {"prompt": "prompt", "response": "completion"}
    (folder / "dataset_info.json").write_text(
        json.dumps({"rows": {"file_name": "rows.json", "columns": columns}})
    )
    return folder


if __name__ == "__main__":
    main()
