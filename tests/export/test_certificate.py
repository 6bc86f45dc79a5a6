"""The certificate: holds for what was judged, and for nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.evaluation.models.load import load_base
from ft_dagster.export.certificate import Seen, certify, compare, judge_export
from ft_dagster.provenance.digest import hash_folder, payload_digest
from tests.export.exports import MakeAdapter, MakeRequest, edit_json, save_adapter, written

pytestmark = pytest.mark.slow


def test_an_adapter_export_is_certified_as_the_same_to_the_last_bit(
    make_adapter: MakeAdapter, make_request: MakeRequest
) -> None:
    request = written(make_request(make_adapter()))
    certificate = certify(request)

    assert certificate.passed, certificate.failures
    assert certificate.figures["max_logit_difference"] == 0
    assert certificate.figures["greedy_equal"] == 1
    assert certificate.figures["base_kl"] > 0
    assert certificate.payload == payload_digest(hash_folder(request.payload))
    assert certificate.judged == request.weights_digest


@pytest.mark.parametrize("format", ["adapter", "merged"])
def test_judged_weights_and_their_export_end_an_answer_where_the_base_declares_it(
    tiny_model_folder: Path, tmp_path: Path, make_adapter: MakeAdapter, make_request: MakeRequest, format: str
) -> None:
    base = shutil.copytree(tiny_model_folder, tmp_path / "base")
    edit_json(base / "generation_config.json", eos_token_id=[2, 0])
    request = written(make_request(make_adapter(base), base=base, format=format))
    assert judge_export(request).stop == [0, 2]
    assert json.loads((request.payload / "generation_config.json").read_text("utf-8"))["eos_token_id"] == [
        0,
        2,
    ]


def test_a_merge_rounded_to_bfloat16_is_certified_within_its_tolerance(
    bf16_base: Path, make_adapter: MakeAdapter, make_request: MakeRequest
) -> None:
    certificate = certify(written(make_request(make_adapter(bf16_base), base=bf16_base, format="merged")))

    assert certificate.passed, certificate.failures
    assert 0 < certificate.figures["mean_kl"] < 0.01 * certificate.figures["base_kl"]


def test_weights_swapped_after_the_export_fail_the_certificate(
    make_adapter: MakeAdapter, make_request: MakeRequest
) -> None:
    request = written(make_request(make_adapter()))
    other = make_adapter(name="other", scale=0.06)
    shutil.copyfile(other / "adapter_model.safetensors", request.payload / "adapter_model.safetensors")

    assert not certify(request).passed


def test_a_merged_export_that_forgot_its_adapter_fails_the_certificate(
    bf16_base: Path, make_adapter: MakeAdapter, make_request: MakeRequest
) -> None:
    request = written(make_request(make_adapter(bf16_base, scale=0.02), base=bf16_base, format="merged"))
    shutil.copyfile(bf16_base / "model.safetensors", request.payload / "model.safetensors")

    certificate = certify(request)
    assert certificate.figures["mean_kl"] == pytest.approx(certificate.figures["base_kl"], rel=1e-3)
    assert not certificate.passed


def test_one_damaged_row_of_the_vocabulary_fails_the_certificate(
    make_adapter: MakeAdapter, make_request: MakeRequest
) -> None:
    from safetensors.torch import load_file, save_file

    request = written(make_request(make_adapter(), format="merged"))
    file = request.payload / "model.safetensors"
    weights = load_file(file)
    weights["model.embed_tokens.weight"][300] *= -3
    save_file(weights, file, metadata={"format": "pt"})

    assert any("a logit differs by" in failure for failure in certify(request).failures)


def test_an_export_whose_weights_are_not_finite_fails_the_certificate_and_says_so_in_json(
    make_adapter: MakeAdapter, make_request: MakeRequest
) -> None:
    from safetensors.torch import load_file, save_file

    request = written(make_request(make_adapter()))
    file = request.payload / "adapter_model.safetensors"
    save_file({name: tensor * float("nan") for name, tensor in load_file(file).items()}, file)

    certificate = certify(request)
    assert not certificate.passed
    assert json.loads(json.dumps(certificate.to_json(), allow_nan=False))["figures"]["mean_kl"] is None


def test_another_chat_template_fails_the_certificate(
    make_adapter: MakeAdapter, make_request: MakeRequest
) -> None:
    request = written(make_request(make_adapter()))
    template = request.payload / "chat_template.jinja"
    template.write_text(template.read_text("utf-8").replace("<|im_end|>", ""), "utf-8")

    assert "its chat template is another" in certify(request).failures


def test_a_server_that_renders_a_chat_with_other_ids_fails_the_certificate(
    make_adapter: MakeAdapter, make_request: MakeRequest
) -> None:
    request = written(make_request(make_adapter()))
    assert certify(request).figures["chat_ids_equal"] == 1

    template = request.payload / "chat_template.jinja"
    template.write_text(template.read_text("utf-8").replace("<|im_start|>", "<|im_end|>"), "utf-8")
    assert "a chat that it renders gives other token ids" in certify(request).failures


def test_a_tokenizer_that_gives_other_ids_fails_the_certificate(
    make_adapter: MakeAdapter, make_request: MakeRequest
) -> None:
    request = written(make_request(make_adapter()))
    spaced = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    edit_json(request.payload / "tokenizer.json", pre_tokenizer=spaced)

    assert "its tokenizer gives other token ids" in certify(request).failures


def seen(written: list[int], step: list[float]) -> Seen:
    """A model that writes `written`, choosing each token by the same logits over three tokens."""
    import torch

    return Seen(torch.zeros(1, 3), written, torch.tensor([step] * len(written)))


def test_texts_may_part_at_a_tie_and_nowhere_else() -> None:
    export = [seen([0, 1], [1.0, 0.95, 0.0])]

    parts_at_a_tie = compare([seen([0, 0], [1.0, 0.95, 0.0])], export, tie=0.1)
    parts_at_a_lead = compare([seen([0, 0], [1.0, 0.50, 0.0])], export, tie=0.1)
    assert (parts_at_a_tie["greedy_equal"], parts_at_a_tie["greedy_parted"]) == (0, 0)
    assert (parts_at_a_lead["greedy_equal"], parts_at_a_lead["greedy_parted"]) == (0, 1)


def test_another_likeliest_token_counts_as_lost_only_beyond_a_tie() -> None:
    import torch

    judged = [Seen(torch.tensor([[1.0, 0.95, 0.0], [1.0, 0.5, 0.0]]), [0], torch.zeros(1, 3))]
    export = [Seen(torch.tensor([[0.9, 0.95, 0.0], [0.4, 0.5, 0.0]]), [0], torch.zeros(1, 3))]

    figures = compare(judged, export, tie=0.1)
    assert (figures["top1_agreement"], figures["top1_lost"]) == (0, 0.5)


def test_a_tuned_prompt_is_exported_and_certified_too(
    tiny_model_folder: Path, tiny_tokenizer: Any, make_request: MakeRequest, tmp_path: Path
) -> None:
    from peft import PromptTuningConfig, get_peft_model

    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    model = get_peft_model(load_base(tiny_model_folder), config)
    certificate = certify(written(make_request(save_adapter(model, tiny_tokenizer, tmp_path / "adapter"))))

    assert certificate.passed, certificate.failures
    assert certificate.figures["base_kl"] > 0


def test_a_model_is_seen_by_packed_weights_as_by_plain_ones(tiny_model_folder: Path) -> None:
    import torch

    from ft_dagster.evaluation.models.greedy import last_logits
    from ft_dagster.evaluation.models.packed import Packed
    from ft_dagster.export.certificate import _see

    model, probe = load_base(tiny_model_folder, dtype="float32"), [5, 6, 7, 8]
    plain = last_logits(model, probe, len(probe))
    (seen,) = _see(model, [probe], [])
    assert any(type(layer) is Packed for layer in model.modules())
    torch.testing.assert_close(seen.logits, plain)
