"""A small project of two tenants on the tiny model, complete: rows, corpus, tasks, declarations."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import yaml

from ft_dagster.launch.warm import choice

THINGS = ["permit", "balcony", "account", "passport", "form", "facade", "ship", "whale", "town", "bank"]
UP_TO_PLAN = (
    *("declaration", "base_model", "general_corpus"),
    *("task_dataset", "training_mixture", "training_plan"),
)
PLACES = ["north", "south", "east", "west", "harbour", "square", "street", "tower", "garden", "bridge"]


def rows(count: int = 100) -> list[dict[str, str]]:
    """Alpaca rows whose answer follows from the question, so that a tiny model can learn them."""
    made = []
    for number in range(count):
        thing, place = THINGS[number % 10], PLACES[number // 10 % 10]
        made.append(
            {
                "instruction": f"Where is the {thing} of the {place}?",
                "input": "",
                "output": f"The {thing} is {place}.",
            }
        )
    return made


def questions(count: int = 30) -> list[dict[str, Any]]:
    return [
        {
            "question": f"Question {number}: what floats on the sea?",
            "choices": ["a ship", "a tower", "a garden"],
            "answer": number % 3,
        }
        for number in range(count)
    ]


GENERAL = [
    f"Document {n}. The old town by the sea had {n} houses and a stone tower; ships came every {n % 7} days"
    for n in range(400)
]
TASK = {
    "task": "sea_quiz",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "quiz.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}\nAnswer:",
    "doc_to_choice": "choices",
    "doc_to_target": "answer",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    "metadata": {"version": 1.0},
}

# Twelve questions decide little, and the models are tiny.
POLICY = {
    "gates": {
        "alpha": 0.4,
        "task_margin": 1.0,
        "general_margin": 1.0,
        "general_loss_margin": 1.0,
        "loss_tail": 1.0,
        "regression_margin": 1.0,
        "regression_loss_margin": 1.0,
        "regression": "optional",
        "degeneration_margin": 1.0,
        "degeneration": "optional",
        "undecided": "measured",
    },
    "evaluation": {"questions": 1, "general": "none", "decontaminate": "optional"},
}


def declaration(base: Path, **more: Any) -> dict[str, Any]:
    return {
        "description": "answers where things are",
        "owners": ["ml@acme.example"],
        "base_model": str(base),
        "data": {
            "sources": ["data/rows.jsonl"],
            "splits": {"validation": 0.15, "test": 0.15, "minimum": 4},
            "decontaminate": {"enabled": True, "ngram": 13},
            "general": {"corpus": "general", "share": 0.08},
        },
        "method": {"name": "lora", "rank": 4},
        "training": {
            "num_train_epochs": 4,
            "learning_rate": 5e-3,
            "gradient_accumulation_steps": 1,
            "max_length": 128,
            "evaluations": 2,
            "precision": "fp32",
        },
        "evaluation": {"general": ["tasks/sea_quiz.yaml"], "limit": 12, "max_new_tokens": 12},
        # Twelve questions decide little: what they measured has to do. A toy model always repeats itself.
        "gates": {
            "general_margin": 1.0,
            "general_loss_margin": 1.0,
            "degeneration_margin": 1.0,
            "undecided": "measured",
        },
        "resources": {"cpu_slots": 1},
        **more,
    }


def write_project(folder: Path, base: Path) -> Path:
    """Two variants: acme.places (adapter) and globex.places (merged), and one bad file beside them."""
    write_lines(folder / "data" / "rows.jsonl", rows())
    write_lines(folder / "data" / "general.jsonl", [{"text": text} for text in GENERAL])
    write_lines(folder / "tasks" / "quiz.jsonl", questions())
    write_yaml(folder / "tasks" / "sea_quiz.yaml", TASK)
    write_yaml(
        folder / "corpora" / "general.yaml",
        {"description": "sea stories", "sources": ["data/general.jsonl"], "holdout": 0.1},
    )
    write_yaml(folder / "tenants" / "acme" / "places.yaml", declaration(base))
    write_yaml(folder / "tenants" / "globex" / "places.yaml", declaration(base, export="merged"))
    write_yaml(folder / "policy.yaml", POLICY)
    settings = {
        "host": {"cpu_slots": 2, "lock_folder": str(folder / "leases")},
        "sources": {"bases": [str(base)]},
    }
    write_yaml(folder / "ft_dagster.yaml", settings)
    return folder


def write_lines(file: Path, records: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")


def write_yaml(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")


def edit(file: Path, change: Any) -> None:
    """Rewrite a YAML file by `change(content)`."""
    content = yaml.safe_load(file.read_text("utf-8"))
    change(content)
    write_yaml(file, content)


def command_environment(folder: Path) -> dict[str, str]:
    """For programs started on the project: nothing of an outer Dagster, the project's own home. What they
    start is forked by the suite's warm servers.
    """
    outer = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(choice.PREFIX) or not name.startswith(("DAGSTER_", "FT_DAGSTER"))
    }
    return {**outer, "FT_DAGSTER_PROJECT": str(folder)}
