"""A plain LoRA layer that is only asked: the trained layer's answer to the bit, whatever is asked of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import Linear
from torch import nn

from ft_dagster.evaluation.models.lora_layers import PlainLinear, plain_lora_layers
from ft_dagster.training.methods.low_rank import in_one_piece

pytestmark = pytest.mark.slow


def model_of(dtype: torch.dtype = torch.bfloat16, **settings: Any) -> Any:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(24, 40), nn.Linear(40, 24, bias=False)).to(dtype)
    asked = {"target_modules": ["0", "1"], "r": 4, "lora_alpha": 6, "lora_dropout": 0.5, **settings}
    model = get_peft_model(base, LoraConfig(**asked), autocast_adapter_dtype=False)
    for weight in model.parameters():
        weight.data.normal_()
    return model.eval()


def answers(model: Any, dtype: torch.dtype) -> list[torch.Tensor]:
    """With the adapter, and without."""
    torch.manual_seed(1)
    x = torch.randn(3, 7, 24, dtype=dtype)
    with torch.inference_mode():
        found = [model(x)]
        with model.disable_adapter():
            found.append(model(x))
    return found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_it_answers_as_the_layer_that_was_trained_to_the_bit_and_as_pefts_to_rounding(
    dtype: torch.dtype,
) -> None:
    model = model_of(dtype)
    theirs = answers(model, dtype)
    in_one_piece(model)
    trained = answers(model, dtype)
    for layer in model.modules():
        if isinstance(layer, Linear):
            layer.__class__ = Linear
    plain_lora_layers(model)
    assert sum(type(layer) is PlainLinear for layer in model.modules()) == 2
    mine = answers(model, dtype)
    assert all(map(torch.equal, mine, trained))
    assert torch.equal(mine[1], theirs[1])
    assert (mine[0] - theirs[0]).float().norm() < 0.02 * theirs[0].float().norm()
    assert not torch.equal(*mine)


def test_an_adapter_with_a_bias_answers_as_pefts_layer_to_the_bit() -> None:
    model = model_of(lora_bias=True, target_modules=["0"])
    theirs = answers(model, torch.bfloat16)
    plain_lora_layers(model)
    assert all(map(torch.equal, answers(model, torch.bfloat16), theirs))


def test_where_it_would_drop_or_add_more_it_is_pefts() -> None:
    model = model_of(torch.float32)
    model.add_adapter("other", LoraConfig(target_modules=["0"], r=2, lora_alpha=4))
    model.base_model.set_adapter(["default", "other"])
    theirs = answers(model, torch.float32)
    plain_lora_layers(model)
    assert all(map(torch.equal, answers(model, torch.float32), theirs))
    x = torch.randn(1, 5, 24)
    assert not torch.equal(model.train()(x), model(x))  # which drops


def test_a_layer_that_does_more_stays_pefts_own() -> None:
    model = model_of(torch.float32, use_dora=True)
    plain_lora_layers(model)
    assert not any(isinstance(layer, PlainLinear) for layer in model.modules())
