"""A LoRA layer in one piece: PEFT's own sums, whatever is asked of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import Linear
from torch import nn

from ft_dagster.training.methods import low_rank
from ft_dagster.training.methods.low_rank import LowRankLinear, in_one_piece

pytestmark = pytest.mark.slow

Found = tuple[torch.Tensor, list[torch.Tensor]]


def model_of(dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    """One frozen linear layer in `dtype` with an fp32 adapter that already says something."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(24, 40)).to(dtype)
    model = get_peft_model(base, LoraConfig(target_modules=["0"], r=4, lora_alpha=8, **settings))
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = torch.randn_like(weight, dtype=torch.float32)
    return model.train()


def layer_of(model: Any) -> Any:
    return next(module for module in model.modules() if isinstance(module, Linear))


def found(model: Any, dtype: torch.dtype = torch.float32) -> Found:
    """The output, and the gradients of input and adapter."""
    torch.manual_seed(1)
    x = torch.randn(2, 50, 24, dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        out = model(x)
    model.zero_grad()
    (out * torch.linspace(-1, 1, 40)).sum().backward()
    trained = [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]
    assert x.grad is not None
    return out.detach(), [x.grad, *trained]


def assert_close(one: Found, other: Found, **tolerance: float) -> None:
    torch.testing.assert_close(one[0], other[0], **tolerance)
    assert len(one[1]) == len(other[1])
    for mine, theirs in zip(one[1], other[1], strict=True):
        assert mine.dtype == theirs.dtype
        torch.testing.assert_close(mine, theirs, **tolerance)


@pytest.mark.parametrize("bias", [True, False])
def test_it_equals_pefts_layer_forward_and_backward(bias: bool) -> None:
    model = model_of()
    if not bias:
        layer_of(model).base_layer.bias = None
    theirs = found(model)
    in_one_piece(model)
    assert type(layer_of(model)) is LowRankLinear
    assert_close(found(model), theirs, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_gradients_it_gives_the_same_to_the_bit(dtype: torch.dtype) -> None:
    model = model_of(dtype)
    in_one_piece(model)
    out, _ = found(model, dtype)
    torch.manual_seed(1)
    x = torch.randn(2, 50, 24, dtype=dtype)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        assert torch.equal(model(x), out)


def test_in_bf16_it_is_as_near_to_the_exact_layer_as_pefts() -> None:
    model, exact = model_of(torch.bfloat16), model_of()
    exact.load_state_dict(model.state_dict())
    wanted, theirs = found(exact), found(model, torch.bfloat16)
    in_one_piece(model)
    mine = found(model, torch.bfloat16)
    assert mine[0].dtype == theirs[0].dtype == torch.bfloat16
    for ours, other, right in zip(
        [mine[0], *mine[1]], [theirs[0], *theirs[1]], [wanted[0], *wanted[1]], strict=True
    ):
        assert (ours.float() - right).norm() < 1.5 * (other.float() - right).norm() + 1e-3 * right.norm()


def test_dropout_drops_its_share_scales_the_rest_and_follows_the_seed() -> None:
    model = model_of(lora_dropout=0.25)
    in_one_piece(model)
    layer = layer_of(model)
    layer.base_layer.weight.data.zero_()
    layer.base_layer.bias.data.zero_()
    layer.lora_A["default"].weight.data = torch.eye(4, 24)
    layer.lora_B["default"].weight.data = torch.eye(40, 4)
    torch.manual_seed(5)
    out = model(torch.ones(5000, 24))[:, :4] / layer.scaling["default"]
    values, counts = out.unique(return_counts=True)
    torch.testing.assert_close(values, torch.tensor([0.0, 4 / 3]))
    assert counts[0].item() / counts.sum().item() == pytest.approx(0.25, abs=0.01)
    torch.manual_seed(5)
    again = model(torch.ones(5000, 24))[:, :4] / layer.scaling["default"]
    assert torch.equal(again, out)
    assert not torch.equal(model(torch.ones(5000, 24))[:, :4] / layer.scaling["default"], out)


def test_the_gradient_goes_where_the_input_was_kept() -> None:
    """Against autograd's own over the mask that was drawn."""
    model = model_of(lora_dropout=0.5)
    in_one_piece(model)
    mine = found(model)
    layer = layer_of(model)
    a, b, s = layer.lora_A["default"].weight, layer.lora_B["default"].weight, layer.scaling["default"]
    torch.manual_seed(1)
    x = torch.randn(2, 50, 24, requires_grad=True)
    kept = low_rank._kept(x.detach().reshape(-1, 24), 0.5).view(x.shape).neg() / 0.5
    out = layer.base_layer(x) + ((x * kept) @ a.T @ b.T) * s
    model.zero_grad()
    (out * torch.linspace(-1, 1, 40)).sum().backward()
    assert x.grad is not None
    assert_close(mine, (out.detach(), [x.grad, a.grad, b.grad]), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_mask_of_bits_keeps_numbers_whole_or_gives_zero(dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    x = torch.randn(64, 24, dtype=dtype)
    kept = low_rank._kept(x, 0.3)
    assert set(kept.unique().tolist()) == {-1, 0}
    assert torch.equal(low_rank._masked(x, kept), torch.where(kept == -1, x, torch.zeros_like(x)))


def test_dropout_keeps_one_byte_a_number_for_the_backward_pass() -> None:
    model = model_of(torch.bfloat16, lora_dropout=0.05)
    in_one_piece(model)
    sizes: dict[torch.dtype, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape == (100, 24):
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + 1
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        found(model, torch.bfloat16)
    assert sizes == {torch.bfloat16: 1, torch.int8: 1}


def without_it(model: Any) -> None:
    model.disable_adapter_layers()


def with_two(model: Any) -> None:
    model.add_adapter("other", LoraConfig(target_modules=["0"], r=2, init_lora_weights=False))
    model.base_model.set_adapter(["default", "other"])


def merged(model: Any) -> None:
    model.merge_adapter()


@pytest.mark.parametrize("change", [without_it, with_two, merged])
def test_what_is_more_than_one_lora_is_left_to_peft(change: Callable[[Any], None]) -> None:
    outputs = []
    for ours in (False, True):
        model = model_of()
        if ours:
            in_one_piece(model)
        torch.manual_seed(3)
        change(model)
        outputs.append(model(torch.linspace(-1, 1, 48).view(2, 24)))
    assert torch.equal(*outputs)


def test_dora_stays_pefts() -> None:
    model = model_of(use_dora=True)
    in_one_piece(model)
    assert type(layer_of(model)) is Linear
