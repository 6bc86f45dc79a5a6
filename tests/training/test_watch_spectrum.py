"""The spectrum of a LoRA update: against torch's own, planted and random ones, and the words about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ft_dagster.training.watch.spectrum import Layer, advice, collapsed, singular_values, spectrum, summary

RANK = 16


def lora(base: Path, **settings: Any) -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=32, target_modules="all-linear", **settings)
    return get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)


def plant(model: Any, rank: int, adapter: str = "default") -> None:
    """Give each layer an update of this rank with equal singular values 3."""
    for module in model.modules():
        if adapter in getattr(module, "lora_A", ()):
            a, b = module.lora_A[adapter].weight, module.lora_B[adapter].weight
            right = torch.linalg.qr(torch.randn(a.shape[1], rank)).Q.T
            left = torch.linalg.qr(torch.randn(b.shape[0], rank)).Q
            mixed = torch.linalg.qr(torch.randn(RANK, RANK)).Q[:, :rank]  # spread over all rows of A
            a.data, b.data = mixed @ right, 3 / module.scaling[adapter] * left @ mixed.T


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"use_dora": True}])
def test_a_planted_update_of_rank_2_reads_as_effective_rank_2(
    tiny_model_folder: Path, settings: dict[str, Any]
) -> None:
    model = lora(tiny_model_folder, **settings)
    plant(model, 2)
    layers = spectrum(model)
    assert len(layers) == 14  # two blocks of seven
    for layer in layers:
        assert layer.effective_rank == pytest.approx(2, abs=0.01)
        assert layer.used_ranks == 2
        assert layer.values[:2] == pytest.approx([3, 3], rel=1e-4)
    assert advice(summary(layers)) == ["rank collapse: the updates use about 2 of 16 ranks: try rank 2"]


def test_the_rank_to_try_is_in_units_of_the_plan_where_a_start_was_taken_out() -> None:
    equal = Layer("q_proj", 32, (3.0, 3.0, *(0.0,) * 30), times=2)
    said = "rank collapse: the updates use about 2 of 32 ranks (2 times the plan's, for what it began at is"
    (line,) = advice(summary([equal]))
    assert line.startswith(said)
    assert line.endswith("try rank 1")
    (line,) = advice(summary([Layer("q_proj", 32, (3.0,) * 32, times=2)]))
    assert line.endswith("try 32")


def test_unequal_values_count_by_their_share() -> None:
    values = singular_values(torch.eye(2, 40), torch.eye(30, 2) @ torch.diag(torch.tensor([1.0, 5.0])), 2.0)
    layer = Layer("q_proj", 2, tuple(values))
    assert values == pytest.approx([10, 2])
    assert layer.effective_rank == pytest.approx(6 * 5 ** (-5 / 6))  # exp of the entropy of 5/6 and 1/6
    assert layer.used_ranks == 2
    assert layer.condition == pytest.approx(5)


def test_the_values_are_those_of_the_whole_product() -> None:
    torch.manual_seed(1)
    for rank, wide, tall in ((16, 64, 128), (8, 300, 20), (16, 12, 200), (1, 5, 7)):
        a, b = torch.randn(rank, wide), torch.randn(tall, rank)
        values = singular_values(a, b, -0.7)
        expected = torch.linalg.svdvals(0.7 * b.double() @ a.double())[: len(values)]
        assert torch.tensor(values) == pytest.approx(expected.float(), rel=1e-4, abs=1e-4)


def test_random_full_rank_factors_read_as_flat(tiny_model_folder: Path) -> None:
    model = lora(tiny_model_folder)
    plant(model, RANK)
    said = summary(spectrum(model))
    assert said["effective_rank"] == pytest.approx(RANK, rel=1e-3)
    assert advice(said) == ["flat spectrum: all 16 singular values are alike: rank may be too small, try 32"]


def test_values_that_fall_off_within_the_rank_need_no_advice(tiny_model_folder: Path) -> None:
    model = lora(tiny_model_folder)
    plant(model, RANK)
    for module in model.modules():
        if "default" in getattr(module, "lora_A", ()):
            steps = torch.diag(0.8 ** torch.arange(RANK, dtype=torch.float32))
            module.lora_A["default"].weight.data = steps @ module.lora_A["default"].weight
    said = summary(spectrum(model))
    assert not collapsed(said)
    assert advice(said) == []


def test_an_untrained_adapter_is_not_judged(tiny_model_folder: Path) -> None:
    said = summary(spectrum(lora(tiny_model_folder)))
    assert said == {"layers": 0}
    assert advice(said) == []
    assert not collapsed(said)


def test_only_the_trained_adapter_of_a_stack_counts(tiny_model_folder: Path) -> None:
    from peft import LoraConfig

    model = lora(tiny_model_folder)
    model.add_adapter(
        "new", LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=32, target_modules=["q_proj"])
    )
    model.base_model.set_adapter(["default", "new"])
    plant(model, 5)
    plant(model, 2, "new")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".new." in name)
    layers = spectrum(model)
    assert [layer.name for layer in layers] == [f"model.layers.{n}.self_attn.q_proj" for n in range(2)]
    assert all(layer.effective_rank == pytest.approx(2, abs=0.01) for layer in layers)


def test_weights_given_by_name_are_read_instead_of_the_models_own(tiny_model_folder: Path) -> None:
    model = lora(tiny_model_folder)
    plant(model, 3)
    whole = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    plant(model, 7)
    assert summary(spectrum(model, whole))["effective_rank"] == pytest.approx(3, abs=0.01)


def test_a_model_without_lora_has_no_spectrum(tiny_model_folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    assert spectrum(AutoModelForCausalLM.from_pretrained(tiny_model_folder)) == []
