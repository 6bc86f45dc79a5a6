"""Every kind of trained weights is loaded, scored and asked as one question at a time by plain PEFT is."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ft_dagster.errors import UserError
from ft_dagster.evaluation.answers import PromptRequest, answer
from ft_dagster.evaluation.models.load import kind_of, load_base, load_dequantized, virtual_tokens
from ft_dagster.evaluation.models.model import TokenBatchedLM, load_judged, load_model
from ft_dagster.methods.method import Quantization
from tests.evaluation.payloads import KINDS, PROMPTS, load_plainly, make_payload, write_greedily
from tests.evaluation.questions import requests
from tests.long import mostly_long

pytestmark = pytest.mark.slow
QUESTION = "Which documents must I bring to the bank?"
ASKED = [
    *((QUESTION, f" {choice}") for choice in ("a passport", "the whale and the ship", "a form")),
    ("Bring your passport:", " yes"),
    ("The permit for a small building is given by the town within", " thirty days."),
]


@pytest.fixture(scope="module", params=mostly_long(KINDS, ["lora", "nf4", "prefix"]))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def payload(kind: str, tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_payload(kind, tiny_model_folder, tmp_path_factory.mktemp(kind))


@pytest.fixture(scope="module")
def plain(kind: str, tiny_model_folder: Path, payload: Path) -> Any:
    return load_plainly(kind, tiny_model_folder, payload)


@pytest.fixture(scope="module")
def judged(tiny_model_folder: Path, payload: Path) -> Any:
    return load_judged(tiny_model_folder, payload, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def lm(judged: Any) -> TokenBatchedLM:
    model, tokenizer, _ = judged
    return TokenBatchedLM(model, tokenizer)


def naive_likelihood(model: Any, context: list[int], continuation: list[int]) -> float:
    ids = torch.tensor([context + continuation])
    with torch.inference_mode():
        likely = torch.log_softmax(model(input_ids=ids, use_cache=False).logits[0].float(), dim=-1)
    last = likely[-len(continuation) - 1 : -1]  # a learned prompt has logits of its own before them
    return last.gather(1, torch.tensor(continuation)[:, None]).sum().item()


def test_the_kind_is_told_from_the_files(kind: str, payload: Path) -> None:
    assert kind_of(payload) == ("model" if kind == "full" else "adapter")


def test_scores_are_those_of_each_question_alone(lm: TokenBatchedLM, plain: Any) -> None:
    ours = [pair[0] for pair in lm.loglikelihood(requests("loglikelihood", *ASKED))]
    pairs = [lm._encode_pair(context, continuation) for context, continuation in ASKED]
    assert ours == pytest.approx([naive_likelihood(plain, *pair) for pair in pairs], abs=1e-3)


def test_the_loss_of_whole_texts_is_that_of_each_alone(lm: TokenBatchedLM, plain: Any) -> None:
    texts = ["The men stood silent.", "A balcony may be closed with glass. " * 3]
    ours = lm.loglikelihood_rolling(requests("loglikelihood_rolling", *((text,) for text in texts)))
    naive = [naive_likelihood(plain, [lm.prefix_token_id], lm.tok_encode(text)) for text in texts]
    assert ours == pytest.approx(naive, abs=2e-3)


def test_answers_written_together_are_those_of_each_alone(lm: TokenBatchedLM, plain: Any) -> None:
    settings = {"until": [], "max_gen_toks": 8, "do_sample": False}
    ours = lm.generate_until(requests("generate_until", *((prompt, settings) for prompt in PROMPTS)))
    naive = [write_greedily(plain, lm.tok_encode(prompt), 8, lm.tokenizer.eos_token_id) for prompt in PROMPTS]
    assert ours == [lm.tokenizer.decode(ids, skip_special_tokens=True) for ids in naive]


def test_an_answer_ends_at_a_declared_word_also_after_a_learned_prompt(lm: TokenBatchedLM) -> None:
    (whole,) = lm.generate_until(requests("generate_until", (PROMPTS[0], {"until": [], "max_gen_toks": 8})))
    stop = whole[len(whole) // 2]
    (cut,) = lm.generate_until(requests("generate_until", (PROMPTS[0], {"until": [stop], "max_gen_toks": 8})))
    assert cut == whole.split(stop)[0]


def test_contexts_are_shared_only_where_no_prompt_is_learned(lm: TokenBatchedLM, kind: str) -> None:
    lm.loglikelihood(requests("loglikelihood", *ASKED))
    assert lm.shares is (kind not in ("prompt", "prefix"))


def test_a_learned_prompt_takes_its_room_from_the_text(lm: TokenBatchedLM) -> None:
    assert lm.max_length == 512 - virtual_tokens(lm.model)


def test_what_training_changed_is_the_largest_change_of_a_logit(
    kind: str, judged: Any, plain: Any, tiny_model_folder: Path
) -> None:
    from ft_dagster.evaluation.models.model import PROBE

    _, tokenizer, difference = judged
    ids = torch.tensor([tokenizer(PROBE)["input_ids"]])
    count = ids.shape[1]
    with torch.inference_mode():
        tuned = plain(input_ids=ids, use_cache=False).logits[:, -count:]
        if kind == "full":
            base = load_base(tiny_model_folder, dtype="float32")(input_ids=ids).logits
        else:
            with plain.disable_adapter():
                base = plain(input_ids=ids).logits
    assert difference == pytest.approx((tuned - base).abs().max().item(), rel=1e-3)


def test_prompts_are_answered_together_as_alone_and_the_base_beside_them(
    kind: str, payload: Path, tiny_model_folder: Path
) -> None:
    asked = PromptRequest(tiny_model_folder, payload, PROMPTS, chat=False)
    (together,) = answer([asked], max_new_tokens=8)
    alone = [next(answer([asked._replace(prompts=[each])], max_new_tokens=8)) for each in PROMPTS]
    assert [[each] for each in together] == alone
    if kind != "prompt":  # of these a tiny model takes too little notice
        assert any(a.base != a.tuned for a in together)
    if kind not in ("nf4", "int8"):
        tokenizer = load_model(tiny_model_folder, None, device="cpu", dtype="bfloat16")[1]
        base = load_base(tiny_model_folder, dtype="bfloat16")
        ids = tokenizer(PROMPTS[0])["input_ids"]
        written = write_greedily(base, ids, 8, tokenizer.eos_token_id)
        assert together[0].base == tokenizer.decode(written, skip_special_tokens=True).strip()


def test_whole_weights_equal_to_the_base_are_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_model_folder, tmp_path / "copy")
    with pytest.raises(UserError, match="the training changed nothing"):
        load_judged(tiny_model_folder, copy, device="cpu", dtype="float32")


def test_whole_weights_that_are_not_numbers_are_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    model = load_base(tiny_model_folder)
    model.model.norm.weight.data.fill_(float("nan"))
    model.save_pretrained(tmp_path)
    load_model(tiny_model_folder, None, device="cpu", dtype="float32")[1].save_pretrained(tmp_path)
    with pytest.raises(UserError, match="not numbers"):
        load_judged(tiny_model_folder, tmp_path, device="cpu", dtype="float32")


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_dequantized_weights_are_those_the_quantized_base_computes_with(
    tiny_model_folder: Path, quantization: Quantization
) -> None:
    """Compared by what one layer makes of unit vectors: int8 quantizes those without a rest."""
    plain = load_dequantized(tiny_model_folder, quantization)
    quantized = load_base(tiny_model_folder, dtype="float32", quantization=quantization)
    stored = load_base(tiny_model_folder)
    name = "model.layers.1.mlp.up_proj"
    with torch.inference_mode():
        columns = quantized.get_submodule(name)(torch.eye(64)[None])[0]
    weights = plain.get_submodule(name).weight
    assert torch.allclose(columns.T, weights, atol=1e-6)
    assert (weights - stored.get_submodule(name).weight).abs().max() > 1e-5
    assert not hasattr(plain.config, "quantization_config")
