"""Computes attention over packed examples: one causal product for each example, and never a mask of a whole
row.

An attention of transformers' AttentionInterface under a name of its own. AttentionMaskInterface does not know
that name, and so transformers makes no mask and does not look for one on the device. The examples' lengths
come from the host with the batch, through the model's own forward (`given`). Imported only where torch is.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch.nn import functional
from transformers import AttentionInterface
from transformers.masking_utils import create_masks_for_generate

from ft_dagster.evaluation.models.attention import PLAIN
from ft_dagster.training.batches.attention_blocks import BlockAttention, blocks_of
from ft_dagster.training.batches.beginnings import pairs
from ft_dagster.training.batches.bounds import in_one_row, reads_bounds

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Kernel = Callable[..., torch.Tensor]
Batch: TypeAlias = dict[str, Any]  # of a Collator: tensors by name, and what the host knows of them

NAME = "ft_dagster_packed"
LENGTHS, ENDS, MASK = "example_lengths", "segment_ends", "attention_mask"
AFTER, TIMES = "part_after", "label_times"  # where examples share a beginning
BOUNDS = ("seq_idx", "cu_seq_lens_q")  # that kernels of layers with a state read
FLASH_CAPABILITY, FLASH_SIZE = (8, 0), 256  # what variable-length kernels ask of a GPU, and of a head
WINDOWED = {"full_attention", "sliding_attention"}


def ends_of(lengths: Sequence[Sequence[int]], width: int) -> list[int]:
    """Return where each example and each row's padding ends, in rows of `width` laid end to end; a 0 before
    them.
    """
    ends = [0]
    for row, examples in enumerate(lengths):
        for length in (*examples, width * (row + 1) - ends[-1] - sum(examples)):
            if length:
                ends.append(ends[-1] + length)
    return ends


def applies(config: PreTrainedConfig, longest: int) -> bool:
    """Say whether every layer attends to all that comes before, in examples of at most `longest` tokens."""
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ())
    if text.model_type not in PLAIN or not kinds <= WINDOWED:
        return False
    window = getattr(text, "sliding_window", None)
    return kinds == {"full_attention"} or window is None or longest <= window


def attends_by_example(config: PreTrainedConfig, *, packs: bool) -> Callable[[int], bool]:
    """Return a function that says whether a training attends by example, where the longest has so many
    tokens. `packs`: of its method.
    """
    return lambda longest: packs and applies(config, longest)


@contextmanager
def packed(model: Any, batch: MutableMapping[str, Any], *, off: bool = False) -> Iterator[None]:
    """Make `model` attend by example to the `batch` of a Collator within this context, if it can.

    The backward pass belongs within it too: recomputed layers attend again. Where it does not apply, or is
    `off`, the batch loses what only this attention reads, and transformers makes its mask from the positions;
    where attention is eager it is made here, since some classes leave the positions out of theirs.
    """
    config = model.config
    longest = _longest(batch)
    applied = not off and config._attn_implementation == "sdpa" and applies(config, longest)
    if AFTER in batch and not applied:
        raise ValueError(
            f"{type(model).__name__} does not attend by example: it computes no part for several"
        )
    if off or LENGTHS not in batch or config._attn_implementation != "sdpa" or not applies(config, longest):
        lengths, ends = (batch.pop(name, None) for name in (LENGTHS, ENDS))
        several = not off and lengths is not None and any(len(examples) > 1 for examples in lengths)
        if several and reads_bounds(config):
            batch.update(in_one_row(batch, ends))
        del lengths, ends
        if not off and config._attn_implementation == "eager" and _has_masks_by_kind(config):
            batch[MASK] = _masks(model, batch)
        yield
        for name in (MASK, *BOUNDS):
            batch.pop(name, None)
        return
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"


def _has_masks_by_kind(config: PreTrainedConfig) -> bool:
    """Say whether a class takes its masks ready made, by the kinds of its layers."""
    kinds = set(getattr(config.get_text_config(), "layer_types", None) or ())
    return bool(kinds) and kinds <= WINDOWED


def _masks(model: Any, batch: MutableMapping[str, Any]) -> Any:
    """Return the masks of a row's examples by kind of layer, as transformers makes them from positions."""
    weight, ids = model.get_input_embeddings().weight, batch["input_ids"]
    like = torch.empty(*ids.shape, 1, dtype=weight.dtype, device=ids.device)
    return create_masks_for_generate(model.config, like, None, None, batch["position_ids"])


def _longest(batch: MutableMapping[str, Any]) -> int:
    """Return the most positions that one attends over: a part's, and of what it goes on from."""
    rows = batch.get(LENGTHS, ())
    after = batch.get(AFTER) or [[-1] * len(row) for row in rows]
    reached = (
        n + (row[a] if a >= 0 else 0)
        for row, begun in zip(rows, after, strict=True)
        for n, a in zip(row, begun, strict=True)
    )
    return max(reached, default=0)


def squares(batch: MutableMapping[str, Any]) -> int:
    """Sum the squared lengths of what attends to itself: examples, or whole rows where there is a mask; the
    pairs of `beginnings.pairs` where parts go on from others.
    """
    if AFTER in batch:
        return sum(pairs(row, after) for row, after in zip(batch[LENGTHS], batch[AFTER], strict=True))
    if LENGTHS in batch:
        return sum(length**2 for row in batch[LENGTHS] for length in row)
    rows, width = batch["input_ids"].shape
    return rows * width**2


def given(batch: MutableMapping[str, Any]) -> dict[str, object]:
    """Return what a model's forward hands on to its attention."""
    return {name: batch[name] for name in (LENGTHS, ENDS, AFTER, MASK, *BOUNDS) if name in batch}


def attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    example_lengths: Sequence[Sequence[int]],
    segment_ends: torch.Tensor,
    part_after: Sequence[Sequence[int]] | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attend by example over [rows, heads, positions, size] each; return [rows, positions, heads, size],
    nothing meant in padding.

    `example_lengths`: of each row, in order; what is left of a row is padding. `segment_ends`: of `ends_of`,
    int32, on the device. `part_after`: the part of its row that each goes on from, whose keys it sees too, or
    -1; None: all stand by themselves (else on a CPU alone, without dropout). `options`: of transformers' own;
    `scaling`, `dropout` and `softcap` count.
    """
    scaling, dropout = options.get("scaling"), options.get("dropout", 0.0)
    if attention_mask is not None or options.get("softcap") is not None:
        raise ValueError(f"{type(module).__name__} asks for more than causal attention")
    rows, heads, width, _size = query.shape
    flat = [x.transpose(0, 1).reshape(x.shape[1], rows * width, x.shape[3]) for x in (query, key, value)]
    kernel = variable_length_kernel(query, value) if dropout == 0 else None
    if part_after is not None and (query.device.type != "cpu" or dropout):
        raise ValueError("a beginning in common is computed once on a CPU alone, and without dropout")
    if kernel:
        longest = max((length for row in example_lengths for length in (*row, width - sum(row))), default=0)
        out = kernel(*(x.transpose(0, 1) for x in flat), segment_ends, longest, scaling)
    elif part_after is not None or (
        query.device.type == "cpu" and _dtype(query) == torch.bfloat16 and dropout == 0
    ):
        typed = (x.to(_dtype(query)) for x in flat)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        out = BlockAttention.apply(*typed, blocks_of(example_lengths, width, part_after), scale)
    else:
        out = _by_example(flat, example_lengths, width, scale=scaling, dropout_p=dropout)
    return out.view(rows, width, heads, -1), None


def _by_example(
    given: Sequence[torch.Tensor], lengths: Sequence[Sequence[int]], width: int, **options: Any
) -> torch.Tensor:
    """Attend over query, key and value, [heads, positions, size] each; return [positions, heads, size]. Split
    and joined once, and so does the backward pass, the other way round.
    """
    sizes = [size for row in lengths for size in (*row, width - sum(row))]
    only_padding = not any(lengths)  # attended to: each rank's parameters want a gradient, if one of 0
    padding = [
        is_padding and not only_padding for row in lengths for is_padding in (*(False for _ in row), True)
    ]
    parts = zip(*(x.unsqueeze(0).split(sizes, dim=2) for x in given), padding, strict=True)
    shared = given[0].shape[0] != given[1].shape[0]
    found = []
    for q, k, v, unread in parts:
        if unread:
            found.append(v.new_zeros(q.shape[2], q.shape[1], v.shape[3]))
        else:
            product = functional.scaled_dot_product_attention(
                q, k, v, is_causal=True, enable_gqa=shared, **options
            )
            found.append(product.squeeze(0).transpose(0, 1))
    return torch.cat(found)


def variable_length_kernel(query: torch.Tensor, value: torch.Tensor) -> Kernel | None:
    """Return a kernel of (query, key, value, ends, longest, scaling), of [positions, heads, size] each; None
    where this device, type or size has none.
    """
    if query.device.type != "cuda" or query.shape[-1] != value.shape[-1] or query.shape[-1] > FLASH_SIZE:
        return None
    dtype = _dtype(query)
    if dtype == torch.float32 or torch.cuda.get_device_capability(query.device) < FLASH_CAPABILITY:
        return None
    kernel = installed_kernel()
    return _in(dtype, kernel) if kernel else None


def _dtype(x: torch.Tensor) -> torch.dtype:
    """Return the type in which `x` is multiplied."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


@cache
def installed_kernel() -> Kernel | None:
    """Return torch's own kernel, of a version that takes a window and shared heads, or flash-attn's, where
    that loads.
    """
    if importlib.util.find_spec("torch.nn.attention.varlen"):
        from torch.nn.attention.varlen import varlen_attn

        if {"window_size", "enable_gqa"} <= set(inspect.signature(varlen_attn).parameters):
            return _torchs
    try:
        from flash_attn import flash_attn_varlen_func  # noqa: F401
    except ImportError:  # not there, or built for another torch
        return None
    return _flash_attn


def _in(dtype: torch.dtype, kernel: Kernel) -> Kernel:
    """Cast the inputs for a kernel: these know nothing of autocast."""

    def typed(query: Any, key: Any, value: Any, *rest: Any) -> torch.Tensor:
        return kernel(query.to(dtype), key.to(dtype), value.to(dtype), *rest)

    return typed


def _torchs(  # noqa: PLR0917
    query: Any, key: Any, value: Any, ends: Any, longest: int, scaling: float | None
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    found: torch.Tensor = varlen_attn(
        query, key, value, ends, ends, longest, longest, scale=scaling, window_size=(-1, 0), enable_gqa=True
    )
    return found


def _flash_attn(  # noqa: PLR0917
    query: Any, key: Any, value: Any, ends: Any, longest: int, scaling: float | None
) -> torch.Tensor:
    from flash_attn import flash_attn_varlen_func

    found: torch.Tensor = flash_attn_varlen_func(
        query, key, value, ends, ends, longest, longest, softmax_scale=scaling, causal=True,
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )  # fmt: skip
    return found


AttentionInterface.register(NAME, attention)
