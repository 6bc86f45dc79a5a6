"""What the tests of this room share: an adapter as the trainer leaves it, and what the card says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ft_dagster.evaluation.request import BaseFiles, TunedWeights
from ft_dagster.export.request import ExportRequest
from ft_dagster.export.run import WRITERS
from ft_dagster.provenance.digest import hash_folder, payload_digest
from tests.stored_figures import stored_training

DIGEST = "5" * 64
QUESTIONS = ["Where is the bank?", "Which documents must I bring?", "What floats on the sea?"]


MakeAdapter = Callable[..., Path]
MakeRequest = Callable[..., dict[str, Any]]


def save_adapter(model: Any, tokenizer: Any, folder: Path) -> Path:
    """As the trainer leaves it: the base named by its digest, the tokenizer beside it, nothing else."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").unlink()
    edit_json(folder / "adapter_config.json", base_model_name_or_path=f"sha256:{DIGEST}")
    return folder


def as_base(folder: Path) -> BaseFiles:
    """A model folder as a base is recorded."""
    return BaseFiles(folder=folder, files={file.path: file.sha256 for file in hash_folder(folder)})


def as_weights(folder: Path) -> TunedWeights:
    return TunedWeights(folder=folder, digest=payload_digest(hash_folder(folder)))


def edit_json(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), **values}), "utf-8")


def prompt(tokenizer: Any, question: str) -> str:
    turn = [{"role": "user", "content": question}]
    rendered: str = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    return rendered


def parse(content: dict[str, Any]) -> ExportRequest:
    """The request, with its output folders made as the program makes them."""
    request = ExportRequest.model_validate(content)
    request.payload.mkdir(parents=True, exist_ok=True)
    request.evidence.mkdir(parents=True, exist_ok=True)
    return request


CARD: dict[str, Any] = {
    "variant": "acme.support",
    "description": "Answers questions about permits | and accounts.",
    "owners": ["ml@acme.example"],
    "base_model": "models/tiny-llama",
    "objective": "instruction",
    "method": {"name": "lora", "rank": 4, "alpha": 8.0, "dropout": 0.05, "use_dora": False},
    "training": {"learning_rate": 0.0002, "num_train_epochs": 2.0, "max_steps": None},
    "figures": stored_training(),
    "verdict": {
        "schema_version": 1,
        "passed": True,
        "rules": [
            {
                "rule": "task",
                "task": "test_split_task",
                "metric": "answer_loss",
                "base": 4.66,
                "tuned": 1.42,
                "difference": -3.24,
                "interval": [-3.4, -3.1],
                "margin": 0.0,
                "questions": 60,
                "higher_is_better": False,
                "passed": True,
                "sentence": "the task test_split_task (answer_loss) went from 4.660 to 1.420",
            }
        ],
    },
    "sources": [
        {"path": "data/faq.jsonl", "licence": "CC-BY-4.0"},
        {"path": "/srv/secret/place/rows.jsonl", "licence": None},
    ],
    "general": "encyclopedia",
    "evaluation": "e" * 64,
}


def request(weights: Path, format: str, base: Path, tokenizer: Any, output: Path) -> dict[str, Any]:
    """The content of run.json that asks for these weights in a format."""
    digest = payload_digest(hash_folder(weights))
    return {
        "schema_version": 1,
        "base": {
            **as_base(base).model_dump(mode="json"),
            "digest": DIGEST,
            "reference": "models/tiny-llama",
        },
        "weights": str(weights),
        "weights_digest": digest,
        "format": format,
        "card": {**CARD, "weights": digest},
        "probes": [prompt(tokenizer, question) for question in QUESTIONS],
        "device": "cpu",
        "output": str(output),
    }


def written(content: dict[str, Any]) -> ExportRequest:
    """The request, its payload written but not yet certified."""
    asked = parse(content)
    WRITERS[asked.format](asked.base.folder, asked.base.digest, asked.weights, asked.payload)
    return asked
