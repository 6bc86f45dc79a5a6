"""Objectives for real: rows become a mixture, it is trained on, and its metric says what was learned."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.data.mixture.mixture import MixtureParts, build_mixture
from ft_dagster.data.rows.dataset import build_task_dataset
from ft_dagster.evaluation.__main__ import main as evaluate
from ft_dagster.gate.gates import judge
from ft_dagster.gate.samples import read_aggregates, read_answers, read_samples
from ft_dagster.spec.variant import GatesSpec, VariantSpec
from ft_dagster.training.__main__ import main as train
from tests.evaluation.questions import write_run
from tests.training.runs import TRAINING, Runs, result_of

pytestmark = pytest.mark.slow

PLACES = ["harbour", "north gate", "old tower", "market square", "garden", "bridge"]
TOPICS = {
    "billing": ["the invoice is wrong", "I paid twice", "the amount is too high"],
    "delivery": ["the parcel is late", "nothing has arrived", "the driver was not here"],
    "account": ["I cannot log in", "my password is lost", "the name is misspelt"],
}


@pytest.fixture
def prepare(tmp_path: Path, tiny_model_folder: Path) -> Any:
    """Rows -> the runs over their mixture; the data set is in `tmp_path / rows`."""

    def made(rows: list[dict[str, str]], **declared: Any) -> Runs:
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        spec = VariantSpec.model_validate(
            {
                "description": "x",
                "owners": ["me"],
                "base_model": "base",
                "data": {"sources": ["rows.jsonl"], "splits": {"validation": 0.2, "minimum": 4}},
                **declared,
            }
        )
        dataset, mixture = tmp_path / "rows", tmp_path / "mixture"
        dataset.mkdir()
        mixture.mkdir()
        build_task_dataset(spec, tmp_path, [], dataset)
        build_mixture(spec, MixtureParts(dataset, tiny_model_folder), 48, mixture)
        return Runs(tmp_path, tiny_model_folder, mixture)

    return made


def test_documents_are_learned_from_packed_chunks(prepare: Any) -> None:
    places = [[PLACES[(i + k) % 6] for k in range(12)] for i in range(50)]
    documents = [
        {"text": f"Report {i}. " + " ".join(f"The ship left the {place} at noon." for place in each)}
        for i, each in enumerate(places)
    ]
    runs = prepare(documents, objective="domain_knowledge", method="full", export="merged")
    chunks = json.loads((runs.mixture / "mixture.json").read_text())["splits"]["train"]
    assert chunks["examples"] > 2 * chunks["documents"]
    training = {"packing": True, "max_length": 128, "learning_rate": 3e-3}
    run = runs.prepare(method={"name": "full"}, training=training)
    assert train([str(run)]) == 0
    figures = result_of(run)["figures"]
    assert figures["steps"] < training_steps(chunks["examples"]) / 1.8
    assert figures["validation_loss_best"] < 0.5 * figures["validation_loss_first"]


def test_labels_are_learned_and_judged_by_exact_match(
    prepare: Any, tmp_path: Path, tiny_model_folder: Path
) -> None:
    rows = [
        {"messages": [asked(f"Case {i}: {said}"), {"role": "assistant", "content": label}]}
        for i in range(24)
        for label, sayings in TOPICS.items()
        for said in sayings
    ]
    runs = prepare(rows, objective="task_specific", evaluation={"kind": "label"})
    training = {"learning_rate": 3e-3, "num_train_epochs": 4.0}
    run = runs.prepare(method={"name": "full"}, training=training)
    assert train([str(run)]) == 0
    own = {"test": tmp_path / "rows" / "test.parquet", "max_new_tokens": 16, "kind": "label"}
    outputs = []
    for name, weights in (("base", None), ("tuned", run / "acme.support" / "payload")):
        folder = write_run(tmp_path / name, tiny_model_folder, tuned=weights, test_split_task=own)
        assert evaluate(folder) == 0
        outputs.append(folder / "output")
    base, tuned = outputs
    verdict = judge(read_samples(base / "payload"), read_samples(tuned / "payload"), GatesSpec())
    assert [rule.metric for rule in verdict.rules] == ["exact_match"]
    assert verdict.rules[0].base < 0.1
    assert verdict.rules[0].tuned > 0.9
    f1 = {score.metric: score.value for score in read_aggregates(tuned / "payload")}
    assert f1 == {"macro_f1": pytest.approx(1.0, abs=0.1), "micro_f1": pytest.approx(1.0, abs=0.1)}
    labels = json.loads((tuned / "evidence" / "labels.json").read_text())["labels"]
    assert {label["label"] for label in labels} == set(TOPICS)
    # Room for 16 tokens, and one word is said: the answer ends with its turn.
    said = {answer.answered for answer in read_answers(tuned / "evidence")} - {""}
    assert set(TOPICS) <= said
    assert all(len(words.split()) == 1 for words in said)


def asked(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def training_steps(examples: int) -> int:
    """Optimizer steps of a training that does not pack."""
    rows = TRAINING["per_device_train_batch_size"] * TRAINING["gradient_accumulation_steps"]
    return math.ceil(TRAINING["num_train_epochs"] * examples / rows)
