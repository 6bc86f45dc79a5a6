"""A base whose files do not hold what its class needs is refused where it is named, from headers alone."""

from __future__ import annotations

import json
import logging
import math
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ft_dagster.errors import UserError
from ft_dagster.model_files.weights import read_header
from ft_dagster.models import load_report
from ft_dagster.models.base import resolve_base
from ft_dagster.models.load_report import unused_tensors, unused_words
from ft_dagster.provenance.findings import FILE
from ft_dagster.spec.variant import BaseModelSpec
from tests.tiny_classes import EXPERTS, STATEFUL, make_tiny

pytestmark = pytest.mark.slow

Weights = dict[str, Any]


@pytest.fixture
def base(project: Path, tiny_model_folder: Path) -> Path:
    """A copy of the tiny model inside the project, as models/tiny."""
    return Path(shutil.copytree(tiny_model_folder, project / "models" / "tiny"))


def resolve(project: Path, cache: Path | None = None) -> Any:
    return resolve_base(BaseModelSpec(source="models/tiny"), project, cache or project / "cache")


def refusal(project: Path) -> UserError:
    with pytest.raises(UserError) as caught:
        resolve(project)
    assert "\n" not in str(caught.value)
    return caught.value


def reconfigured(base: Path, **changes: Any) -> None:
    config = json.loads((base / "config.json").read_text("utf-8"))
    (base / "config.json").write_text(json.dumps({**config, **changes}), "utf-8")


def rewritten(base: Path, change: Callable[[Weights], None]) -> None:
    weights = load_file(base / "model.safetensors")
    change(weights)
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})


def test_a_base_without_a_tensor_that_its_class_needs_is_refused(project: Path, base: Path) -> None:
    rewritten(base, lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"))
    error = refusal(project)
    assert "hold nothing for 1 of the tensors of LlamaForCausalLM" in error.problem
    assert error.value == "model.layers.1.mlp.up_proj.weight"


def test_a_method_of_quantization_that_transformers_does_not_know_hides_no_missing_tensor(
    project: Path, base: Path
) -> None:
    """It reads such files as plain ones, and draws what they lack."""
    reconfigured(base, quantization_config={"quant_method": "exl9"})
    assert resolve(project).unused == ()
    rewritten(base, lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"))
    assert refusal(project).value == "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize("said", ["4 bits", {"bits": 4}, {}, False])
def test_a_quantization_that_no_method_has_is_one_line(project: Path, base: Path, said: Any) -> None:
    reconfigured(base, quantization_config=said)
    assert "no model can be made by it" in refusal(project).problem


def test_a_base_that_is_stored_quantized_is_not_looked_at(project: Path, base: Path) -> None:
    def store_in_8_bits(weights: Weights) -> None:
        name = "model.layers.0.mlp.up_proj.weight"
        weights[name] = weights[name].to(torch.float8_e4m3fn)
        weights.pop("model.layers.1.mlp.up_proj.weight")

    reconfigured(base, quantization_config={"quant_method": "fp8"})
    rewritten(base, store_in_8_bits)
    assert resolve(project).unused == ()


def test_a_quantization_that_the_weights_do_not_have_hides_no_missing_tensor(
    project: Path, base: Path
) -> None:
    reconfigured(base, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    assert resolve(project).unused == ()
    rewritten(base, lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"))
    assert refusal(project).value == "model.layers.1.mlp.up_proj.weight"


def test_a_config_of_more_layers_than_the_files_have_is_refused(project: Path, base: Path) -> None:
    reconfigured(base, num_hidden_layers=20)
    error = refusal(project)
    assert "hold nothing for 162 of the tensors" in error.problem
    assert str(error.value).startswith("model.layers.2.")


def test_a_tensor_of_another_shape_is_refused_with_both_shapes(project: Path, base: Path) -> None:
    def turn(weights: Weights) -> None:
        name = "model.layers.0.mlp.up_proj.weight"
        weights[name] = weights[name].T.contiguous()

    rewritten(base, turn)
    error = refusal(project)
    assert error.problem == "a tensor has another shape than by config.json: (64, 128), not (128, 64)"
    assert error.value == "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize("kind", EXPERTS)
def test_a_base_of_experts_is_not_refused(project: Path, kind: str) -> None:
    make_tiny(kind, project / "models" / "tiny")
    assert resolve(project).unused == ()


@pytest.mark.parametrize("kind", STATEFUL)
def test_a_base_of_layers_with_a_state_is_not_refused(project: Path, kind: str) -> None:
    make_tiny(kind, project / "models" / "tiny")
    assert resolve(project).unused == ()


@pytest.mark.parametrize("kind", ["qwen3_moe", "mixtral", "deepseek_v3"])
def test_a_base_that_lacks_a_part_of_one_expert_is_refused(project: Path, kind: str) -> None:
    base = make_tiny(kind, project / "models" / "tiny")

    def drop(weights: Weights) -> None:
        del weights[next(name for name in weights if ".experts.1." in name)]

    rewritten(base, drop)
    assert ".experts" in str(refusal(project).value)


def test_a_command_that_keeps_libraries_quiet_names_the_part_too(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_tiny("mixtral", project / "models" / "tiny")
    rewritten(base, lambda weights: weights.pop("model.layers.0.block_sparse_moe.experts.1.w1.weight"))
    monkeypatch.setattr(logging.root.manager, "disable", logging.WARNING)
    assert refusal(project).value == "model.layers.0.mlp.experts.gate_up_proj"
    assert logging.root.manager.disable == logging.WARNING


@pytest.mark.parametrize("reached", [0, 9])
@pytest.mark.parametrize("kind", ["qwen3_moe", "gpt_oss"])
def test_a_config_by_which_a_token_goes_to_no_expert_or_to_more_than_there_are_is_refused(
    project: Path, kind: str, reached: int
) -> None:
    reconfigured(make_tiny(kind, project / "models" / "tiny"), num_experts_per_tok=reached)
    error = refusal(project)
    assert (error.field, error.value) == ("num_experts_per_tok", reached)
    assert "of the 4 experts of a layer" in error.problem


def test_a_base_that_lacks_its_last_expert_is_refused(project: Path) -> None:
    base = make_tiny("qwen3_moe", project / "models" / "tiny")

    def drop(weights: Weights) -> None:
        for name in [name for name in weights if ".experts.3." in name]:
            del weights[name]

    rewritten(base, drop)
    assert "tensors have another shape than by config.json: (3, 64, 32), not (4," in refusal(project).problem


@pytest.mark.parametrize("heads", [0, -4])
def test_a_config_without_attention_heads_is_refused_by_field_and_value(
    project: Path, base: Path, heads: int
) -> None:
    reconfigured(base, num_attention_heads=heads)
    error = refusal(project)
    assert (error.file, error.field, error.value) == (str(base / "config.json"), "num_attention_heads", heads)


def test_a_config_of_a_billion_layers_is_refused_before_they_are_built(project: Path, base: Path) -> None:
    reconfigured(base, num_hidden_layers=10**9)
    error = refusal(project)
    assert (error.field, error.value) == ("num_hidden_layers", 10**9)


def test_a_vocabulary_below_the_tokenizers_is_refused(project: Path, base: Path) -> None:
    def cut(weights: Weights) -> None:
        name = "model.embed_tokens.weight"
        weights[name] = weights[name][:100].contiguous()

    rewritten(base, cut)
    reconfigured(base, vocab_size=100, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    error = refusal(project)
    assert "a token of its tokenizer" in error.problem
    assert (error.field, error.value) == ("vocab_size", 100)


def test_a_token_that_was_added_to_the_tokenizer_alone_is_no_reason_to_refuse(
    project: Path, base: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    tokenizer.save_pretrained(base)
    assert resolve(project).unused == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 10**15},
        {"vocab_size": "many"},
        {"rope_parameters": {"rope_type": "none such"}},
        {"head_dim": -1},
        {"num_key_value_heads": 0},
        {"layer_types": ["full_attention"] * 3},
        {"text_config": {"num_hidden_layers": 10**9}},
        {"hidden_act": "none such"},
        {"intermediate_size": 10**30},
    ],
)
def test_a_config_that_makes_no_sense_is_one_line(project: Path, base: Path, changes: dict[str, Any]) -> None:
    reconfigured(base, **changes)
    assert str(base) in str(refusal(project).file)


@pytest.mark.parametrize(
    "changes", [{"attn_implementation": "flash_attention_2"}, {"dtype": "float8_e4m3fn"}, {"auto_map": {}}]
)
def test_what_a_training_settles_by_itself_is_no_reason_to_refuse(
    project: Path, base: Path, changes: dict[str, Any]
) -> None:
    reconfigured(base, **changes)
    assert resolve(project).unused == ()


@pytest.mark.parametrize("shape", [[10**19], [10**12, 10**12]])
def test_a_shape_that_no_tensor_has_is_refused(project: Path, base: Path, shape: list[int]) -> None:
    name = "model.norm.weight"
    content = (base / "model.safetensors").read_bytes()
    header, length = read_header(base / "model.safetensors"), int.from_bytes(content[:8], "little")
    header[name]["shape"] = shape
    text = json.dumps(header).encode()
    whole = len(text).to_bytes(8, "little") + text + content[8 + length :]
    (base / "model.safetensors").write_bytes(whole)
    error = refusal(project)
    assert (error.problem, error.value) == ("has a shape that no tensor has", name)


def test_a_name_of_a_tensor_breaks_no_line_and_fills_no_log() -> None:
    said = unused_words(["a\n\x1b[31m" + "x" * 5000, "b"])
    assert said.isprintable()
    assert len(said) < 300


def test_a_type_without_a_causal_language_model_is_refused(project: Path, base: Path) -> None:
    reconfigured(base, model_type="clip")
    assert refusal(project).problem == "transformers has no causal language model of this type"


def test_tensors_that_the_class_has_no_place_for_are_named(project: Path, base: Path) -> None:
    reconfigured(base, num_hidden_layers=1)
    unused = resolve(project).unused
    assert len(unused) == 9
    assert all(name.startswith("model.layers.1.") for name in unused)


def test_no_weight_is_read(tmp_path: Path) -> None:
    """Of 15 GB that lie in a hole of a file: who read them would be long at it, and need room for them."""
    base = make_tiny("llama", tmp_path / "wide")
    reconfigured(base, vocab_size=30_000_000)
    header = read_header(base / "model.safetensors")
    before = 0
    for name, tensor in header.items():
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensor["shape"] = [30_000_000, 64]
        size = 4 * math.prod(tensor["shape"])
        tensor["data_offsets"] = [before, before + size]
        before += size
    text = json.dumps(header).encode()
    with (base / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + before)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert unused_tensors(base, [], None) == ()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held < 2_000_000  # KiB


def test_what_was_found_whole_is_not_looked_at_again(
    project: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve(project)
    monkeypatch.setattr(load_report, "_unused", lambda folder: pytest.fail("looked at again"))
    resolve(project)
    shutil.copytree(base, project / "models" / "copy")  # the same content, elsewhere
    resolve_base(BaseModelSpec(source="models/copy"), project, project / "cache")


def test_other_content_is_looked_at_again(project: Path, base: Path) -> None:
    resolve(project)
    rewritten(base, lambda weights: weights.pop("model.norm.weight"))
    assert refusal(project).value == "model.norm.weight"


def test_a_memory_that_is_lost_or_damaged_costs_time_alone(project: Path, base: Path) -> None:
    resolve(project)
    (project / "cache" / FILE).write_bytes(b"no database")
    assert resolve(project).unused == ()
    assert resolve(project).unused == ()
