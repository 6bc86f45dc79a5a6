"""Attention in blocks of a model that is only asked: as near to exact attention as torch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoConfig, AutoModelForCausalLM

from ft_dagster.evaluation.models.attention import NAME, PLAIN, QUERIES, attend_in_blocks, attention
from ft_dagster.evaluation.models.scoring import ScoringRow, _apart

pytestmark = pytest.mark.slow
SIZES: dict[str, Any] = {
    "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "head_dim": 8,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


class Module(torch.nn.Module):
    """What an attention asks of its layer."""

    num_key_value_groups, is_causal = 3, True


def given(count: int, dtype: torch.dtype = torch.bfloat16) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(count)
    key, value = torch.randn(2, 2, 2, count, 16, dtype=dtype)
    return torch.randn(2, 6, count, 16, dtype=dtype), key, value


def exact(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    keys, values = (x.repeat_interleave(3, 1).double() for x in (key, value))
    wider = None if mask is None else mask.double()
    found = scaled_dot_product_attention(query.double(), keys, values, wider, is_causal=mask is None)
    return found.transpose(1, 2)


def mask_of(count: int) -> torch.Tensor:
    """Additive: each row of the batch sees what comes before in its own part alone."""
    part = torch.arange(count) // torch.tensor([[7], [count]])
    seen = (part[:, :, None] == part[:, None, :]) & torch.ones(count, count, dtype=torch.bool).tril()
    return torch.zeros(2, 1, count, count).masked_fill(~seen[:, None], torch.finfo(torch.bfloat16).min)


@pytest.mark.parametrize("count", [2, 40, QUERIES, QUERIES + 1, 3 * QUERIES - 5])
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_exact_attention_to_rounding(count: int, masked: bool) -> None:
    query, key, value = given(count)
    mask = mask_of(count).bfloat16() if masked else None
    mine = attention(Module(), query, key, value, mask)[0]
    right = exact(query, key, value, mask)
    assert mine.shape == right.shape
    assert (mine.double() - right).norm() < 0.01 * right.norm()


@pytest.mark.parametrize("scaling", [None, 0.5])
def test_scores_are_scaled_as_said(scaling: float | None) -> None:
    query, key, value = given(30, torch.float32)
    plain = attention(Module(), query, key, value, None)[0]
    mine = attention(Module(), query * (scaling or 0.25) ** -1 * 0.25, key, value, None, scaling=scaling)[0]
    torch.testing.assert_close(mine, plain)


@pytest.mark.parametrize("last", [1, 5, QUERIES + 3])
def test_the_last_positions_over_what_is_remembered(last: int) -> None:
    query, key, value = given(QUERIES + 30)
    count = query.shape[2]
    seen = torch.ones(count, count, dtype=torch.bool).tril()[None, None, -last:]
    right = exact(query, key, value, None)[:, -last:]
    masks: list[torch.Tensor | None] = [seen, torch.zeros(seen.shape).masked_fill(~seen, -1e30).bfloat16()]
    for mask in [*masks, None] if last == 1 else masks:
        mine = attention(Module(), query[:, :, -last:], key, value, mask)[0]
        assert (mine.double() - right).norm() < 0.01 * right.norm()


def test_padding_that_may_see_nothing_becomes_a_number() -> None:
    query, key, value = given(30)
    seen = torch.ones(30, 30, dtype=torch.bool).tril()[None, None].repeat(2, 1, 1, 1)
    seen[0, :, :, :10] = False
    mine = attention(Module(), query, key, value, seen)[0]
    assert mine.isfinite().all()
    right = exact(query[:1, :, 10:], key[:1, :, 10:], value[:1, :, 10:], None)
    assert (mine[:1, 10:].double() - right).norm() < 0.01 * right.norm()


def test_what_a_mask_would_have_to_say_is_left_to_sdpa() -> None:
    query, key, value = given(30, torch.float32)
    found = attention(Module(), query[:, :, -5:], key, value, None)[0]
    # torch's own: without a mask the first of five queries sees the first key
    torch.testing.assert_close(found[:, 0], value.repeat_interleave(3, 1)[:, :, 0])


def test_what_asks_for_more_than_a_softmax_is_refused_as_sdpa_refuses_it() -> None:
    with pytest.raises(ValueError, match="softcap"):
        attention(Module(), *given(8), None, softcap=30.0)


def test_what_all_keys_have_in_common_is_not_lost_to_rounding() -> None:
    query, key, value = given(200)
    key = key + 40
    mine, right = attention(Module(), query, key, value, None)[0], exact(query, key, value, None)
    assert (mine.double() - right).norm() < 0.02 * right.norm()


def test_a_layer_that_sees_what_comes_after_does() -> None:
    module, (query, key, value) = Module(), given(30, torch.float32)
    module.is_causal = False
    everything = torch.zeros(2, 1, 30, 30)
    for mine in (
        attention(module, query, key, value, None),
        attention(Module(), query, key, value, everything),
    ):
        torch.testing.assert_close(mine[0], exact(query, key, value, everything).float())


def model_of(kind: str, **more: Any) -> Any:
    """Of weights that are large enough for attention to choose."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SIZES, **more)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.bfloat16).eval()
    for name, weight in model.named_parameters():
        if "q_proj" in name or "k_proj" in name:
            weight.data.mul_(30)
    return model


@pytest.mark.parametrize("kind", sorted(PLAIN))
def test_a_model_of_bf16_attends_so_and_scores_as_before(kind: str) -> None:
    model = model_of(kind, **({"sliding_window": 16} if kind == "mistral" else {}))
    row = ScoringRow(tuple(range(10, 160)), ((5, 6, 7), (8,), tuple(range(20, 60))), (0, 1, 2))
    ids = torch.randint(3, 300, (1, row.length))
    padding = torch.ones_like(ids)
    padding[0, :50] = 0
    shared = _apart([row], row.length, "cpu", torch.bfloat16)
    asked: list[dict[str, Any]] = [{}, {"attention_mask": padding}, *([shared] if kind != "mistral" else [])]
    with torch.inference_mode():
        before = [model(ids, **how).logits[:, 50:].float() for how in asked]
        attend_in_blocks(model)
        assert model.config._attn_implementation == NAME
        after = [model(ids, **how).logits[:, 50:].float() for how in asked]
    assert (before[0] - before[1]).norm() > 0.01 * before[0].norm()  # attention counts
    for mine, theirs in zip(after, before, strict=True):
        assert (mine - theirs).norm() < 0.05 * theirs.norm()


@pytest.mark.parametrize("kind", sorted(PLAIN))
def test_a_model_of_bf16_writes_as_before(kind: str) -> None:
    """Two rows, one with padding: what is read at once, then three tokens one by one."""
    model = model_of(kind, **({"sliding_window": 16} if kind == "mistral" else {}))
    ids, mask = torch.randint(3, 300, (2, 63)), torch.ones(2, 63, dtype=torch.long)
    mask[0, :20] = 0

    def read() -> torch.Tensor:
        found, cache = [], None
        for end in (60, 61, 62, 63):
            given = ids[:, :end] if cache is None else ids[:, end - 1 : end]
            made = model(given, attention_mask=mask[:, :end], cache=cache, use_cache=True)
            cache = made.cache
            found.append(made.logits[:, -1].float())
        return torch.stack(found)

    with torch.inference_mode():
        before = read()
        attend_in_blocks(model)
        after = read()
    assert (after - before).norm() < 0.05 * before.norm()


@pytest.mark.parametrize("kind", ["gpt_neox", "deepseek_v3"])
def test_an_architecture_that_is_not_known_keeps_its_own(kind: str) -> None:
    config = AutoConfig.for_model(kind, **SIZES)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.bfloat16)
    attend_in_blocks(model)
    assert model.config._attn_implementation == "sdpa"


def test_a_model_of_another_type_or_attention_keeps_its_own() -> None:
    for how, dtype in (("sdpa", torch.float32), ("eager", torch.bfloat16)):
        config = AutoConfig.for_model("llama", **SIZES)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=how, dtype=dtype)
        attend_in_blocks(model)
        assert model.config._attn_implementation == how
