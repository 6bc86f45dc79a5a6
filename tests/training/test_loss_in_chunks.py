"""Behind a frozen head the loss is computed a few positions at a time: the same loss, the same gradients."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from accelerate.utils import convert_outputs_to_fp32
from transformers import AutoConfig, AutoModelForCausalLM

from ft_dagster.objectives import next_token_loss
from ft_dagster.training import loss as losses
from ft_dagster.training.loss import loss_at_trained_positions, losses_by_example

pytestmark = pytest.mark.slow

VOCABULARY, ROWS, WIDTH = 300, 2, 40
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "head_dim": 8,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "n_embd": 32, "n_layer": 2, "n_head": 4,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "llama": {}, "phi": {}, "gpt2": {}, "gpt_neox": {}, "granite": {"logits_scaling": 4.0},
    "cohere": {"logit_scale": 0.25}, "gemma2": {"final_logit_softcapping": 0.5},
}  # fmt: skip
CAPPED = {"gemma2"}


@pytest.fixture(autouse=True)
def seven_positions_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a product; three of them in fp32."""
    monkeypatch.setitem(losses.LOGITS, "cpu", 7 * VOCABULARY)
    monkeypatch.setitem(losses.IN_FP32, "cpu", 3 * VOCABULARY)


def model_of(kind: str) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SIZES, **KINDS[kind])
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    return model.requires_grad_(False)


def batch() -> dict[str, Any]:
    torch.manual_seed(1)
    labels = torch.randint(3, VOCABULARY, (ROWS, WIDTH))
    labels[0, :25], labels[1, 10:] = -100, -100
    return {
        "input_ids": torch.randint(3, VOCABULARY, (ROWS, WIDTH)),
        "labels": labels,
        "position_ids": torch.arange(WIDTH).expand(ROWS, WIDTH),
    }


def of_first_layer(model: Any, *, head_trained: bool) -> tuple[float, torch.Tensor]:
    """The loss over 5 tokens, and its gradient for a weight beneath; a trained head is computed whole."""
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach(), requires_grad=head_trained)
    beneath = next(weight for name, weight in model.named_parameters() if "layers.0" in name or "h.0" in name)
    beneath.requires_grad_(True)
    beneath.grad = None
    found = loss_at_trained_positions(model, batch(), 5)
    (3 * found).backward()
    assert beneath.grad is not None
    return found.item(), beneath.grad.clone()


@pytest.mark.parametrize("kind", KINDS)
def test_it_equals_the_loss_of_all_positions_at_once(kind: str) -> None:
    model = model_of(kind)
    loss, gradient = of_first_layer(model, head_trained=False)
    whole, expected = of_first_layer(model, head_trained=True)
    assert loss == pytest.approx(whole, rel=1e-6)
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_all_logits_lie_in_memory_as_fp32_only_where_they_are_bent_after_the_head(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def note(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen.append(len(logits))
        return next_token_loss(logits, labels)

    model = model_of(kind)
    loss_at_trained_positions(model, batch(), 5, note)
    assert max(seen) <= 3 or kind in CAPPED
    assert (len(seen) == 1) == (kind in CAPPED)
    assert "forward" not in model.get_output_embeddings().__dict__


def test_without_gradients_none_are_made() -> None:
    with torch.no_grad():
        assert not loss_at_trained_positions(model_of("llama"), batch(), 5).requires_grad


def test_a_batch_without_labels_has_a_loss_of_zero() -> None:
    given = batch()
    given["labels"].fill_(-100)
    model = model_of("llama")
    model.get_input_embeddings().weight.requires_grad_(True)
    found = loss_at_trained_positions(model, given, 5)
    found.backward()
    assert found.item() == 0.0


def test_a_head_in_fp32_multiplies_in_the_type_of_autocast_as_the_model_would() -> None:
    """Such is the head of a quantized base, whose forward accelerate wraps."""
    model = model_of("llama")
    model.forward = convert_outputs_to_fp32(torch.autocast("cpu", torch.bfloat16)(model.forward))
    loss, gradient = of_first_layer(model, head_trained=False)
    whole, expected = of_first_layer(model, head_trained=True)
    assert loss == pytest.approx(whole, rel=1e-6)
    assert (gradient - expected).norm() < 0.02 * expected.norm()


def test_a_forward_that_the_head_was_given_stays() -> None:
    model = model_of("llama")
    head = model.get_output_embeddings()
    head.forward = own = partial(torch.nn.Linear.forward, head)
    loss_at_trained_positions(model, batch(), 5)
    assert head.forward is own


@pytest.mark.parametrize("kind", KINDS)
def test_each_example_of_a_packed_row_has_the_loss_that_it_adds_to_the_whole(kind: str) -> None:
    model, given, lengths = model_of(kind), batch(), [[30, 10], [4, 20]]  # the last 16 are padding
    given["labels"][1, 24:] = -100
    found = losses_by_example(model, given, lengths)
    for number, (row, begin, end) in enumerate([(0, 0, 30), (0, 30, 40), (1, 0, 4), (1, 4, 24)]):
        alone = {**given, "labels": torch.full((ROWS, WIDTH), -100)}
        alone["labels"][row, begin:end] = given["labels"][row, begin:end]
        assert found[number] == pytest.approx(loss_at_trained_positions(model, alone, 1).item(), rel=1e-5)
    assert sum(found) == pytest.approx(loss_at_trained_positions(model, given, 1).item(), rel=1e-6)
    assert min(found) > 0


def test_an_example_without_labels_has_none_of_the_loss() -> None:
    given = batch()
    given["labels"].fill_(-100)
    assert losses_by_example(model_of("llama"), given, [[20, 20], []]) == [0.0, 0.0]
