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

from ft_dagster.fake_tensors import FakeMode, FakeTensor, make_fake, storage_of
from ft_dagster.planning.dryrun import footprint as dryrun
from ft_dagster.planning.dryrun import training_step
from ft_dagster.planning.dryrun.step import Step
from ft_dagster.training.contract import method_settings
from tests.training.runs import LORA

SIZES = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 500,
}  # fmt: skip
QWEN3 = {"model_type": "qwen3", "head_dim": 16}
GEMMA3 = {"model_type": "gemma3_text", "head_dim": 16}
FULL = {"name": "full"}
STEP = Step(rows=2, length=48, trained_positions=24)


def test_views_lie_where_the_whole_lies() -> None:
    with FakeMode():
        whole = torch.zeros(6, 4)
        parts = [whole[1:], whole.t(), whole.view(24), whole.detach(), *whole.chunk(2), whole.expand(6, 4)]
        assert all(storage_of(part) is storage_of(whole) for part in parts)
        assert storage_of(whole.clone()) is not storage_of(whole)
        assert storage_of(whole.t().reshape(24)) is not storage_of(whole)


def test_what_is_changed_in_place_is_the_very_tensor() -> None:
    with FakeMode():
        first, second = torch.zeros(3), torch.ones(3)
        assert first.add_(1) is first
        torch._foreach_mul_([first, second], 2.0)
        assert isinstance(first, FakeTensor)
        assert storage_of(first).nbytes() == 12


def test_it_holds_nothing_and_is_on_the_cpu() -> None:
    with FakeMode():
        made = torch.randn(2, 3)
        assert isinstance(made, FakeTensor)
        assert made.device == torch.device("cpu")
        assert isinstance(made @ torch.ones(3), FakeTensor)
        assert made.storage_offset() == 0
    with pytest.raises(RuntimeError):
        made.sum().item()


def test_a_number_is_a_number() -> None:
    """The steps that AdamW counts are read by it."""
    with FakeMode():
        steps = torch.tensor(0.0)
        steps += 1
        assert steps.item() == 1.0
        assert isinstance(steps * torch.ones(2), FakeTensor)


def test_the_same_operation_is_told_apart_by_all_that_goes_in() -> None:
    with FakeMode():
        whole = torch.ones(2, 3, dtype=torch.long)
        found = [(whole * 2).dtype, (whole * 2.0).dtype, (whole * 2).dtype, (whole == 1).dtype]
        assert found == [torch.int64, torch.float32, torch.int64, torch.bool]
        assert (torch.ones(2, 3) * 2).stride() == (3, 1)
        assert (torch.ones(3, 2).t() * 2).stride() == (1, 2)


def test_autocast_computes_in_bf16() -> None:
    layer = nn.Linear(4, 4, device="meta")
    make_fake(layer)
    with FakeMode(), torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.zeros(1, 4)).dtype == torch.bfloat16


def test_what_is_shared_stays_shared() -> None:
    model = nn.ModuleDict({"in": nn.Embedding(5, 4, device="meta"), "out": nn.Linear(4, 5, device="meta")})
    model["out"].weight = model["in"].weight
    make_fake(model)
    assert model["out"].weight is model["in"].weight
    assert isinstance(model["out"].weight, nn.Parameter)
    assert len({id(weight) for weight in model.parameters()}) == 2


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
    [({}, FULL), ({}, LORA), ({}, {**LORA, "name": "qlora"}), (QWEN3, LORA), (GEMMA3, FULL)],
    ids=["llama-full", "llama-lora", "llama-qlora", "qwen3-lora", "gemma3-full"],
)
@pytest.mark.parametrize(
    "step",
    [STEP, Step(2, 48, 24, gradient_checkpointing=True, gradient_accumulation_steps=2, device="cuda")],
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
