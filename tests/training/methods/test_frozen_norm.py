"""A frozen RMS norm in one piece: transformers' own output and gradient, with less kept for it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from ft_dagster.training.methods.frozen_norm import norms_in_one_piece

pytestmark = pytest.mark.slow

SIZE = 48


def frozen(kind: Any, dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    norm = kind(SIZE, eps=1e-5).to(dtype)
    nn.init.normal_(norm.weight, mean=1.0)
    return norm.requires_grad_(False)


def found(norm: Any, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    x = torch.randn(2, 30, SIZE, dtype=dtype, requires_grad=True)
    out = norm(x)
    (out * torch.linspace(-1, 1, SIZE)).sum().backward()
    assert x.grad is not None
    return out.detach(), x.grad


@pytest.mark.parametrize("kind", [LlamaRMSNorm, MistralRMSNorm, Qwen2RMSNorm])
def test_it_equals_transformers_own_forward_and_backward(kind: Any) -> None:
    norm = frozen(kind, torch.float32)
    theirs = found(norm, torch.float32)
    norms_in_one_piece(norm)
    mine = found(norm, torch.float32)
    assert torch.equal(mine[0], theirs[0])
    torch.testing.assert_close(mine[1], theirs[1], atol=1e-6, rtol=1e-5)


def test_in_bf16_it_is_as_near_to_the_exact_norm_as_transformers() -> None:
    norm = frozen(LlamaRMSNorm, torch.bfloat16)
    wanted = found(copy.deepcopy(norm).float(), torch.float32)
    theirs = found(norm, torch.bfloat16)
    norms_in_one_piece(norm)
    mine = found(norm, torch.bfloat16)
    assert torch.equal(mine[0], theirs[0])
    assert (mine[1].float() - wanted[1]).norm() < 1.1 * (theirs[1].float() - wanted[1]).norm()


def test_of_its_input_nothing_is_kept_in_fp32() -> None:
    norm, kept = frozen(LlamaRMSNorm, torch.bfloat16), []
    norms_in_one_piece(norm)

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append((tuple(tensor.shape), tensor.dtype))
        return tensor

    x = torch.randn(2, 30, SIZE, dtype=torch.bfloat16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        norm(x)
    wide = [shape for shape, dtype in kept if dtype == torch.float32]
    assert wide == [(2, 30, 1)]


def test_a_norm_that_is_trained_or_computes_otherwise_stays_as_it_is() -> None:
    trained = LlamaRMSNorm(SIZE)
    gemma = frozen(GemmaRMSNorm, torch.float32)
    for norm in (trained, gemma):
        norms_in_one_piece(norm)
        assert "forward" not in norm.__dict__
