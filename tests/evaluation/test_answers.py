"""Answers of base and tuned model to the same prompts."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from ft_dagster.evaluation.answers import AnswerPair, PromptRequest, answer
from ft_dagster.evaluation.models.greedy import Greedy, rows_of, write_all
from ft_dagster.evaluation.models.load import load_base
from tests.evaluation.payloads import make_payload, write_greedily

pytestmark = pytest.mark.slow


def answered(asked: PromptRequest) -> list[AnswerPair]:
    (answers,) = answer([asked], max_new_tokens=8)
    return answers


@pytest.mark.long
def test_prompts_answered_together_are_answered_as_alone(tiny_model_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    adapted = get_peft_model(
        model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    )
    adapted.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model_folder).save_pretrained(tmp_path)
    prompts = ["Which documents must I bring?", "The whale rose slowly beside the ship and", "a"]
    asked = PromptRequest(tiny_model_folder, tmp_path, prompts, system="be short")
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
    plain = answered(PromptRequest(tiny_model_folder, tmp_path, ["The whale rose"], chat=False))
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
    stored, quantized = (
        answered(
            PromptRequest(tmp_path / "base", make_payload(kind, tmp_path / "base", tmp_path / kind), prompts)
        )
        for kind in ("lora", "nf4")
    )
    assert [a.base for a in quantized] == [a.base for a in stored]
    assert [a.tuned for a in quantized] != [a.base for a in quantized]


def test_variants_are_answered_together_as_each_alone_and_a_base_writes_once(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = shutil.copytree(tiny_model_folder, tmp_path / "other")
    asked = [
        PromptRequest(base, make_payload(kind, base, tmp_path / kind), prompts, chat=chat)
        for kind, base, prompts, chat in (
            ("nf4", tiny_model_folder, ["Who are", "a b"], True),
            ("prompt", other, ["Where is the ship?"], False),
            ("lora", tiny_model_folder, ["The whale"], False),
            ("full", tiny_model_folder, ["Who are you?"], True),
        )
    ]
    alone = [answered(each) for each in asked]
    written: list[int] = []

    def write_some(model: Any, rows: Any, *options: Any) -> Any:
        written.append(len(rows))
        return write_all(model, rows, *options)

    monkeypatch.setattr("ft_dagster.evaluation.models.greedy.write_all", write_some)
    assert list(answer(asked, max_new_tokens=8)) == alone
    assert written == [2, 4, 1, 1, 1, 1]


@pytest.mark.parametrize("tokens", [1, 20, 1000])
def test_batches_give_each_row_its_own_answer(tiny_model_folder: Path, tokens: int) -> None:
    model = load_base(tiny_model_folder, dtype="float32")
    rows = rows_of([[5, 6], [7], [8, 9, 10, 11], [12, 13]], new_tokens=4, ends=())
    assert [each.tokens for each in write_all(model, rows, tokens)] == [
        write_greedily(model, list(row.prompt), 4, end=-1) for row in rows
    ]


def test_an_answer_ends_with_the_turn_where_eos_is_another_token(
    base_of_two_ends: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base_of_two_ends)
    said = tokenizer("Blue.<|im_end|>\n<|im_start|>user\n", add_special_tokens=False)["input_ids"]

    def write_said(model: Any, rows: Any, *options: Any) -> list[Greedy]:
        ends = [next(n for n in range(1, len(said) + 1) if row.is_over(said[:n])) for row in rows]
        return [Greedy(said[:end]) for end in ends]

    monkeypatch.setattr("ft_dagster.evaluation.models.greedy.write_all", write_said)
    asked = PromptRequest(
        base_of_two_ends, make_payload("lora", base_of_two_ends, tmp_path / "lora"), ["Who?"]
    )
    (pair,) = next(answer([asked], max_new_tokens=len(said)))
    assert (pair.base, pair.tuned) == ("Blue.", "Blue.")
