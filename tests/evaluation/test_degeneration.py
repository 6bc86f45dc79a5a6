"""Degenerate answers to general prompts, as the evaluation and the trainer measure them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ft_dagster.data.rendering.render import load_tokenizer
from ft_dagster.evaluation.degeneration import (
    NEW_TOKENS,
    Written,
    answer_general_prompts,
    answered,
    as_samples,
    repeated_share,
    rows_to_ask,
)
from ft_dagster.evaluation.models.greedy import Greedy, rows_of, write
from ft_dagster.gate.level import level_of
from ft_dagster.gate.power import least_questions
from ft_dagster.gate.prompts import PROMPTS
from ft_dagster.gate.samples import scores
from ft_dagster.spec.variant import GatesSpec
from tests.evaluation.questions import adds_tokens


@pytest.fixture
def model(tiny_model_folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32).eval()


@pytest.mark.slow
def test_greedy_answers_are_those_of_each_prompt_alone(model: Any, tiny_tokenizer: Any) -> None:
    """One batch with padding on the left equals token by token without any."""
    prompts = ["The permit", "The whale rose slowly beside the ship", "Which documents must I bring"]
    expected = []
    for prompt in prompts:
        ids = tiny_tokenizer(prompt, add_special_tokens=False)["input_ids"]
        start = len(ids)
        for _ in range(NEW_TOKENS):
            with torch.no_grad():
                ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == tiny_tokenizer.eos_token_id:
                ids.pop()
                break
        expected.append(ids[start:])
    end = tiny_tokenizer.eos_token_id
    ids = [tiny_tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    answers = write(model, rows_of(ids, new_tokens=NEW_TOKENS, ends={end}))
    assert [[token for token in each.tokens if token != end] for each in answers] == expected


def test_a_prompt_does_not_end_with_an_end_that_the_tokenizer_adds(tiny_model_folder: Path) -> None:
    tokenizer = adds_tokens(load_tokenizer(tiny_model_folder))
    tokenizer.chat_template = None
    (asked,) = rows_to_ask(tokenizer, ["The permit"])
    assert asked.prompt[0] == tokenizer.pad_token_id
    assert tokenizer.eos_token_id not in asked.prompt


def test_repetition_is_the_share_of_4_grams_seen_before() -> None:
    assert repeated_share([1, 2, 3, 4, 5, 6]) == 0
    assert repeated_share([7] * 8) == pytest.approx(4 / 5)
    assert repeated_share([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)


def test_an_answer_under_four_tokens_can_be_repetition() -> None:
    assert repeated_share([7, 7]) == repeated_share([7, 7, 7]) == 1
    assert (
        repeated_share([7, 8, 7]) == repeated_share([1, 2]) == repeated_share([7]) == repeated_share([]) == 0
    )


@pytest.mark.parametrize("period", [1, 4, 28, 29, 40, NEW_TOKENS // 2])
def test_a_loop_of_any_period_up_to_half_of_an_answer_is_seen(period: int) -> None:
    loop = list(range(period)) * NEW_TOKENS
    assert repeated_share(loop[:NEW_TOKENS]) > 0.45


def test_an_answer_is_degenerate_as_far_as_it_repeats_or_is_empty() -> None:
    assert Written.of("p", "", []).degenerate == Written.of("p", '".', [5, 6]).degenerate == 1.0
    assert Written.of("p", "a a a a a a", [7] * 6).degenerate == pytest.approx(2 / 3)
    assert Written.of("p", "It is blue.", [1, 2, 3, 4]).degenerate == 0.0


def test_the_prompts_are_enough_to_decide_at_the_default_margin() -> None:
    margin = GatesSpec().degeneration_margin
    assert margin is not None
    assert len(set(PROMPTS)) == len(PROMPTS) == 32
    assert least_questions(margin - 0.08, alpha=level_of(GatesSpec().alpha)) <= len(PROMPTS)


@pytest.mark.slow
def test_each_prompt_gives_three_scores_and_its_answer(model: Any, tiny_tokenizer: Any) -> None:
    written = answer_general_prompts(model, tiny_tokenizer)
    found = as_samples(written)
    assert [answer.asked for _, answer in found] == list(PROMPTS)
    means = {score.metric: score.value for score in scores([s for rows, _ in found for s in rows])}
    assert means["repeated_4grams"] == pytest.approx(sum(each.repeated for each in written) / len(PROMPTS))
    assert set(means) == {"repeated_4grams", "empty_answer", "degenerate"}


def test_what_follows_the_end_of_turn_is_no_part_of_an_answer(base_of_two_ends: Path) -> None:
    """Training taught to end there, and a server ends there: eos is another token."""
    tokenizer = load_tokenizer(base_of_two_ends)
    said = tokenizer("Blue.<|im_end|>", add_special_tokens=False)["input_ids"]
    (row,) = rows_to_ask(tokenizer, ["Name a colour."])
    assert [row.is_over(said[:count]) for count in range(1, len(said) + 1)] == [False] * (len(said) - 1) + [
        True
    ]
    assert row.is_over([tokenizer.eos_token_id])
    (written,) = answered(tokenizer, [Greedy(said)], ["Name a colour."])
    assert (written.answer, written.repeated) == ("Blue.", repeated_share(said[:-1]))


def test_general_prompts_are_the_same_on_every_day(tiny_model_folder: Path) -> None:
    tokenizer = load_tokenizer(tiny_model_folder)
    plain = tokenizer.decode(rows_to_ask(tokenizer)[0].prompt)
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y, %H:%M:%S.%f') }}" + tokenizer.chat_template
    assert tokenizer.decode(rows_to_ask(tokenizer)[0].prompt) == "26 Jul 2024" + plain


def test_general_prompts_have_the_token_ids_of_the_chat_template(tiny_tokenizer: Any) -> None:
    turns = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    expected = tiny_tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    assert [list(row.prompt) for row in rows_to_ask(tiny_tokenizer)] == expected
