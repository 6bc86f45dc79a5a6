"""FLOPs: the polynomial against direct counts, of shapes alone and of real weights, and a closed formula."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ft_dagster.training.contract import Base, method_settings
from ft_dagster.training.figures import flops_estimate
from ft_dagster.training.journal import Journal
from ft_dagster.training.loss import loss_at_trained_positions
from ft_dagster.training.methods import taught_by
from ft_dagster.training.watch import flops
from tests.long import mostly_long
from tests.present import present
from tests.tiny_classes import tiny_config
from tests.training.runs import LORA

pytestmark = pytest.mark.slow

FULL = {"name": "full"}
METHODS: dict[str, dict[str, Any]] = {
    "full": FULL,
    "lora": LORA,
    "dora": {**LORA, "use_dora": True},
    "qlora": {**LORA, "name": "qlora"},
    "prompt": {"name": "prompt_tuning", "num_virtual_tokens": 5},
    "prefix": {"name": "prefix_tuning", "num_virtual_tokens": 5},
}


def base_of(folder: Path, layers: int, **changes: Any) -> Base:
    """A Llama's config.json of so many layers; no weights."""
    from transformers import LlamaConfig

    sizes = {
        "vocab_size": 500,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    }
    LlamaConfig(**{**sizes, "num_hidden_layers": layers, **changes}).save_pretrained(folder)
    return Base(folder=folder, digest="b" * 64)


@pytest.mark.parametrize(
    ("name", "checkpointing"),
    mostly_long([*((name, False) for name in METHODS), ("full", True), ("lora", True)], every=3),
)
def test_the_polynomial_gives_the_counts_of_other_shapes(
    tmp_path: Path, name: str, checkpointing: bool
) -> None:
    base, method = base_of(tmp_path, 2), METHODS[name]
    found = flops.count_flops(base, method_settings(method), gradient_checkpointing=checkpointing)
    model = flops.shapes_of(base, method_settings(method), checkpointing)
    assert found is not None
    for rows, width, columns in ((3, 50, 11), (2, 200, 64)):
        assert found.of(rows, width, columns) == pytest.approx(
            flops.flops(model, rows, width, columns), rel=1e-3
        )


@pytest.mark.parametrize("method", [FULL, LORA, METHODS["dora"]], ids=["full", "lora", "dora"])
def test_real_weights_and_the_trained_positions_loss_cost_what_was_counted(
    tiny_model_folder: Path, method: dict[str, Any]
) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    base = Base(folder=tiny_model_folder, digest="b" * 64)
    model = taught_by(method_settings(method)).build(base, "fp32", 0).train()
    model.set_attn_implementation("eager")
    ids = torch.randint(500 - 10, (2, 40))
    labels = torch.full_like(ids, -100)
    labels[:, 30:] = ids[:, 30:]
    batch = {"input_ids": ids, "labels": labels, "position_ids": torch.arange(40).expand(2, -1)}
    with FlopCounterMode(display=False) as counter:
        loss_at_trained_positions(model, batch, 20).backward()
    found = flops.count_flops(base, method_settings(method), gradient_checkpointing=False)
    assert found is not None
    assert found.of(2, 40, 10) == pytest.approx(counter.get_total_flops(), rel=1e-3)


@pytest.mark.long
@pytest.mark.parametrize("name", ["full", "lora", "prefix", pytest.param("dora", marks=pytest.mark.slow)])
def test_a_deep_model_costs_what_its_first_layers_foretell(tmp_path: Path, name: str) -> None:
    base, method = base_of(tmp_path, 6), METHODS[name]
    assert flops.count_flops(base, method_settings(method), gradient_checkpointing=False) == flops.measure(
        flops.shapes_of(base, method_settings(method), False)
    )


def test_layers_that_differ_are_all_counted(tmp_path: Path) -> None:
    """A mixture of windowed and whole attention costs alike; layers that are named apart do not."""
    base = base_of(tmp_path, 8)
    method = {**LORA, "target_modules": ["layers.7.mlp.up_proj"]}
    found = flops.count_flops(base, method_settings(method), gradient_checkpointing=False)
    assert found == flops.measure(flops.shapes_of(base, method_settings(method), False))
    config = json.loads((tmp_path / "config.json").read_text())
    config["layer_types"] = ["linear_attention", "full_attention"] * 4
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert not flops._alike(base)


@pytest.mark.parametrize("method", [FULL, LORA], ids=["full", "lora"])
def test_the_closed_formula_is_close(tmp_path: Path, method: dict[str, Any]) -> None:
    """It leaves out attention scores (so: short rows), and that the first input needs no gradient."""
    base = base_of(tmp_path, 16, hidden_size=128, intermediate_size=384, max_position_embeddings=64)
    found = flops.count_flops(base, method_settings(method), gradient_checkpointing=False)
    model = flops.shapes_of(base, method_settings(method), False)
    journal = Journal([1], slots=3200, squares=3200 * 16, trained_tokens=900, rows=200, micro_batches=100)
    assert found is not None
    assert found.spent(journal) == pytest.approx(flops_estimate(model, journal), rel=0.04)


def test_a_parent_beneath_costs_its_forward_and_the_gradient_through_it(tmp_path: Path) -> None:
    from peft import LoraConfig

    LoraConfig(task_type="CAUSAL_LM", r=8, target_modules=["q_proj"]).save_pretrained(tmp_path / "parent")
    (tmp_path / "parent/adapter_model.safetensors").touch()
    alone = base_of(tmp_path / "base", 3)
    stacked = alone.model_copy(update={"parent": {"adapter": tmp_path / "parent", "digest": "p" * 64}})
    stacked = Base.model_validate(stacked.model_dump())
    less = flops.count_flops(alone, method_settings(LORA), gradient_checkpointing=False)
    more = flops.count_flops(stacked, method_settings(LORA), gradient_checkpointing=False)
    assert less is not None
    assert more is not None
    q_proj = 8 * (64 + 64)  # parameters of the parent's update of one layer
    # Three layers forward; backward through the two whose input has a gradient, and B's in the first.
    assert more.per_token - less.per_token == pytest.approx(2 * 3 * q_proj + 2 * 2 * q_proj, rel=0.15)


def test_a_135m_model_costs_six_to_eight_times_its_weights(tmp_path: Path) -> None:
    base = base_of(
        tmp_path, 30, vocab_size=49152, hidden_size=576, intermediate_size=1536, num_attention_heads=9,
        num_key_value_heads=3,
    )  # fmt: skip
    found = flops.count_flops(base, method_settings({**LORA, "rank": 16}), gradient_checkpointing=True)
    assert found is not None
    assert 4e8 < found.per_token < 9e8  # 6 times 106 M weights, or 8 with recomputation


def test_of_experts_those_count_that_a_token_reaches(tmp_path: Path) -> None:
    """Twice as many cost no more than their router; each that a token reaches costs its two products."""
    method, layers, tokens, hidden, inner = (
        method_settings({**LORA, "target_modules": ["q_proj"]}),
        2,
        64,
        64,
        32,
    )

    def counted(experts: int, reached: int) -> int:
        folder = tmp_path / f"{experts}-{reached}"
        folder.mkdir()
        config = tiny_config("qwen3_moe", num_local_experts=experts, num_experts_per_tok=reached)
        (folder / "config.json").write_text(config.to_json_string(use_diff=False))
        base = Base(folder=folder, digest="b" * 64)
        return present(flops.count_row(base, method, tokens, 16, gradient_checkpointing=False))

    two, passes = counted(8, 2), 2  # forward, and for the gradient of what goes in: the weights are frozen
    assert two - counted(4, 2) == passes * layers * tokens * 2 * hidden * 4
    each = 2 * hidden * 2 * inner + 2 * inner * hidden
    assert counted(8, 3) - two == passes * layers * tokens * each
