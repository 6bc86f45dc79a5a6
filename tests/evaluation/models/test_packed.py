"""Weights laid out once give the sums of plain ones, in bf16 to the bit; without room they stay plain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn.functional import linear
from transformers import AutoModelForCausalLM

from ft_dagster.evaluation.models import packed
from ft_dagster.evaluation.models.greedy import rows_of, write
from ft_dagster.evaluation.models.load import let_go
from ft_dagster.evaluation.models.model import load_model
from ft_dagster.evaluation.models.packed import Packed, pack

pytestmark = pytest.mark.slow
# Without bf16 arithmetic torch emulates it, and gives other sums by a layout: weights stay plain.
BF16: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()


def layers(dtype: torch.dtype = torch.bfloat16) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 96), nn.Linear(96, 48, bias=False)).to(dtype).eval()


def count(model: nn.Module) -> int:
    return sum(type(layer) is Packed for layer in model.modules())


@pytest.mark.parametrize("rows", [1, 3, 32, 700])
def test_the_sums_are_those_of_plain_weights_to_the_bit(rows: int) -> None:
    model = layers()
    x = torch.randn(rows, 64).bfloat16()
    with torch.inference_mode():
        plain = model(x), model(x.view(1, rows, 64))
        assert pack(model, 10**9) is BF16
        assert count(model) == 2 * BF16
        assert all(map(torch.equal, (model(x), model(x.view(1, rows, 64))), plain))


def test_the_copies_take_no_more_than_they_may() -> None:
    model = layers()
    taken = 2 * (64 * 96 + 96 * 48)
    assert not pack(model, taken - 1)
    assert count(model) == 0
    assert pack(model, taken) is BF16


def test_in_float32_the_sums_are_those_of_plain_weights_to_rounding() -> None:
    model = layers(torch.float32)
    x = torch.randn(40, 64)
    with torch.inference_mode():
        plain = model(x)
        assert pack(model, 10**9)
        torch.testing.assert_close(model(x), plain)


def test_in_float32_plain_weights_go_whatever_memory_is_free_but_for_those_that_others_have() -> None:
    model = layers(torch.float32)
    tied = nn.Embedding(96, 64)
    tied.weight = model[0].weight
    model.append(tied)
    assert pack(model, 0)
    assert [bool(layer.weight.isnan().all()) for layer in model] == [False, True, False]
    assert model[1].weight.shape == (48, 96)
    assert model[1].weight.untyped_storage().nbytes() == 4


def test_an_adapter_stays_plain() -> None:
    model = get_peft_model(layers(torch.float32), LoraConfig(target_modules=["0", "1"], r=64)).eval()
    with torch.inference_mode():
        x = torch.randn(5, 64)
        plain = model(x)
        assert pack(model, 10**9)
        torch.testing.assert_close(model(x), plain)
    assert count(model) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_that_an_adapter_computes_with_is_kept(dtype: torch.dtype) -> None:
    model = get_peft_model(
        layers(dtype),
        LoraConfig(target_modules=["0"], r=4, use_dora=True, init_lora_weights=False),
    ).eval()
    with torch.inference_mode():
        x = torch.randn(5, 64, dtype=dtype)
        plain = model(x)
        assert pack(model, 10**9) is (dtype == torch.float32 or BF16)
        torch.testing.assert_close(model(x), plain)


def test_a_head_with_trained_tokens_keeps_its_weight(tiny_model_folder: Path) -> None:
    plain = AutoModelForCausalLM.from_pretrained(tiny_model_folder, tie_word_embeddings=False)
    config = LoraConfig(r=4, trainable_token_indices={"embed_tokens": [5], "lm_head": [5]})
    model = get_peft_model(plain, config).eval()
    with torch.inference_mode():
        ids = torch.tensor([[5, 6, 7]])
        before = model(ids).logits
        assert pack(model, 10**9)
        torch.testing.assert_close(model(ids).logits, before)


def test_weights_of_another_type_stay_plain() -> None:
    assert not pack(layers(torch.float64), 10**9)


def test_a_model_that_is_let_go_holds_no_copies() -> None:
    model = layers()
    pack(model, 10**9)
    let_go(model)
    assert not any(hasattr(layer, "packed") for layer in model.modules())


def test_where_torch_lays_nothing_out_or_otherwise_they_stay_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> Any:
        raise AttributeError("no such operator")

    def only_of_many_rows(x: Any, weight: Any, bias: Any) -> Any:
        return linear(x, weight, bias) * (1.0 if len(x) < 64 else 1.01)

    model = layers()
    monkeypatch.setattr(packed, "_packed", missing)
    assert not pack(model, 10**9)
    monkeypatch.setattr(packed, "_packed", lambda weight: weight)
    monkeypatch.setattr(packed, "_product", only_of_many_rows)
    assert not pack(model, 10**9)
    assert count(model) == 0


def test_weights_that_are_not_numbers_stay_plain() -> None:
    model = layers(torch.float32)
    model[0].weight.data[0, 0] = torch.nan
    assert not pack(model, 10**9)


def test_a_model_that_is_judged_in_bf16_writes_as_without(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ft_dagster.evaluation.models import model as judged

    def answers() -> tuple[int, list[list[int]]]:
        model, _ = load_model(tiny_model_folder, None, device="cpu", dtype="bfloat16")
        return count(model), [
            each.tokens for each in write(model, rows_of([[5, 6, 7], [9, 8]], new_tokens=12, ends=()))
        ]

    packed_layers, mine = answers()
    monkeypatch.setattr(judged, "spare_memory", lambda: 0)
    assert (packed_layers > 0) is BF16
    assert answers() == (0, mine)
