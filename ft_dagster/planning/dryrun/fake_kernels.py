"""Stands in for kernels that need their device in a dry run: the same storages, none of the arithmetic.

Quantized layers as bitsandbytes 0.50 runs them; attention and output head as a GPU does. Imported only where
torch is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel, masking_utils

from ft_dagster.fake_tensors import FakeTensor
from ft_dagster.methods.method import Quantization
from ft_dagster.training.batches import attention as packed_attention

FUSED = "ft_dagster_fused"
NF4_BLOCK, NF4_SUPERBLOCK = 64, 256  # weights of a scale, scales of a scale of scales


class QuantizedLinear(nn.Linear):
    """Is a frozen linear layer whose weight lies packed, and is whole only while it is multiplied.

    nf4: half a byte a weight, a byte for 64 weights and 4 bytes for 64 x 256 (double quantization); int8: a
    byte a weight and 4 bytes a row.
    """

    def __init__(self, layer: nn.Linear, kind: Quantization, compute: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias = layer.in_features, layer.out_features, layer.bias
        self.kind, self.compute = kind, compute
        weights = self.in_features * self.out_features
        for name, size, dtype in _packed(kind, weights, self.out_features):
            self.register_buffer(name, torch.empty(size, dtype=dtype, device=layer.weight.device))

    @property
    def weight(self) -> torch.Tensor:
        """Return the weight, unpacked again at each use, as bitsandbytes does."""
        return self.unpacked(self.compute)

    def unpacked(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the whole weight, [out, in]."""
        return torch.empty(self.out_features, self.in_features, dtype=dtype, device=self.packed.device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply: Linear4bit computes in bf16, hands on the input's type, and PEFT copies what it gives;
        Linear8bitLt computes in the input's type.
        """
        if self.kind == "int8":
            return _Unpacking.apply(x, self)
        return _Unpacking.apply(x.to(self.compute), self).to(x.dtype).clone()


class _Unpacking(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: QuantizedLinear) -> torch.Tensor:
        ctx.layer = layer
        if layer.kind == "int8":
            ctx.input = x  # MatMul8bitLt keeps it, though the weight is not trained
        bias = None if layer.bias is None else layer.bias.to(x.dtype)
        return nn.functional.linear(x, layer.unpacked(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        return grad @ ctx.layer.unpacked(grad.dtype), None


def _packed(kind: Quantization, weights: int, rows: int) -> list[tuple[str, int, torch.dtype]]:
    if kind == "int8":
        return [("packed", weights, torch.uint8), ("scales", rows, torch.float32)]
    scales = math.ceil(weights / NF4_BLOCK)
    return [
        ("packed", math.ceil(weights / 2), torch.uint8),
        ("scales", scales, torch.uint8),
        ("scales_of_scales", math.ceil(scales / NF4_SUPERBLOCK), torch.float32),
    ]


def quantize(model: Any, kind: Quantization, compute: torch.dtype) -> Any:
    """Pack the linear layers as transformers does, all but the output head."""
    head = model.get_output_embeddings()
    for name, layer in list(model.named_modules()):
        if type(layer) is nn.Linear and layer is not head:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, QuantizedLinear(layer, kind, compute))
    return model


@contextmanager
def _replaced(owner: Any, name: str, made: Any) -> Iterator[None]:
    """Put something in place of a function of a module or class within this context."""
    real = getattr(owner, name)
    setattr(owner, name, made)
    try:
        yield
    finally:
        setattr(owner, name, real)


@contextmanager
def gpu_attention() -> Iterator[None]:
    """Make attention of fake tensors hold what flash and memory-efficient kernels do: no scores.

    Kept for backward: queries, keys, values, the mask in their type, the output, a normalizer of fp32 a row.
    Backward sums the queries' gradient in fp32, and a key's over the heads that share it. Kernels over the
    examples of a row hold the same.
    """
    real, real_kernel = nn.functional.scaled_dot_product_attention, packed_attention.variable_length_kernel

    def attention(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any, **named: Any
    ) -> Any:
        if not isinstance(query, FakeTensor):  # of another thread
            return real(query, key, value, *rest, **named)
        mask = named.get("attn_mask", rest[0] if rest else None)
        query, key, value = map(_autocast, (query, key, value))
        if mask is not None and mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=query.dtype)
        return _Flash.apply(query, key, value, mask)

    def kernel_for(query: torch.Tensor, value: torch.Tensor) -> Any:
        return _by_example if isinstance(query, FakeTensor) else real_kernel(query, value)

    with (
        _replaced(nn.functional, "scaled_dot_product_attention", attention),
        _replaced(packed_attention, "variable_length_kernel", kernel_for),
    ):
        yield


def _fused(
    _module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, _mask: Any, **_: Any
) -> tuple[torch.Tensor, None]:
    """Attend as a kernel would that a class has none of: causally, [rows, heads, positions, size] each."""
    found = nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, enable_gqa=query.shape[1] != key.shape[1]
    )
    return found.transpose(1, 2), None


AttentionInterface.register(FUSED, _fused)


def _autocast(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else x


def _by_example(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any) -> torch.Tensor:
    """Attend over [positions, heads, size] each."""
    given = (_autocast(x).transpose(0, 1)[None] for x in (query, key, value))
    found: torch.Tensor = _Flash.apply(*given, None)
    return found[0].transpose(0, 1)


def fake_positions() -> AbstractContextManager[None]:
    """Make transformers take positions as those of rows of several examples, whose values it cannot see."""
    real = masking_utils.is_tracing

    def traced(tensor: Any = None) -> bool:
        return isinstance(tensor, FakeTensor) or bool(real(tensor))

    return _replaced(masking_utils, "is_tracing", traced)


def unseen_padding() -> AbstractContextManager[None]:
    """Keep GPT-2's class and others from looking for padding to warn of, among tokens without a value."""
    return _replaced(PreTrainedModel, "warn_if_padding_and_no_attention_mask", lambda *_: None)


def unpacked_rows() -> AbstractContextManager[None]:
    """Make transformers take rows as one example each, which it sees by the values of positions: attention
    needs no mask.
    """
    real = masking_utils.find_packed_sequence_indices

    def found(position_ids: torch.Tensor) -> Any:
        return None if isinstance(position_ids, FakeTensor) else real(position_ids)

    return _replaced(masking_utils, "find_packed_sequence_indices", found)


class _Flash(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any) -> Any:
        out = query.new_empty((*query.shape[:-1], value.shape[-1]))
        normalizer = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, mask, out, normalizer)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        query, key, value, _, _, normalizer = ctx.saved_tensors
        sums = torch.empty_like(query, dtype=torch.float32), torch.empty_like(normalizer)
        shared = query.shape[1] // key.shape[1]
        spread = [torch.empty_like(x.repeat(1, shared, 1, 1)) for x in (key, value)] if shared > 1 else []
        found = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None
        del sums, spread
        return found


class TiledHead(torch.autograd.Function):
    """Stands in for TRL's fused output head: log-probabilities [positions] of hidden states [positions,
    hidden], in tiles.

    Kept for backward: the hidden states. Gradients are summed in fp32.
    """

    POSITIONS, WORDS = (
        4096,
        32768,
    )  # trl.kernels.chunked_logprob.TOKEN_CHUNK_SIZE, _CHUNKED_LOGPROB_CHUNK_SIZE

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, compute: torch.dtype) -> torch.Tensor:
        ctx.save_for_backward(hidden, weight)
        ctx.compute = compute
        statistics = hidden.new_empty((9, hidden.shape[0]), dtype=torch.float32)
        TiledHead._tile(hidden, weight, compute)
        return statistics[0].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        hidden, weight = ctx.saved_tensors
        sums = [
            torch.empty_like(x, dtype=torch.float32) if needed else None
            for x, needed in zip((hidden, weight), ctx.needs_input_grad, strict=False)
        ]
        TiledHead._tile(hidden, weight, ctx.compute)
        typed = zip(sums, (hidden, weight), strict=True)
        return *(None if x is None else x.to(like.dtype) for x, like in typed), None

    @staticmethod
    def _tile(hidden: torch.Tensor, weight: torch.Tensor, compute: torch.dtype) -> None:
        rows = hidden[: TiledHead.POSITIONS].to(compute)
        words = weight[: TiledHead.WORDS].to(compute)
        tile = rows.new_empty((rows.shape[0], words.shape[0]))
        del rows, words, tile
