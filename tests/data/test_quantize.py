"""4-bit layers on a CPU, unpacked once for what only looks at a model: the same bits, and none held on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ft_dagster.data import quantize
from ft_dagster.data.quantize import unpack, unpacked
from ft_dagster.evaluation.weights import let_go, load_base

pytestmark = pytest.mark.slow
IDS = torch.tensor([[5, 17, 40, 8, 3, 99, 120, 7]])


@pytest.fixture(params=["float32", "bfloat16"])
def model(request: pytest.FixtureRequest, tiny_model_folder: Path) -> Any:
    """As it is judged: `load_base` unpacks its layers."""
    return load_base(tiny_model_folder, dtype=request.param, quantization="nf4")


def eased(model: Any) -> list[Any]:
    """The layers that compute with unpacked weights."""
    return [module for module in model.modules() if "forward" in vars(module)]


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


def test_what_is_unpacked_once_computes_what_is_unpacked_at_each_call(model: Any) -> None:
    layers = eased(model)
    assert len(layers) == 7 * model.config.num_hidden_layers
    once = logits(model)
    for layer in layers:
        del layer.forward
    assert torch.equal(once, logits(model))


def test_a_look_leaves_nothing_unpacked(model: Any) -> None:
    for layer in eased(model):
        del layer.forward
    with unpacked(model):
        assert eased(model)
    assert eased(model) == []


def test_what_would_take_much_of_the_memory_stays_packed(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "UNPACKED_SHARE", 0.0)
    assert unpack(model) == []


def test_a_model_that_is_let_go_holds_no_unpacked_weights(model: Any) -> None:
    let_go(model)
    assert eased(model) == []


def test_a_plain_model_has_nothing_to_unpack(tiny_model_folder: Path) -> None:
    assert unpack(load_base(tiny_model_folder, dtype="float32")) == []
