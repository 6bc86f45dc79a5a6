"""Tensors that hold nothing, against torch's FakeTensorMode and against real ones."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ft_dagster.fake_tensors import FakeMode, storage_of
from ft_dagster.planning.dryrun import footprint as dryrun
from ft_dagster.planning.dryrun import training_step
from ft_dagster.planning.dryrun.step import Step
from ft_dagster.training.contract import method_settings
from tests.long import mostly_long
from tests.training.runs import LORA

SIZES = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 500,
}  # fmt: skip
QWEN3 = {"model_type": "qwen3", "head_dim": 16}
GEMMA3 = {"model_type": "gemma3_text", "head_dim": 16}
FULL = {"name": "full"}
STEP = Step(rows=2, length=48, trained_positions=24)


def test_what_nothing_refers_to_is_gone_at_once() -> None:
    """Else the tracker would count it: no cycle may wait for the collector."""
    gc.disable()
    try:
        with FakeMode():
            given = torch.zeros(3, requires_grad=True)
            left = weakref.ref(storage_of(made := (given * 2).exp()))
            made.sum().backward()
            del made
            assert left() is None
    finally:
        gc.enable()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "method"),
    mostly_long(
        [({}, FULL), ({}, LORA), ({}, {**LORA, "name": "qlora"}), (QWEN3, LORA), (GEMMA3, FULL)], every=2
    ),
    ids=["llama-full", "llama-lora", "llama-qlora", "qwen3-lora", "gemma3-full"],
)
@pytest.mark.parametrize(
    "step",
    mostly_long(
        [STEP, Step(2, 48, 24, gradient_checkpointing=True, gradient_accumulation_steps=2, device="cuda")],
        every=2,
    ),
    ids=["cpu", "cuda"],
)
def test_a_step_holds_what_it_holds_of_torchs_own_fake_tensors(
    tmp_path: Path, monkeypatch: Any, changes: dict[str, Any], method: dict[str, Any], step: Step
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**SIZES, **changes}))
    found = dryrun.footprint(tmp_path, method_settings(method), step).moments
    dryrun.kept.clear()
    peer = FakeTensorMode(allow_non_fake_inputs=True)
    monkeypatch.setattr(training_step, "FakeMode", lambda: peer)
    monkeypatch.setattr(training_step, "make_fake", lambda model: _fake(model, peer))
    monkeypatch.setattr("ft_dagster.planning.dryrun.fake_kernels.FakeTensor", torch._subclasses.FakeTensor)
    wanted = dryrun.footprint(tmp_path, method_settings(method), step).moments
    dryrun.kept.clear()
    assert found == wanted


def _fake(model: nn.Module, mode: FakeTensorMode) -> None:
    """Fake CPU tensors in the place of meta ones."""
    made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and id(tensor) not in made:
                    with mode:
                        empty = torch.empty(tensor.shape, dtype=tensor.dtype)
                    if isinstance(tensor, nn.Parameter):
                        empty = nn.Parameter(empty, requires_grad=tensor.requires_grad)
                    made[id(tensor)] = empty, tensor
                if tensor is not None:
                    tensors[name] = made[id(tensor)][0]
