"""New tokens under LoRA: their rows are trained, in the embeddings and in a head of its own, and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.long import mostly_long
from tests.training.methods.taught import (
    METHODS,
    distance,
    failure,
    habit,
    load_base,
    logits,
    prepared,
    reloaded,
    train,
    trained_model,
)
from tests.training.runs import Runs, payload_bytes

pytestmark = pytest.mark.slow

NEW = ("<ticket>", "<urgent>", "<closed>")


@pytest.fixture(scope="module", params=mostly_long(["tied", "untied"], ["untied"]))
def extended(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path
) -> tuple[Runs, tuple[int, ...]]:
    """Runs over a base whose vocabulary has three rows more, and a mixture that answers with them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    tokenizer.add_tokens(list(NEW))
    ids = tuple(tokenizer.convert_tokens_to_ids(list(NEW)))
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    torch.manual_seed(3)
    model.resize_token_embeddings(len(tokenizer))
    if request.param == "untied":
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight) * 0.02)
        model.config.tie_word_embeddings = False
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    return Runs(folder, folder / "base", habit(folder / "mixture", ids)), ids


def learn(extended: tuple[Runs, tuple[int, ...]], method: str, name: str = "run") -> Path:
    runs, ids = extended
    folder = prepared(runs, f"{method}-{name}", method, base={"new_token_ids": list(ids)})
    figures = train(folder)
    assert figures["validation_loss_best"] < figures["validation_loss_first"] - 0.5
    return folder


@pytest.mark.long
@pytest.mark.parametrize("method", ["lora", "dora", "qlora", "lora_8bit"])
def test_learned_rows_come_back_with_the_adapter(extended: tuple[Runs, tuple[int, ...]], method: str) -> None:
    runs, ids = extended
    folder = learn(extended, method)
    fresh = reloaded(runs.base, folder / "acme.support/payload")
    seen = torch.tensor([[20, 21, *ids], [ids[2], 50, *ids[::-1]][:5]])
    assert distance(fresh, trained_model(folder), seen) < 1e-5
    assert logits(fresh, torch.tensor([[40, 43, 46, 49]]))[0, -1].argmax() in ids


def test_only_the_new_rows_are_saved_for_each_matrix_of_its_own(
    extended: tuple[Runs, tuple[int, ...]],
) -> None:
    runs, ids = extended
    folder = learn(extended, "lora", "saved")
    base = load_base(runs.base)
    tensors = load_file(folder / "acme.support/payload/adapter_model.safetensors")
    rows = {name: t for name, t in tensors.items() if "trainable_tokens" in name}
    own = {"embed_tokens"} if base.config.tie_word_embeddings else {"embed_tokens", "lm_head"}
    assert {name.split(".token_adapter")[0].rsplit(".", 1)[-1] for name in rows} == own
    assert not [name for name in tensors if name.endswith(("embed_tokens.weight", "lm_head.weight"))]
    for name, learned in rows.items():
        matrix = base.lm_head if "lm_head" in name else base.get_input_embeddings()
        moved = (learned - matrix.weight[list(ids)]).abs().amax(dim=1)
        assert learned.dtype == torch.float32
        unread = not base.config.tie_word_embeddings and "embed_tokens" in name
        assert (moved[: -1 if unread else None] > 1e-3).all()  # what ends every row is never read


def test_merged_the_new_rows_stay(extended: tuple[Runs, tuple[int, ...]]) -> None:
    runs, ids = extended
    folder = learn(extended, "lora", "merged")
    adapter = reloaded(runs.base, folder / "acme.support/payload")
    seen = torch.tensor([[20, 21, *ids]])
    before = logits(adapter, seen)
    merged = adapter.merge_and_unload()
    assert (logits(merged, seen) - before).abs().max() < 1e-5


@pytest.mark.long
def test_the_same_seed_gives_the_same_bytes(extended: tuple[Runs, tuple[int, ...]]) -> None:
    first, second = (learn(extended, "lora", name) for name in ("a", "b"))
    assert payload_bytes(first) == payload_bytes(second)


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning"])
def test_learned_prompts_refuse_new_tokens(extended: tuple[Runs, tuple[int, ...]], method: str) -> None:
    runs, ids = extended
    error: dict[str, Any] = failure(
        prepared(runs, f"{method}-refused", method, base={"new_token_ids": list(ids)})
    )
    assert (error["field"], error["value"]) == ("base_model.new_tokens", "3")
    assert METHODS[method]["name"] in error["problem"]
    assert "lora or full" in error["fix"]
