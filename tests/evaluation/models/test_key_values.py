"""What questions begin with is computed once only where that is exact, and its memory is given back."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.cache_utils import DynamicLayer

from ft_dagster.evaluation.models.load import load_base, load_tuned
from ft_dagster.evaluation.models.model import TokenBatchedLM
from tests.evaluation.payloads import make_payload
from tests.evaluation.questions import requests

pytestmark = pytest.mark.slow
QUESTION = "Which documents must I bring to the bank?"
EXAMPLES = "".join(f"Q: {QUESTION} ({n})\nA: a form and {n} copies\n\n" for n in range(6))
ASKED = [
    (f"{EXAMPLES}Q: number {n}?{' whale' * n}\nA:", f" {answer}")
    for n in range(8)
    for answer in ("yes", "a form")
]
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
FEW = {**SMALL, "num_key_value_heads": 2}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4}
BESIDE: list[tuple[str, str]] = [(QUESTION, " passport"), ("A form", " yes")]


def architecture(name: str, **settings: Any) -> Callable[[Any], Any]:
    """Make a maker of a random model of this architecture, whose scores depend on all that is before."""

    def make(tokenizer: Any) -> Any:
        torch.manual_seed(0)
        config = getattr(transformers, f"{name}Config")(
            **{
                "vocab_size": len(tokenizer),
                "pad_token_id": 0,
                "bos_token_id": 1,
                "eos_token_id": 2,
                **settings,
            }
        )
        model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.data.mul_(3)
        return model

    return make


EXACT = {
    "absolute positions": architecture("GPT2", **GPT),
    "absolute positions with an offset": architecture(
        "OPT", hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=32
    ),
    "experts": architecture("Mixtral", **FEW, num_local_experts=4),
    "compressed keys": architecture(
        "DeepseekV3", **SMALL, num_key_value_heads=4, q_lora_rank=16, kv_lora_rank=16, qk_nope_head_dim=8,
        qk_rope_head_dim=8, v_head_dim=8, n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1,
        moe_intermediate_size=16, first_k_dense_replace=1,
    ),
}  # fmt: skip
INEXACT = {
    "a sliding window": architecture("Mistral", **FEW, sliding_window=16),
    "windows in some layers": architecture("Gemma2", **FEW, head_dim=8, sliding_window=16),
    "local attention": architecture(
        "GPTNeo", hidden_size=32, num_layers=2, num_heads=4, window_size=16,
        attention_types=[[["global", "local"], 1]],
    ),
    "a recurrent state": architecture("Mamba", hidden_size=32, num_hidden_layers=2, state_size=4),
    "recurrent and attending layers": architecture(
        "Jamba", **FEW, attn_layer_period=2, attn_layer_offset=1, mamba_d_state=4,
        num_experts=2, use_mamba_kernels=False,
    ),
    "ALiBi": architecture("Bloom", hidden_size=32, n_layer=2, n_head=4),
    "ALiBi in an architecture that also rotates": architecture(
        "Falcon", hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=True
    ),
    "rotation that grows with the text": architecture(
        "Llama", **SMALL, max_position_embeddings=128,
        rope_parameters={"rope_type": "dynamic", "factor": 8.0, "rope_theta": 10000.0},
    ),
    "rotation of long texts": architecture(
        "Phi3", **FEW, max_position_embeddings=2048,
        original_max_position_embeddings=128,
        rope_parameters={
            "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4,
            "long_factor": [4.0] * 4,
            "original_max_position_embeddings": 128,
        },
    ),
}  # fmt: skip


def ask(model: Any, tokenizer: Any, asked: list[tuple[str, str]], **how: Any) -> tuple[Any, list[float]]:
    lm = TokenBatchedLM(model, tokenizer, **how)
    return lm, [pair[0] for pair in lm.loglikelihood(requests("loglikelihood", *asked))]


def alone(model: Any, tokenizer: Any, asked: list[tuple[str, str]]) -> list[float]:
    """Score each request whole, in a pass of its own."""
    return [ask(model, tokenizer, [each], shares=False, begins=False)[1][0] for each in asked]


@pytest.mark.parametrize("kind", [*EXACT, *INEXACT])
def test_a_beginning_is_remembered_only_where_scores_are_those_of_whole_questions(
    kind: str, tiny_tokenizer: Any
) -> None:
    model = {**EXACT, **INEXACT}[kind](tiny_tokenizer)
    asked = [*ASKED, *BESIDE]
    lm, scores = ask(model, tiny_tokenizer, asked)
    assert lm.begins is (kind in EXACT)
    assert scores == pytest.approx(alone(model, tiny_tokenizer, asked), abs=1e-3)


def test_local_attention_shares_nothing_where_its_window_is_longer_than_what_is_tried(
    tiny_tokenizer: Any,
) -> None:
    """Its cache takes such layers for others, and a text shorter than the window shows no difference."""
    model = architecture(
        "GPTNeo", hidden_size=32, num_layers=2, num_heads=4, window_size=256,
        attention_types=[[["global", "local"], 1]],
    )(tiny_tokenizer)  # fmt: skip
    lm, scores = ask(model, tiny_tokenizer, ASKED)
    assert not lm.begins
    assert not lm.shares
    assert scores == pytest.approx(alone(model, tiny_tokenizer, ASKED), abs=1e-3)


@pytest.mark.parametrize("kind", ["nf4", "int8", "prompt", "prefix", "lora"])
def test_beside_an_adapter_too(
    kind: str, tiny_model_folder: Path, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    payload = make_payload(kind, tiny_model_folder, tmp_path / kind)
    model = load_tuned(tiny_model_folder, payload, dtype="float32")
    lm, scores = ask(model, tiny_tokenizer, ASKED)
    assert lm.begins is (kind in ("nf4", "lora"))
    if kind != "int8":  # it rounds by what else stands in a batch
        assert scores == pytest.approx(alone(model, tiny_tokenizer, ASKED), abs=1e-3)


ODD = {
    "a question that is the beginning itself": [*ASKED, (EXAMPLES.rstrip(), " yes"), (EXAMPLES, "a form")],
    "one question": ASKED[:1],
    "one question of several answers": [
        (ASKED[0][0], f" {answer}") for answer in ("yes", "a form", "no", "rain")
    ],
    "words that go on across the end of what is common": [
        (f"{EXAMPLES}pass{end}", " yes") for end in ("port", "", "word", "age", " port", "es", "ive", "p")
    ],
    "half of them alike": [
        each for n, pair in enumerate(ASKED) for each in (pair, (f"{n} {QUESTION}", " a form"))
    ],
    "texts in themselves": [("", question) for question, _ in ASKED[:4]],
    "answers longer than what is their own": [(question, f" {QUESTION}") for question, _ in ASKED],
    "a system message": [(f"{EXAMPLES * 2}{n}", " yes") for n in range(5)],
    "more than the model takes": [(f"{n}{EXAMPLES * 5}", " yes") for n in range(3)] + ASKED,
}


@pytest.mark.parametrize("kind", ODD)
def test_each_question_scores_as_in_a_pass_of_its_own(
    kind: str, tiny_model_folder: Path, tiny_tokenizer: Any
) -> None:
    model = load_base(tiny_model_folder, dtype="float32")
    _, scores = ask(model, tiny_tokenizer, ODD[kind], begins=True)
    assert scores == pytest.approx(alone(model, tiny_tokenizer, ODD[kind]), abs=1e-4)


def test_what_was_remembered_is_given_back(
    tiny_model_folder: Path, tiny_tokenizer: Any, monkeypatch: Any
) -> None:
    """Of two beginnings one is held at a time, and none once all is answered."""
    held, most = weakref.WeakSet[Any](), list[int]()
    update = DynamicLayer.update

    def noted(layer: Any, *given: Any, **named: Any) -> Any:
        held.add(layer)
        most.append(len(held))
        return update(layer, *given, **named)

    monkeypatch.setattr(DynamicLayer, "update", noted)
    model = load_base(tiny_model_folder, dtype="float32")
    second = [(f"{question.upper()}", answer) for question, answer in ASKED]
    lm, _ = ask(model, tiny_tokenizer, [*ASKED, *second])
    assert lm.begins
    gc.collect()
    assert not held
    assert max(most) == model.config.num_hidden_layers
