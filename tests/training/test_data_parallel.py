"""Copies on several ranks: missing gradients are looked for where some may be, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from ft_dagster.training.contract import Base, method_settings
from ft_dagster.training.data_parallel import may_be_unused
from ft_dagster.training.loss import loss_at_trained_positions
from ft_dagster.training.methods import taught_by


class Model:
    def __init__(self, config: Any) -> None:
        self.config = config


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("llama", False), ("qwen3", False), ("mixtral", True), ("qwen3_moe", True), ("gemma3", True)],
)
def test_experts_and_parts_that_read_no_text_may_go_without_a_gradient(kind: str, expected: bool) -> None:
    assert may_be_unused(Model(AutoConfig.for_model(kind))) is expected


@pytest.mark.slow
@pytest.mark.parametrize("labelled", [True, False], ids=["labels", "padding alone"])
@pytest.mark.parametrize("name", ["full", "lora", "prompt_tuning", "prefix_tuning"])
def test_every_trained_weight_gets_a_gradient_by_each_method(
    tiny_model_folder: Path, name: str, labelled: bool
) -> None:
    import torch

    method = taught_by(method_settings({"name": name}))
    model: Any = method.build(Base(folder=tiny_model_folder, digest="b"), "fp32", 0)
    ids = torch.arange(10, 22).view(1, 12)
    labels = ids.clone() if labelled else torch.full_like(ids, -100)
    batch = {"input_ids": ids, "labels": labels, "position_ids": torch.arange(12).view(1, 12)}
    loss_at_trained_positions(model, batch, 1).backward()
    trained = {each: weight for each, weight in model.named_parameters() if weight.requires_grad}
    assert trained
    assert [each for each, weight in trained.items() if weight.grad is None] == []
