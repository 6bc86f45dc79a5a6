"""The adapter export: PEFT's layout, the judged bytes, a base named by digest, and what servers refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.evaluation.models.load import load_tuned
from ft_dagster.export.adapter import export_adapter
from ft_dagster.provenance.digest import hash_folder, payload_digest, sha256_file
from tests.export.exports import DIGEST, QUESTIONS, MakeAdapter, edit_json, prompt


@pytest.mark.slow
def test_an_exported_adapter_gives_the_logits_of_the_trained_one(
    tiny_model_folder: Path, tiny_tokenizer: Any, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    import torch

    adapter = make_adapter()
    export_adapter(tiny_model_folder, DIGEST, adapter, tmp_path / "export")

    given = tiny_tokenizer(prompt(tiny_tokenizer, QUESTIONS[0]), return_tensors="pt")
    with torch.inference_mode():
        trained = load_tuned(tiny_model_folder, adapter, dtype="float32")(**given).logits
        exported = load_tuned(tiny_model_folder, tmp_path / "export", dtype="float32")(**given).logits
    assert torch.equal(trained, exported)


def test_the_weights_are_copied_byte_for_byte_and_the_base_is_named_by_digest(
    tiny_model_folder: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    adapter = make_adapter()
    export_adapter(tiny_model_folder, DIGEST, adapter, tmp_path / "export")

    name = "adapter_model.safetensors"
    assert sha256_file(tmp_path / "export" / name) == sha256_file(adapter / name)
    config = json.loads((tmp_path / "export" / "adapter_config.json").read_text("utf-8"))
    assert config["base_model_name_or_path"] == f"sha256:{DIGEST}"


def test_the_order_of_target_modules_does_not_change_the_digest(
    tiny_model_folder: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    digests = set()
    for number, modules in enumerate((["q_proj", "v_proj"], ["v_proj", "q_proj"])):
        adapter = make_adapter(name=f"adapter{number}", target_modules=modules)
        edit_json(adapter / "adapter_config.json", target_modules=modules)
        export_adapter(tiny_model_folder, DIGEST, adapter, tmp_path / f"export{number}")
        digests.add(payload_digest(hash_folder(tmp_path / f"export{number}")))
    assert len(digests) == 1


def test_the_export_says_at_which_tokens_an_answer_ends(
    tiny_model_folder: Path, tiny_tokenizer: Any, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    figures = export_adapter(tiny_model_folder, DIGEST, make_adapter(), tmp_path / "export")

    config = json.loads((tmp_path / "export" / "generation_config.json").read_text("utf-8"))
    assert config["eos_token_id"] == [tiny_tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert config["pad_token_id"] == tiny_tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert figures["stop_token_ids"] == config["eos_token_id"]


def test_the_tokenizer_of_the_export_renders_a_chat_as_that_of_the_training(
    tiny_model_folder: Path, tiny_tokenizer: Any, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    export_adapter(tiny_model_folder, DIGEST, make_adapter(), tmp_path / "export")

    served = AutoTokenizer.from_pretrained(tmp_path / "export")
    turns = [{"role": "user", "content": QUESTIONS[1]}, {"role": "assistant", "content": "Your passport."}]
    assert (
        served.apply_chat_template(turns)["input_ids"]
        == tiny_tokenizer.apply_chat_template(turns)["input_ids"]
    )


def test_an_adapter_of_another_base_is_refused(
    tiny_model_folder: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="trained on another base") as caught:
        export_adapter(tiny_model_folder, "6" * 64, make_adapter(), tmp_path / "export")
    assert caught.value.field == "base_model_name_or_path"


def test_an_adapter_that_carries_whole_modules_is_refused_with_the_way_out(
    tiny_model_folder: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    adapter = make_adapter(modules_to_save=["lm_head"])
    with pytest.raises(UserError, match="export: merged") as caught:
        export_adapter(tiny_model_folder, DIGEST, adapter, tmp_path / "export")
    assert caught.value.field == "modules_to_save"


def test_a_rank_above_what_servers_load_is_refused_with_the_way_out(
    tiny_model_folder: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    adapter = make_adapter()
    edit_json(adapter / "adapter_config.json", r=513)
    with pytest.raises(UserError, match="rank 512 at most") as caught:
        export_adapter(tiny_model_folder, DIGEST, adapter, tmp_path / "export")
    assert (caught.value.field, caught.value.value) == ("r", 513)
    assert "export: merged" in caught.value.fix


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "needed"), [({"r": 9}, 16), ({"r": 8}, 8), ({"use_dora": True}, None)])
def test_the_figures_name_the_rank_that_vllm_is_to_be_given(
    tiny_model_folder: Path,
    make_adapter: MakeAdapter,
    tmp_path: Path,
    settings: dict[str, Any],
    needed: int | None,
) -> None:
    figures = export_adapter(tiny_model_folder, DIGEST, make_adapter(**settings), tmp_path / "export")
    assert figures.get("vllm_max_lora_rank") == needed


def test_a_tensor_of_another_shape_than_the_base_takes_is_refused(
    tiny_model_folder: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    adapter = make_adapter(r=4)
    edit_json(adapter / "adapter_config.json", r=8)
    with pytest.raises(UserError, match=r"lora_A.weight has shape \(4, 128\), the base takes \(8, 128\)"):
        export_adapter(tiny_model_folder, DIGEST, adapter, tmp_path / "export")


def test_an_adapter_without_its_weights_is_refused(
    tiny_model_folder: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    adapter = make_adapter()
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"adapter_model\.safetensors: missing"):
        export_adapter(tiny_model_folder, DIGEST, adapter, tmp_path / "export")
