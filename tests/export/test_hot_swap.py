"""Adapters that share one base in memory answer as each does alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import hot_swap as module
from benchmarks.hot_swap import hot_swap
from tests.export.exports import MakeAdapter

pytestmark = pytest.mark.slow

PROMPTS = [[5, 7, 11, 200], [31, 11, 9], [300, 7]]


def test_adapters_of_other_ranks_and_layers_answer_as_alone_to_the_last_bit(
    tiny_model_folder: Path, make_adapter: MakeAdapter
) -> None:
    adapters = {
        "acme.support": make_adapter(name="one", scale=0.2),
        "acme.sales": make_adapter(name="two", scale=0.3, r=7, target_modules=["q_proj", "up_proj"]),
        "bank.faq": make_adapter(name="three", scale=0.1, use_dora=True),
        "bank.tokens": make_adapter(name="four", scale=0.1, trainable_token_indices=[7, 11]),
    }
    swapped = hot_swap(tiny_model_folder, adapters, PROMPTS)

    assert [one.name for one in swapped] == list(adapters)
    assert all(one.answers_equal == 1 for one in swapped)
    assert all(one.max_logit_difference == 0 for one in swapped)
    assert all(one.switched == len(PROMPTS) for one in swapped)
    assert all(0 < one.switch_seconds < one.reload_seconds for one in swapped)


def test_adapters_above_one_quantized_base_answer_as_alone(
    bf16_base: Path, make_adapter: MakeAdapter
) -> None:
    adapters = {name: make_adapter(bf16_base, name=name, scale=0.2) for name in ("one", "two")}
    swapped = hot_swap(bf16_base, adapters, PROMPTS, quantization="nf4")
    assert {(one.answers_equal, one.max_logit_difference) for one in swapped} == {(1.0, 0.0)}


def test_a_switch_that_is_forgotten_shows(
    tiny_model_folder: Path, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import PeftModel

    def nothing(*_given: Any, **_named: Any) -> None:
        return None

    together = module._together

    def stuck(*given: Any) -> Any:
        model = together(*given)
        monkeypatch.setattr(PeftModel, "set_adapter", nothing)
        return model

    monkeypatch.setattr(module, "_together", stuck)
    adapters = {
        "one": make_adapter(name="one", scale=0.5),
        "two": make_adapter(name="two", scale=0.9, r=7),
    }
    stayed, forgotten = hot_swap(tiny_model_folder, adapters, PROMPTS)
    assert stayed.max_logit_difference == 0
    assert forgotten.max_logit_difference > 0.01
