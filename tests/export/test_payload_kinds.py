"""Exports of every kind of trained weights: what each format keeps, what is refused, what is certified."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.evaluation.models.load import load_base, load_dequantized, load_tuned, put_adapter
from ft_dagster.export.adapter import check_shapes, export_adapter
from ft_dagster.export.card import write_card
from ft_dagster.export.certificate import DEQUANTIZED, EXACT, certify
from ft_dagster.export.merged import export_merged
from ft_dagster.export.request import ExportRequest
from ft_dagster.lineage.certificate import Certificate
from ft_dagster.methods.method import Quantization
from ft_dagster.models.quantize import QUANTIZATION_FILE
from ft_dagster.provenance.digest import sha256_file
from tests.evaluation.payloads import KINDS, make_payload
from tests.export.exports import DIGEST, MakeRequest, parse, request, written

pytestmark = pytest.mark.slow
ADAPTERS = [kind for kind in KINDS if kind != "full"]
Payload = Callable[[str], Path]
Certified = Callable[[str, str], tuple[ExportRequest, Certificate]]


@pytest.fixture(scope="module")
def payload(bf16_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Payload:
    made: dict[str, Path] = {}

    def of(kind: str) -> Path:
        if kind not in made:
            made[kind] = make_payload(kind, bf16_base, tmp_path_factory.mktemp(kind), DIGEST)
        return made[kind]

    return of


@pytest.fixture(scope="module")
def certified(
    bf16_base: Path, payload: Payload, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> Certified:
    """The export of a kind of payload in a format, with its certificate; each is made once."""

    @cache
    def of(kind: str, format: str) -> tuple[ExportRequest, Certificate]:
        output = tmp_path_factory.mktemp(f"{kind}-{format}")
        asked = written(request(payload(kind), format, bf16_base, tiny_tokenizer, output))
        return asked, certify(asked)

    return of


def logits(model: Any) -> Any:
    import torch

    with torch.inference_mode():
        return (
            model(input_ids=torch.tensor([[5, 7, 11, 200, 31, 11]]), use_cache=False).logits[0, -6:].float()
        )


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_is_certified_to_the_last_bit(certified: Certified, kind: str) -> None:
    _, certificate = certified(kind, "adapter")

    assert certificate.passed, certificate.failures
    assert certificate.tolerance == EXACT
    assert certificate.figures["max_logit_difference"] == 0
    assert certificate.figures["base_kl"] > 0


@pytest.mark.parametrize("kind", ["lora", "tokens", "nf4", "int8", "full"])
def test_a_merged_model_is_certified_against_what_was_judged(certified: Certified, kind: str) -> None:
    _, certificate = certified(kind, "merged")

    assert certificate.passed, certificate.failures
    assert certificate.figures["mean_kl"] < 0.01 * certificate.figures["base_kl"]
    assert (certificate.tolerance == EXACT) == (kind == "full")
    assert (certificate.tolerance == DEQUANTIZED) == (kind in ("nf4", "int8"))
    assert ("arithmetic_kl" in certificate.figures) == (kind == "int8")


def test_a_merge_into_the_unquantized_base_fails_the_certificate(
    bf16_base: Path, make_request: MakeRequest, tmp_path: Path
) -> None:
    """The mismatch that QLoRA merges are known for: learned on W4, summed into W16."""
    base = shutil.copytree(bf16_base, tmp_path / "base")
    model = load_base(base)
    for name, weights in model.named_parameters():
        if "proj" in name:
            weights.data *= 10  # so large that this model notices what nf4 does to it
    model.save_pretrained(base)
    weights = make_payload("nf4", base, tmp_path / "payload", DIGEST)
    asked = parse(make_request(weights, base=base, format="merged"))
    export_merged(base, DIGEST, weights, asked.payload)
    right = certify(asked)
    export_merged(base, DIGEST, weights, asked.payload, original=True)
    wrong = certify(asked)

    assert right.passed, right.failures
    assert wrong.figures["mean_kl"] > 30 * right.figures["mean_kl"]
    assert not wrong.passed


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_merge_out_of_a_quantized_base_is_a_plain_model_of_its_dequantized_weights(
    bf16_base: Path, payload: Payload, tmp_path: Path, kind: Quantization
) -> None:
    import torch
    from safetensors.torch import load_file

    figures = export_merged(bf16_base, DIGEST, payload(kind), tmp_path / "export")

    assert (figures["dtype"], figures["quantization"]) == ("bfloat16", kind)
    assert "quantization_config" not in json.loads((tmp_path / "export" / "config.json").read_text("utf-8"))
    assert {t.dtype for t in load_file(tmp_path / "export" / "model.safetensors").values()} == {
        torch.bfloat16
    }
    assert (tmp_path / "export" / "adapter" / QUANTIZATION_FILE).exists()
    merged = load_base(tmp_path / "export").float()
    reference = put_adapter(load_dequantized(bf16_base, kind), payload(kind), widen=True)
    weight = "model.layers.0.mlp.down_proj"
    layer = reference.get_base_model().get_submodule(weight)
    exact = layer.base_layer.weight + layer.get_delta_weight("default")
    found = merged.get_submodule(weight).weight
    assert ((found - exact).abs() <= torch.finfo(torch.bfloat16).eps * exact.abs() + 1e-9).all()


@pytest.mark.parametrize("tied", [True, False])
def test_trained_token_rows_are_in_the_merge_and_in_the_adapter(
    tiny_model_folder: Path, tmp_path: Path, tied: bool
) -> None:
    import torch

    base = shutil.copytree(tiny_model_folder, tmp_path / "base")
    if not tied:
        _untie(base)
    adapter = _token_adapter(base, tmp_path / "adapter", tied)
    judged = load_tuned(base, adapter, dtype="float32")
    inner = judged.get_base_model()
    export_merged(base, DIGEST, adapter, tmp_path / "merged")
    figures = export_adapter(base, DIGEST, adapter, tmp_path / "exported")

    merged = load_base(tmp_path / "merged")
    assert (merged.lm_head.weight is merged.model.embed_tokens.weight) == tied
    assert torch.allclose(logits(merged), logits(judged), atol=1e-4)
    rows = inner.model.embed_tokens.token_adapter.trainable_tokens_delta["default"]
    assert torch.equal(merged.model.embed_tokens.weight[[7, 11]], rows)
    assert not torch.equal(rows, load_base(base).model.embed_tokens.weight[[7, 11]])
    assert torch.equal(logits(load_tuned(base, tmp_path / "exported", dtype="float32")), logits(judged))
    assert figures["trained_token_rows"] == 2


def test_a_whole_model_is_copied_as_it_was_judged_with_its_stop_tokens(
    payload: Payload, bf16_base: Path, tmp_path: Path
) -> None:
    figures = export_merged(bf16_base, DIGEST, payload("full"), tmp_path / "export")

    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert sha256_file(tmp_path / "export" / name) == sha256_file(payload("full") / name)
    assert figures["already_merged"] is True
    assert not (tmp_path / "export" / "adapter").exists()
    config = json.loads((tmp_path / "export" / "generation_config.json").read_text("utf-8"))
    assert config["eos_token_id"] == figures["stop_token_ids"]


def test_a_whole_model_swapped_after_it_was_copied_fails_the_certificate(
    payload: Payload, bf16_base: Path, make_request: MakeRequest
) -> None:
    asked = written(make_request(payload("full"), base=bf16_base, format="merged"))
    shutil.copyfile(bf16_base / "model.safetensors", asked.payload / "model.safetensors")

    certificate = certify(asked)
    assert certificate.figures["mean_kl"] == pytest.approx(certificate.figures["base_kl"], rel=1e-3)
    assert not certificate.passed


def test_a_whole_model_has_no_adapter_to_export(payload: Payload, bf16_base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="export: merged"):
        export_adapter(bf16_base, DIGEST, payload("full"), tmp_path / "export")


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_a_learned_prompt_or_prefix_is_not_merged(
    payload: Payload, bf16_base: Path, tmp_path: Path, kind: str
) -> None:
    with pytest.raises(UserError, match="export: adapter"):
        export_merged(bf16_base, DIGEST, payload(kind), tmp_path / "export")


@pytest.mark.parametrize("kind", ["tokens", "prompt", "prefix"])
def test_the_shapes_of_every_adapter_are_checked(
    payload: Payload, bf16_base: Path, tmp_path: Path, kind: str
) -> None:
    from safetensors.torch import load_file, save_file

    assert check_shapes(bf16_base, payload(kind)) > 0
    other = shutil.copytree(payload(kind), tmp_path / "other")
    weights = load_file(other / "adapter_model.safetensors")
    last = max(weights)
    weights[last] = weights[last].new_zeros(3, 3)
    save_file(weights, other / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"has shape \(3, 3\)"):
        check_shapes(bf16_base, other)


@pytest.mark.parametrize(
    ("kind", "format", "said"),
    [
        ("nf4", "adapter", ["on the base in nf4", 'bnb_4bit_quant_type="nf4"', "quantization_config="]),
        ("int8", "adapter", ["load_in_8bit=True", "BitsAndBytesConfig\n"]),
        ("int8", "merged", ["behaves as the quantized base", "int8 arithmetic", "kept in `adapter/`"]),
        ("tokens", "adapter", ["rows of the vocabulary, which vLLM does not load"]),
        ("prefix", "adapter", ["learned prompt or prefix"]),
        ("full", "merged", ["The whole model was trained"]),
    ],
)
def test_the_card_says_how_to_load_each_kind(
    certified: Certified, kind: str, format: str, said: list[str]
) -> None:
    asked, certificate = certified(kind, format)
    write_card(asked, certificate)
    text = (asked.evidence / "README.md").read_text("utf-8")

    for words in said:
        assert words in text
    assert ("kept in `adapter/`" in text) == (format == "merged" and kind != "full")
    assert ("PeftModel" in text) == (format == "adapter")


def _untie(folder: Path) -> None:
    """Give the model an output head of its own, with other numbers than its embeddings."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig.from_pretrained(folder)
    config.tie_word_embeddings = False
    torch.manual_seed(3)
    LlamaForCausalLM(config).save_pretrained(folder)


def _token_adapter(base: Path, folder: Path, tied: bool) -> Path:
    """LoRA that also trains rows 7 and 11 of the vocabulary, of the head too where that is apart."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tests.export.exports import save_adapter

    rows = [7, 11]
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=4,
        target_modules="all-linear",
        trainable_token_indices=rows if tied else {"embed_tokens": rows, "lm_head": rows},
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    for name, weights in model.named_parameters():
        if "lora_B" in name or "trainable_tokens_delta" in name:
            weights.data += 0.1 * torch.randn_like(weights)
    return save_adapter(model, AutoTokenizer.from_pretrained(base), folder)
