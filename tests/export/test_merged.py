"""The merged export: base plus adapter to rounding, in the base's dtype, the adapter kept inside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.evaluation.models.load import load_base, load_tuned
from ft_dagster.export.merged import export_merged
from ft_dagster.provenance.digest import hash_folder, payload_digest, sha256_file
from ft_dagster.training.rounding import Rounding, round_unbiased
from tests.export.exports import DIGEST, QUESTIONS, MakeAdapter, prompt, save_adapter


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"use_dora": True}, {"use_rslora": True}])
def test_merged_logits_equal_base_plus_adapter(
    tiny_model_folder: Path,
    tiny_tokenizer: Any,
    make_adapter: MakeAdapter,
    tmp_path: Path,
    settings: dict[str, bool],
) -> None:
    import torch

    adapter = make_adapter(**settings)
    export_merged(tiny_model_folder, DIGEST, adapter, tmp_path / "export")

    given = tiny_tokenizer(prompt(tiny_tokenizer, QUESTIONS[0]), return_tensors="pt")
    with torch.inference_mode():
        trained = load_tuned(tiny_model_folder, adapter, dtype="float32")(**given).logits
        merged = load_base(tmp_path / "export")(**given).logits
        base = load_base(tiny_model_folder)(**given).logits
    assert (trained - merged).abs().max() < 1e-4
    assert (trained - base).abs().max() > 1e-2


def test_the_merged_model_keeps_the_dtype_of_its_base_and_its_tied_embeddings(
    bf16_base: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    figures = export_merged(bf16_base, DIGEST, make_adapter(bf16_base), tmp_path / "export")

    before, after = (
        load_file(bf16_base / "model.safetensors"),
        load_file(tmp_path / "export" / "model.safetensors"),
    )
    assert figures["dtype"] == "bfloat16"
    assert before.keys() == after.keys()
    assert all(tensor.dtype == torch.bfloat16 for tensor in after.values())
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])


def test_rounding_an_update_smaller_than_half_a_step_keeps_its_mean() -> None:
    import torch

    weights = torch.full((400, 400), 1.0) + 0.001  # bfloat16 steps by 0.0078 here: the nearest is 1.0
    rounded = round_unbiased("a", weights, torch.bfloat16)

    assert weights.to(torch.bfloat16).float().mean() == 1.0
    assert rounded.float().mean() == pytest.approx(1.001, abs=5e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_tensor_is_rounded_alike_however_it_is_cut(dtype: str) -> None:
    import torch

    to = getattr(torch, dtype)
    weights, rounding = torch.randn(1000, 301), Rounding("a", to)
    parts = torch.cat([rounding(weights[:1]), rounding(weights[1:700]), rounding(weights[700:])])
    assert torch.equal(parts, round_unbiased("a", weights, to))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_moves_a_weight_by_less_than_one_step_and_leaves_those_that_fit(dtype: str) -> None:
    import torch

    to = getattr(torch, dtype)
    fits = torch.randn(3_000_000).to(to)
    assert torch.equal(round_unbiased("a", fits.float(), to), fits)

    weights = torch.randn(1000)
    step = torch.finfo(to).eps * weights.abs()
    assert ((round_unbiased("a", weights, to).float() - weights).abs() <= step).all()


def test_the_adapter_is_kept_inside_and_is_not_loaded_on_top(
    tiny_model_folder: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    adapter = make_adapter()
    export_merged(tiny_model_folder, DIGEST, adapter, tmp_path / "export")

    name = "adapter_model.safetensors"
    assert sha256_file(tmp_path / "export" / "adapter" / name) == sha256_file(adapter / name)
    assert not getattr(load_base(tmp_path / "export"), "_hf_peft_config_loaded", False)


@pytest.mark.slow
def test_the_same_inputs_give_the_same_bytes(
    bf16_base: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    adapter = make_adapter(bf16_base)
    digests = set()
    for name in ("one", "two"):
        export_merged(bf16_base, DIGEST, adapter, tmp_path / name)
        digests.add(payload_digest(hash_folder(tmp_path / name)))
    assert len(digests) == 1


def test_no_file_of_an_export_names_a_folder_of_this_machine(
    tiny_model_folder: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    export_merged(tiny_model_folder, DIGEST, make_adapter(), tmp_path / "export")

    texts = {file: file.read_bytes() for file in (tmp_path / "export").rglob("*") if file.is_file()}
    places = (str(tiny_model_folder).encode(), str(tmp_path).encode())
    assert [file.name for file, text in texts.items() if any(place in text for place in places)] == []


def test_weights_that_are_not_finite_are_refused(
    tiny_model_folder: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="not finite") as caught:
        export_merged(tiny_model_folder, DIGEST, make_adapter(scale=float("nan")), tmp_path / "export")
    assert str(caught.value.file).endswith("adapter_model.safetensors")


def test_a_prompt_cannot_be_merged(tiny_model_folder: Path, tmp_path: Path) -> None:
    from peft import PromptTuningConfig, get_peft_model
    from transformers import AutoTokenizer

    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    model = get_peft_model(load_base(tiny_model_folder), config)
    adapter = save_adapter(model, AutoTokenizer.from_pretrained(tiny_model_folder), tmp_path / "adapter")

    with pytest.raises(UserError, match="export: adapter"):
        export_merged(tiny_model_folder, DIGEST, adapter, tmp_path / "export")


def test_a_server_finds_template_and_stop_tokens_in_the_merged_folder(
    tiny_model_folder: Path, tiny_tokenizer: Any, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    export_merged(tiny_model_folder, DIGEST, make_adapter(), tmp_path / "export")

    assert AutoTokenizer.from_pretrained(tmp_path / "export").chat_template == tiny_tokenizer.chat_template
    config = json.loads((tmp_path / "export" / "generation_config.json").read_text("utf-8"))
    assert config["eos_token_id"] == [tiny_tokenizer.eos_token_id]
