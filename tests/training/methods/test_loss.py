"""The loss at trained positions is the full one, for every method, and no row is felt by another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from ft_dagster.training.batches.attention import ENDS, LENGTHS, packed
from ft_dagster.training.loss import learned_prompt
from tests.long import mostly_long
from tests.training.methods.taught import METHODS, prepared, trainer_of
from tests.training.runs import Runs, write_mixture

pytestmark = pytest.mark.slow

ROWS = 4
TOLERANCE = {"lora_8bit": 1e-4}  # activations are rounded to 8 bits: the last digit may tip one over


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Runs:
    folder = tmp_path_factory.mktemp("loss")
    return Runs(folder, tiny_model_folder, write_mixture(folder / "mixture"))


@pytest.fixture(
    scope="module", params=mostly_long(METHODS, ["lora", "qlora", "prompt_tuning", "prefix_tuning"])
)
def trainer(request: pytest.FixtureRequest, runs: Runs) -> Any:
    """Of padded rows of unequal length, with an adapter that already says something."""
    training = {"packing": False, "per_device_train_batch_size": ROWS}
    _, trainer = trainer_of(prepared(runs, request.param, request.param, training=training))
    torch.manual_seed(7)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    trainer.model.eval()
    trainer.tolerance = TOLERANCE.get(request.param, 1e-5)
    return trainer


def batches(trainer: Any) -> list[dict[str, Any]]:
    found = list(trainer.get_train_dataloader())
    for batch in found:
        del batch["ordinals"], batch["content"]
    return found


def loss(trainer: Any, batch: dict[str, Any]) -> float:
    """Summed over the trained tokens, as a step attends to them."""
    batch, prompt = dict(batch), learned_prompt(trainer.model) is not None
    with torch.no_grad(), packed(trainer.model, batch, off=prompt):
        return trainer.compute_loss(trainer.model, batch, num_items_in_batch=1).item()


def row(batch: dict[str, Any], number: int) -> dict[str, Any]:
    """One example of the batch without its padding."""
    length = int((batch["labels"][number] != -100).nonzero().max()) + 1
    names = ("input_ids", "labels", "position_ids")
    alone = {name: batch[name][number : number + 1, :length] for name in names}
    return {**alone, LENGTHS: [[length]], ENDS: torch.tensor([0, length], dtype=torch.int32)}


def full_loss(trainer: Any, example: dict[str, Any]) -> float:
    """From all logits of the model's own forward, without the positions put in front."""
    ids, labels = example["input_ids"], example["labels"]
    with torch.no_grad():
        logits = trainer.model(input_ids=ids).logits[0, -ids.shape[1] :].float()
    return cross_entropy(logits[:-1], labels[0, 1:], reduction="sum").item()


def test_it_equals_the_full_computation_of_each_example_alone(trainer: Any) -> None:
    for batch in batches(trainer):
        rows = range(len(batch["labels"]))
        expected = sum(full_loss(trainer, row(batch, number)) for number in rows)
        tokens = int((batch["labels"] != -100).sum())
        assert loss(trainer, batch) / tokens == pytest.approx(expected / tokens, abs=trainer.tolerance)


def test_the_rows_are_of_unequal_length(trainer: Any) -> None:
    lengths = {row(batch, n)["labels"].shape[1] for batch in batches(trainer) for n in range(ROWS - 1)}
    assert len(lengths) > 5


def test_an_examples_loss_is_the_same_alone_and_in_its_batch(trainer: Any) -> None:
    """The others' labels taken away, but not the others."""
    batch = batches(trainer)[0]
    for number in range(ROWS):
        labels = torch.full_like(batch["labels"], -100)
        labels[number] = batch["labels"][number]
        together = loss(trainer, {**batch, "labels": labels})
        tokens = int((labels != -100).sum())
        alone = loss(trainer, row(batch, number))
        assert together / tokens == pytest.approx(alone / tokens, abs=trainer.tolerance)


def test_what_stands_in_padding_is_not_felt(trainer: Any) -> None:
    batch = batches(trainer)[0]
    other = {**batch, "input_ids": batch["input_ids"].clone()}
    for number in range(ROWS):
        length = row(batch, number)["labels"].shape[1]
        other["input_ids"][number, length:] = 77
    assert not torch.equal(other["input_ids"], batch["input_ids"])
    assert loss(trainer, other) == loss(trainer, batch)


def test_a_batch_without_trained_tokens_adds_nothing(trainer: Any) -> None:
    batch = batches(trainer)[0]
    batch["labels"].fill_(-100)
    trainer.model.zero_grad()
    value = trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(7))
    value.backward()
    gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
    assert value.item() == 0.0
    assert not any(gradient.any() for gradient in gradients)
