"""A beginning computed once gives the gradients of examples that each have it, in each architecture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from ft_dagster.errors import UserError
from ft_dagster.evaluation.models.attention import PLAIN
from ft_dagster.methods import method_of
from ft_dagster.spec.training import TrainingSettings
from ft_dagster.training.batches.attention import AFTER, TIMES, packed, squares
from ft_dagster.training.batches.batches import Collator
from ft_dagster.training.batches.mixture import Examples
from ft_dagster.training.batches.sharing import refuse_sharing
from ft_dagster.training.loss import loss_at_trained_positions
from tests.training.batches.made_examples import examples_of
from tests.training.batches.small_models import SIZES, model_of
from tests.training.runs import LORA, TRAINING

pytestmark = pytest.mark.slow
EXPERTS = {kind for kind in PLAIN if "moe" in kind or kind == "mixtral"}  # a router's choice may turn over
ROWS = [[0, 1, 2, 6], [3, 4], [5]]


def mixed() -> Examples:
    """Three that begin alike, trained there in part; two alike otherwise; two alone."""
    random = np.random.RandomState(0)
    one, other = (random.randint(5, 290, n).tolist() for n in (30, 20))
    own = [random.randint(5, 290, n).tolist() for n in (6, 9, 3, 8, 4, 12, 5)]
    rows = [one + own[0], one + own[1], one + own[2], other + own[3], other + own[4], own[5], own[6]]
    starts = (1, 25, 33, 20, 12, 2, 1)
    return examples_of(rows, [[start, len(row)] for start, row in zip(starts, rows, strict=True)])


def gradient(model: Any, examples: Examples) -> tuple[float, torch.Tensor, dict[str, Any]]:
    """Of the mean loss over these rows: the loss, the gradient of all weights in one, and the batch."""
    batch = Collator(examples, 0, 256)([{"bin": ordinals} for ordinals in ROWS])
    model.zero_grad()
    with packed(model, batch):
        loss = loss_at_trained_positions(model, batch, examples.trained_tokens)
        loss.backward()
    found = [weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]
    return loss.item(), torch.cat(found), batch


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one - other).norm() / other.norm()).item()


@pytest.mark.parametrize("frozen_head", [False, True])
@pytest.mark.parametrize("kind", sorted(PLAIN - EXPERTS))
def test_gradients_are_those_of_examples_that_are_computed_whole(kind: str, frozen_head: bool) -> None:
    model = model_of(kind, tie_word_embeddings=False).train()
    model.get_output_embeddings().requires_grad_(not frozen_head)
    expected, whole, plain = gradient(model, mixed())
    loss, shared, batch = gradient(model, mixed().sharing(256))
    assert AFTER in batch
    assert TIMES in batch
    assert batch["input_ids"].numel() < plain["input_ids"].numel()
    assert squares(batch) < squares(plain)
    assert loss == pytest.approx(expected, rel=1e-6)
    assert apart(shared, whole) < 1e-6


def test_it_would_tell_if_examples_did_not_see_their_beginning() -> None:
    model = model_of("llama").train()
    _, whole, _ = gradient(model, mixed())
    batch = Collator(mixed().sharing(256), 0, 256)([{"bin": ordinals} for ordinals in ROWS])
    del batch[AFTER]
    model.zero_grad()
    with packed(model, batch):
        loss_at_trained_positions(model, batch, mixed().trained_tokens).backward()
    assert apart(torch.cat([weight.grad.flatten() for weight in model.parameters()]), whole) > 0.01


def test_gradients_are_the_same_where_layers_are_recomputed() -> None:
    model = model_of("llama").train()
    _, whole, _ = gradient(model, mixed().sharing(256))
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert torch.equal(gradient(model, mixed().sharing(256))[1], whole)


def test_in_bf16_it_is_as_near_as_rounding_lets_it_be() -> None:
    model = model_of("llama").train()
    _, exact, _ = gradient(model, mixed())
    with torch.autocast("cpu", torch.bfloat16):
        _, whole, _ = gradient(model, mixed())
        _, shared, _ = gradient(model, mixed().sharing(256))
    assert apart(shared, exact) < 2 * apart(whole, exact)


def refusal(
    kind: str = "llama",
    *,
    method: dict[str, Any] | None = None,
    device: str = "cpu",
    packing: bool = True,
    longest: int = 40,
    **changes: Any,
) -> str | None:
    """Why it is refused; None where it is not."""
    said = {**TRAINING, "packing": packing, "share_beginnings": "on"}
    given = {**LORA, "dropout": 0.0, **(method or {})}
    settings = method_of(given["name"]).settings
    known = {name: value for name, value in given.items() if name in settings.model_fields}
    config = AutoConfig.for_model(kind, **{**SIZES, **changes})
    training = TrainingSettings.model_validate(said)
    try:
        refuse_sharing(training, settings.model_validate(known), config, device, longest)
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"method": {"dropout": 0.1}}, "dropout"),
        ({"attention_dropout": 0.1}, "attention_dropout: 0.1"),
        ({"packing": False}, "not packed"),
        ({"method": {"name": "prompt_tuning"}}, "not packed"),
        ({"method": {"name": "lora_8bit"}}, "lora_8bit"),
        ({"device": "cuda"}, "GPU"),
        ({"kind": "mistral", "sliding_window": 30}, "window"),
        ({"kind": "gemma2"}, "cap on scores"),
        ({"kind": "lfm2"}, "state"),
        ({"kind": "qwen3_moe"}, "router"),
        ({"kind": "gpt2"}, "tested"),
    ],
)
def test_it_is_refused_in_a_line_where_it_would_be_another_training(said: dict[str, Any], why: str) -> None:
    found = refusal(**said)
    assert found is not None
    assert why in found
    assert "\n" not in found


@pytest.mark.parametrize(
    "said", [{}, {"kind": "mistral", "sliding_window": 40}, {"method": {"name": "qlora"}}]
)
def test_it_is_taken_where_it_holds(said: dict[str, Any]) -> None:
    assert refusal(**said) is None
