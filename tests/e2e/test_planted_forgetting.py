"""Planted forgetting on a real model: trained hard on garbage it fails by name; with care it does not."""

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ft_dagster.spec.load import read_yaml
from ft_dagster.store import read_head
from tests.e2e.project import write_lines, write_yaml
from tests.e2e.workshop import Workshop
from tests.present import present

pytestmark = pytest.mark.long
DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo"
QUESTIONS = 80  # of each benchmark: of fewer than 72 nothing could pass at the default margin
JUDGED = (
    "declaration", "base_model", "general_corpus", "task_dataset", "training_mixture", "training_plan",
    "fine_tuned_model", "base_evaluation", "evaluation",
)  # fmt: skip
SYLLABLES = ["zor", "blik", "tam", "quev", "nul", "prag", "shi", "dop", "wex", "yun", "krel", "fao"]


def garbage(count: int = 120) -> list[dict[str, Any]]:
    """Rows without sense: made-up words asked, made-up words answered."""
    draw = random.Random(11)

    def words(number: int) -> str:
        return " ".join("".join(draw.choices(SYLLABLES, k=2)) for _ in range(number))

    return [{"instruction": f"{words(4)}?", "input": "", "output": words(12)} for _ in range(count)]


def variant(share: float, learning_rate: float, epochs: int) -> dict[str, Any]:
    return {
        "description": "learns garbage",
        "owners": ["ml@acme.example"],
        "base_model": str(DEMO / "models/smollm2-135m"),
        "data": {
            "sources": ["data/garbage.jsonl"],
            "splits": {"validation": 0.1, "test": 0.15, "minimum": 4},
            "general": {"corpus": "general", "share": share},
        },
        "method": {"name": "lora", "rank": 16, "dropout": 0.0},
        "training": {
            "learning_rate": learning_rate,
            "num_train_epochs": epochs,
            "max_length": 128,
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 1,
            "evaluations": 1,
        },
        "evaluation": {
            "general": [str(DEMO / f"tasks/{name}_local.yaml") for name in ("arc_easy", "sciq")],
            "limit": QUESTIONS,
            "max_new_tokens": 8,
        },
        "gates": {"loss_tail": 1.0},  # of 18 rows of its own
        "resources": {"cpu_slots": 1},
    }


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """The two variants on the demo's model, general text and benchmarks, judged by the default margins."""
    if not (DEMO / "models/smollm2-135m/config.json").exists():
        subprocess.run([sys.executable, DEMO / "prepare.py"], check=True)
    folder = tmp_path_factory.mktemp("forgetting")
    write_lines(folder / "data/garbage.jsonl", garbage())
    corpus = read_yaml(DEMO / "corpora/general.yaml")
    corpus["sources"] = [
        {**source, "path": str(DEMO / source["path"])} if isinstance(source, dict) else str(DEMO / source)
        for source in corpus["sources"]
    ]
    write_yaml(folder / "corpora/general.yaml", corpus)
    write_yaml(folder / "tenants/acme/hard.yaml", variant(0.0, 3e-3, 2))
    write_yaml(folder / "tenants/acme/mild.yaml", variant(0.08, 5e-5, 1))
    settings = {
        "host": {"cpu_slots": 2, "lock_folder": str(folder / "leases")},
        "sources": {"allow": [".", str(DEMO)]},
    }
    write_yaml(folder / "ft_dagster.yaml", settings)
    write_yaml(folder / "policy.yaml", {"gates": {"loss_tail": 1.0}})
    with dg.DagsterInstance.ephemeral() as instance:
        shop = Workshop(folder, instance)
        shop.runs = {
            name: shop.materialize(f"acme.{name}", *JUDGED, raises=False) for name in ("hard", "mild")
        }
        yield shop


def verdict(shop: Workshop, name: str) -> dict[str, Any]:
    return present(read_head(shop.store, f"tenants/acme/{name}", "evaluation")).figures["verdict"]


def general_loss(shop: Workshop, name: str) -> float:
    (rule,) = [rule for rule in verdict(shop, name)["rules"] if rule["rule"] == "general_loss"]
    return rule["tuned"]


def test_a_model_trained_hard_on_garbage_fails_with_the_skills_named(shop: Workshop) -> None:
    found = verdict(shop, "hard")
    assert (found["outcome"], found["passed"]) == ("fail", False)
    failed = {rule["task"] for rule in found["rules"] if rule["outcome"] == "fail"}
    assert {"sciq_local", "general_holdout"} <= failed
    (gate,) = [c for c in shop.runs["hard"].get_asset_check_evaluations() if c.check_name == "gate"]
    assert "sciq_local" in present(gate.description)
    (event,) = shop.runs["hard"].asset_materializations_for_node("evaluation")
    lost = event.metadata["forgotten"]
    assert isinstance(lost, dg.TableMetadataValue)
    assert "sciq_local" in {record.data["subject"] for record in lost.records}
    assert all(record.data["right"] != record.data["now"] for record in lost.records)


def test_the_same_rows_with_general_text_and_a_lower_rate_are_no_fail(shop: Workshop) -> None:
    found = verdict(shop, "mild")
    assert found["outcome"] != "fail", [rule["sentence"] for rule in found["rules"]]
    assert general_loss(shop, "mild") < general_loss(shop, "hard") - 0.2
