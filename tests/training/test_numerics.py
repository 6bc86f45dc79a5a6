"""On a GPU, kernels that add in a fixed order and products that are not rounded; a CPU is left as it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from ft_dagster.spec.training import TrainingSettings
from ft_dagster.training import __main__ as trainer
from ft_dagster.training import numerics
from ft_dagster.training.batches import attention
from ft_dagster.training.contract import Member, read_run, recipe_digest
from tests.training.runs import TRAINING, Runs


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    filled = torch.utils.deterministic.fill_uninitialized_memory
    precision = torch.get_float32_matmul_precision()
    convolutions = torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = filled
    torch.set_float32_matmul_precision(precision)


def member(runs: Runs, kind: str, **training: Any) -> Member:
    one = read_run(runs.prepare(training=training)).members[0]
    device = one.plan.device.model_copy(update={"kind": kind})
    return one.model_copy(update={"plan": one.plan.model_copy(update={"device": device})})


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_training_on_a_gpu_takes_the_order_it_declares_and_no_tf32(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, deterministic: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    torch.set_float32_matmul_precision("high")  # as images with TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1 start
    torch.use_deterministic_algorithms(not deterministic)  # of the member before
    trainer._set_up_device(member(runs, "cuda", deterministic=deterministic))
    assert torch.are_deterministic_algorithms_enabled() is deterministic
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.allow_tf32


def test_a_training_on_a_cpu_leaves_torch_as_it_is(runs: Runs) -> None:
    trainer._set_up_device(member(runs, "cpu"))
    assert not torch.are_deterministic_algorithms_enabled()


def test_cublas_finds_its_workspace_set_unless_somebody_chose_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for useless in (None, "", ":0:0"):
        monkeypatch.delenv(numerics.WORKSPACE, raising=False)
        if useless is not None:
            monkeypatch.setenv(numerics.WORKSPACE, useless)
        numerics.set_cublas_workspace()
        assert os.environ[numerics.WORKSPACE] == ":4096:8"
    monkeypatch.setenv(numerics.WORKSPACE, ":16:8")
    numerics.set_cublas_workspace()
    assert os.environ[numerics.WORKSPACE] == ":16:8"


@pytest.mark.parametrize("deterministic", [True, False])
def test_flash_attn_is_told_whether_the_order_is_fixed(
    monkeypatch: pytest.MonkeyPatch, deterministic: bool
) -> None:
    told: dict[str, Any] = {}

    class Module:
        @staticmethod
        def flash_attn_varlen_func(*_given: Any, **named: Any) -> None:
            told.update(named)

    monkeypatch.setitem(__import__("sys").modules, "flash_attn", Module)
    torch.use_deterministic_algorithms(deterministic)
    attention._flash_attn(None, None, None, None, 8, None)
    assert (told["deterministic"], told["causal"]) == (deterministic, True)


def test_the_usual_order_is_no_part_of_a_plans_bytes_and_another_is_another_training(runs: Runs) -> None:
    usual = TrainingSettings.model_validate(TRAINING)
    assert "deterministic" not in usual.model_dump(mode="json")
    free = usual.model_copy(update={"deterministic": False})
    assert TrainingSettings.model_validate(free.model_dump(mode="json")) == free
    run = read_run(runs.prepare())
    one = run.members[0]
    other = one.model_copy(update={"plan": one.plan.model_copy(update={"training": free})})
    assert recipe_digest(run, one) != recipe_digest(run, other)
