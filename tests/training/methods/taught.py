"""Trains a tiny model by any method, and reads what came out the way others would: with plain PEFT."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from ft_dagster.errors import UserError
from ft_dagster.models.quantize import quantization_config, quantization_of, settle_quantized
from ft_dagster.training import checkpoints
from ft_dagster.training.__main__ import train_run
from ft_dagster.training.arguments import training_arguments
from ft_dagster.training.contract import read_run, recipe_digest
from ft_dagster.training.progress import Console
from ft_dagster.training.stop_signals import Stop
from ft_dagster.training.trainer import build_trainer, prepare
from ft_dagster.training.work import Work
from tests.training.runs import LORA, Runs, made_rows, payload_bytes, result_of, write_shard

METHODS: dict[str, dict[str, Any]] = {
    "lora": LORA,
    "rslora": {**LORA, "use_rslora": True},
    "dora": {**LORA, "use_dora": True},
    "gaussian": {**LORA, "init_lora_weights": "gaussian"},
    "orthogonal": {**LORA, "init_lora_weights": "orthogonal"},
    "pissa": {**LORA, "init_lora_weights": "pissa"},
    "olora": {**LORA, "init_lora_weights": "olora"},
    "qlora": {**LORA, "name": "qlora"},
    "lora_8bit": {**LORA, "name": "lora_8bit"},
    "prompt_tuning": {"name": "prompt_tuning", "num_virtual_tokens": 8},
    "prefix_tuning": {"name": "prefix_tuning", "num_virtual_tokens": 8},
}
TEXTS = torch.tensor([[11, 12, 13, 14, 15, 16, 100, 101, 102], [40, 43, 46, 49, 52, 55, 100, 101, 102]])


def habit(folder: Path, answer: tuple[int, ...] = (100, 101, 102)) -> Path:
    """A mixture whose rows of several lengths all end in the same answer."""
    for split, count, seed in (("train", 30, 1), ("validation", 6, 2)):
        rows = []
        for ids, _ in made_rows(count, seed):
            kept = ids[: len(ids) - 3]
            rows.append(([*kept, *answer], [len(kept), len(kept) + len(answer)]))
        write_shard(folder / split / "shard-00000.parquet", split, 0, rows)
    return folder


def prepared(runs: Runs, name: str, method: str, base: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A run folder; `base` changes what run.json says of the base."""
    training = {"num_train_epochs": 4.0, "learning_rate": 0.02, **changes.pop("training", {})}
    settings = {**METHODS[method], **changes.pop("settings", {})}
    run_folder = runs.prepare(name, method=settings, training=training, **changes)
    file = run_folder / "run.json"
    run = json.loads(file.read_text())
    run["base"].update(base or {})
    file.write_text(json.dumps(run))
    return run_folder


def train(run_folder: Path) -> dict[str, Any]:
    """Train to the end; the figures."""
    assert train_run(read_run(run_folder), Console(), Stop()) == 0, result_of(run_folder)
    return result_of(run_folder)["figures"]


def resume_earlier(run_folder: Path) -> None:
    """Lose the end of a training and train it again from the checkpoint before: not a byte is another."""
    member = run_folder / "acme.support"
    whole = payload_bytes(run_folder)
    last = checkpoints.complete(member / "checkpoints")[-1]
    checkpoints.discard(last.folder)
    (member / "result.json").unlink()
    shutil.rmtree(member / "payload")
    figures = train(run_folder)
    assert 0 < figures["resumed_from"][-1] < last.step == figures["steps"]
    assert payload_bytes(run_folder) == whole


def failure(run_folder: Path) -> dict[str, Any]:
    """The error of a run that must exit with 2: of a member, or of run.json before there is one."""
    try:
        assert train_run(read_run(run_folder), Console(), Stop()) == 2
    except UserError as error:
        return error.as_dict()
    return result_of(run_folder)["error"]


def trainer_of(run_folder: Path) -> tuple[Work, Any]:
    """The trainer of a run, before any step."""
    run = read_run(run_folder)
    member = run.members[0]
    member.checkpoints.mkdir(parents=True, exist_ok=True)
    work = prepare(run, member, recipe_digest(run, member), Console())
    return work, build_trainer(run, work, Stop(), training_arguments(work))[0]


def trained_model(run_folder: Path) -> Any:
    """The trainer's own model with the weights of the checkpoint that was exported."""
    _, trainer = trainer_of(run_folder)
    step = result_of(run_folder)["figures"]["best_step"]
    trainer.load_weights(run_folder / f"acme.support/checkpoints/checkpoint-{step}")
    return trainer.model.eval()


def load_base(folder: Path, kind: Any = None, dtype: torch.dtype = torch.float32) -> Any:
    from transformers import AutoModelForCausalLM

    config = quantization_config(kind, dtype) if kind else None
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, quantization_config=config)
    settle_quantized(model)
    return model.eval()


def reloaded(base: Path, payload: Path) -> Any:
    """The payload on a freshly loaded base, quantized as the payload says."""
    from peft import PeftModel

    return PeftModel.from_pretrained(load_base(base, quantization_of(payload)), payload).eval()


def logits(model: Any, ids: torch.Tensor = TEXTS) -> torch.Tensor:
    """[rows, tokens, vocabulary], without the positions that prompt tuning puts in front."""
    with torch.no_grad():
        return model(input_ids=ids).logits[:, -ids.shape[1] :].float()


def distance(first: Any, second: Any, ids: torch.Tensor = TEXTS) -> float:
    return (logits(first, ids) - logits(second, ids)).abs().max().item()
