"""Answers of base and tuned model to the same prompts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from ft_dagster.evaluation.answers import AnswerPair, Asked, answer
from ft_dagster.evaluation.weights import load_base
from tests.evaluation.payloads import make_payload

pytestmark = pytest.mark.slow


def answered(asked: Asked) -> list[AnswerPair]:
    (answers,) = answer([asked], max_new_tokens=8)
    return answers


def test_prompts_answered_together_are_answered_as_alone(tiny_model_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    adapted = get_peft_model(
        model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    )
    adapted.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model_folder).save_pretrained(tmp_path)
    prompts = ["Which documents must I bring?", "The whale rose slowly beside the ship and", "a"]
    asked = Asked(tiny_model_folder, tmp_path, prompts, system="be short")
    together = answered(asked)
    alone = [answered(asked._replace(prompts=[prompt]))[0] for prompt in prompts]
    assert [a.prompt for a in together] == prompts
    assert together == alone
    assert any(a.base != a.tuned for a in together)


def test_a_plain_prompt_is_continued_without_a_template(tiny_model_folder: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    get_peft_model(model, LoraConfig(r=4, task_type="CAUSAL_LM")).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    tokenizer.save_pretrained(tmp_path)
    plain = answered(Asked(tiny_model_folder, tmp_path, ["The whale rose"], chat=False))
    ids = tokenizer("The whale rose", return_tensors="pt").input_ids
    base = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.bfloat16)
    expected = base.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
    assert plain[0].base == tokenizer.decode(expected, skip_special_tokens=True).strip()


def test_the_base_of_a_quantized_training_answers_as_it_is_stored(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    for name, weight in model.named_parameters():
        if "_proj" in name:
            weight.data *= 8  # so that rounding to 4 bits is seen in the answers
    model.save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(tiny_model_folder).save_pretrained(tmp_path / "base")
    prompts = ["Which documents must I bring?", "The whale rose slowly beside the ship and"]
    stored, quantized = answer(
        [
            Asked(tmp_path / "base", make_payload(kind, tmp_path / "base", tmp_path / kind), prompts)
            for kind in ("lora", "nf4")
        ]
    )
    assert [a.base for a in quantized] == [a.base for a in stored]
    assert [a.tuned for a in quantized] != [a.base for a in quantized]


def test_each_variant_of_a_base_is_answered_as_alone_and_the_base_is_loaded_once(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [
        Asked(
            tiny_model_folder,
            make_payload("lora", tiny_model_folder, tmp_path / "lora"),
            ["The whale"],
            False,
        ),
        Asked(
            tiny_model_folder, make_payload("nf4", tiny_model_folder, tmp_path / "nf4"), ["Who are", "a b"]
        ),
        Asked(
            tiny_model_folder, make_payload("full", tiny_model_folder, tmp_path / "full"), ["Who are you?"]
        ),
    ]
    alone = [answered(each) for each in asked]
    loaded: list[Path] = []

    def load(base: Path, **options: Any) -> Any:
        loaded.append(base)
        return load_base(base, **options)

    monkeypatch.setattr("ft_dagster.evaluation.answers.load_base", load)
    assert list(answer(asked, max_new_tokens=8)) == alone
    assert loaded == [tiny_model_folder]
