"""Attention by example: equal to transformers' own over a mask, in every architecture it is taken for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig

from ft_dagster.evaluation.models.attention import PLAIN
from ft_dagster.training.batches.attention import (
    ENDS,
    LENGTHS,
    NAME,
    applies,
    attention,
    ends_of,
    given,
    packed,
    squares,
)
from ft_dagster.training.batches.attention import _by_example as by_example
from ft_dagster.training.batches.attention_blocks import BlockAttention, blocks_of
from tests.training.batches.small_models import SIZES, model_of

ROWS = [[7, 12, 5], [20], []]  # the last is an empty bin
WIDTH = 24


def batch_of(rows: list[list[int]] = ROWS, width: int = WIDTH) -> dict[str, Any]:
    """As a Collator makes it."""
    torch.manual_seed(1)
    positions = [[*(i for n in row for i in range(n)), *range(width - sum(row))] for row in rows]
    return {
        "input_ids": torch.randint(3, 300, (len(rows), width)),
        "position_ids": torch.tensor(positions),
        ENDS: torch.tensor(ends_of(rows, width), dtype=torch.int32),
        LENGTHS: rows,
    }


def masked_batch() -> dict[str, Any]:
    """The same, of which transformers makes a mask."""
    return {name: values for name, values in batch_of().items() if name not in (ENDS, LENGTHS)}


def logits(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    found: torch.Tensor = model(
        input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False, **given(batch)
    ).logits
    return found


def read(values: torch.Tensor, rows: list[list[int]] = ROWS) -> torch.Tensor:
    """Without padding."""
    return torch.cat([row[: sum(lengths)] for row, lengths in zip(values, rows, strict=True)])


def gradients(model: Any, values: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    torch.manual_seed(2)
    (read(values) * torch.randn_like(read(values))).sum().backward()
    return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(PLAIN))
def test_it_equals_the_masked_one_forward_and_backward(kind: str) -> None:
    model = model_of(kind)
    masked = logits(model, masked_batch())
    expected = gradients(model, masked)
    batch = batch_of()
    with packed(model, batch):
        assert model.config._attn_implementation == NAME
        by_example = logits(model, batch)
        found = gradients(model, by_example)
    assert model.config._attn_implementation == "sdpa"
    torch.testing.assert_close(read(by_example), read(masked), atol=1e-5, rtol=1e-4)
    assert len(found) == len(expected) > 10
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_it_equals_the_masked_one_where_layers_are_recomputed_in_the_backward_pass() -> None:
    model = model_of("llama").train()
    expected = gradients(model, logits(model, masked_batch()))
    model.gradient_checkpointing_enable({"use_reentrant": False})
    batch = batch_of()
    with packed(model, batch):
        found = gradients(model, logits(model, batch))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that was made under it."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.elements = max(self.elements, out.untyped_storage().nbytes() // out.element_size())
        return out


@pytest.mark.parametrize("by_example", [True, False])
def test_nothing_of_a_rows_squared_width_is_made(by_example: bool) -> None:
    model, rows, width = model_of("llama", vocab_size=64), [[32] * 16], 512
    batch = {**batch_of(rows, width), "input_ids": torch.full((1, width), 5)}
    with Largest() as largest, packed(model, batch, off=not by_example):
        logits(model, batch).sum().backward()
    assert (largest.elements < width**2) == by_example


@pytest.mark.parametrize(
    ("kind", "changes", "longest", "expected"),
    [
        ("llama", {}, 10_000, True),
        ("mistral", {"sliding_window": 12}, 12, True),
        ("mistral", {"sliding_window": 11}, 12, False),
        ("mistral", {"sliding_window": None}, 12, True),
        ("qwen2", {"sliding_window": 11, "use_sliding_window": False}, 12, True),
        ("qwen2", {"sliding_window": 11, "use_sliding_window": True, "max_window_layers": 1}, 12, False),
        ("gemma2", {}, 12, False),  # caps its scores
        ("gemma3_text", {}, 12, False),
        ("gpt2", {}, 12, False),
    ],
)
def test_it_is_taken_where_each_layer_attends_to_all_that_comes_before(
    kind: str, changes: dict[str, Any], longest: int, expected: bool
) -> None:
    config = AutoConfig.for_model(kind, **{**SIZES, **changes})
    assert applies(config, longest) == expected


def test_a_window_below_the_longest_example_keeps_transformers_own_mask() -> None:
    model, batch = model_of("mistral", sliding_window=6), batch_of()
    expected = logits(model, masked_batch())
    with packed(model, batch):
        assert model.config._attn_implementation == "sdpa"
        assert not given(batch)
        assert torch.equal(logits(model, batch), expected)
    assert squares(batch) == len(ROWS) * WIDTH**2


def test_squares_are_those_of_the_examples() -> None:
    model, batch = model_of("llama"), batch_of()
    with packed(model, batch):
        assert squares(batch) == 7**2 + 12**2 + 5**2 + 20**2


def test_padding_is_a_segment_of_its_own() -> None:
    assert ends_of(ROWS, WIDTH) == [0, 7, 19, 24, 44, 48, 72]


def test_what_is_more_than_causal_attention_is_refused() -> None:
    x = torch.zeros(1, 2, 4, 8)
    ends = torch.tensor([0, 4])
    for more in ({"attention_mask": torch.zeros(4, 4)}, {"attention_mask": None, "softcap": 50.0}):
        with pytest.raises(ValueError, match="more than causal attention"):
            attention(torch.nn.Module(), x, x, x, example_lengths=[[4]], segment_ends=ends, **more)


def attended(
    dtype: torch.dtype, lengths: list[int], heads: tuple[int, int], *, blocks: bool
) -> list[torch.Tensor]:
    """Output and gradients, of rows of which the last positions are padding, by blocks or by torch's own."""
    generator = torch.Generator().manual_seed(0)
    width = sum(lengths) + 3
    drawn = [torch.randn(each, width, 16, generator=generator) for each in (heads[0], heads[1], heads[1])]
    inputs = [x.to(dtype).requires_grad_() for x in drawn]
    if blocks:
        out = BlockAttention.apply(*inputs, blocks_of([lengths], width), 0.25)
    else:
        out = by_example(inputs, [lengths], width, scale=0.25, dropout_p=0.0)
    weights = torch.randn(width, heads[0], 16, generator=generator)
    (out.float() * weights)[: sum(lengths)].sum().backward()
    return [out.detach()[: sum(lengths)], *(x.grad for x in inputs if x.grad is not None)]


LENGTHS_OF_BLOCKS = [[5, 127, 1], [128, 129], [300]]


@pytest.mark.parametrize("heads", [(4, 4), (6, 2)])
@pytest.mark.parametrize("lengths", LENGTHS_OF_BLOCKS)
def test_blocks_equal_torchs_own_kernel(lengths: list[int], heads: tuple[int, int]) -> None:
    mine, theirs = (attended(torch.float32, lengths, heads, blocks=blocks) for blocks in (True, False))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("lengths", LENGTHS_OF_BLOCKS)
def test_blocks_in_bf16_are_near_the_exact_attention(lengths: list[int]) -> None:
    exact = attended(torch.float32, lengths, (6, 2), blocks=False)
    for one, other in zip(attended(torch.bfloat16, lengths, (6, 2), blocks=True), exact, strict=True):
        assert (one.float() - other).norm() < 0.01 * other.norm()


def test_in_bf16_a_model_attends_by_blocks_and_nearly_as_with_a_mask() -> None:
    model = model_of("llama").to(torch.bfloat16)
    masked, batch = read(logits(model, masked_batch())).float(), batch_of()
    with packed(model, batch):
        by_blocks = read(logits(model, batch)).float()
    assert 0 < (by_blocks - masked).norm() < 0.02 * masked.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_of_padding_alone_gives_gradients_of_zero(dtype: torch.dtype) -> None:
    """A rank that has no example left must still take part where the ranks add their gradients up."""
    x = torch.randn(1, 2, 4, 8, dtype=dtype, requires_grad=True)
    ends = torch.tensor(ends_of([[]], 4), dtype=torch.int32)
    found, _ = attention(torch.nn.Module(), x, x, x, None, example_lengths=[[]], segment_ends=ends)
    (found * 0).sum().backward()
    assert x.grad is not None
    assert not x.grad.any()
