"""A plain LoRA layer that is only asked: PEFT's own answer to the bit, whatever is asked of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from ft_dagster.evaluation.lora_layers import PlainLinear, plain_lora_layers

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
@pytest.mark.parametrize("lora_bias", [False, True])
def test_it_answers_as_pefts_layer_to_the_bit(dtype: torch.dtype, lora_bias: bool) -> None:
    targets = ["0"] if lora_bias else ["0", "1"]
    model = model_of(dtype, lora_bias=lora_bias, target_modules=targets)
    theirs = answers(model, dtype)
    plain_lora_layers(model)
    assert sum(type(layer) is PlainLinear for layer in model.modules()) == len(targets)
    mine = answers(model, dtype)
    assert all(map(torch.equal, mine, theirs))
    assert not torch.equal(*mine)


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
