"""Degenerate answers to general prompts, as the evaluation and the trainer measure them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ft_dagster.evaluation.degeneration import (
    NEW_TOKENS,
    PROMPTS,
    answer_general_prompts,
    as_samples,
    generate_greedily,
    repeated_share,
)
from ft_dagster.evaluation.samples import scores


@pytest.fixture
def model(tiny_model_folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32).eval()


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
    assert generate_greedily(model, tiny_tokenizer, prompts) == expected


def test_repetition_is_the_share_of_4_grams_seen_before() -> None:
    assert repeated_share([1, 2, 3, 4, 5, 6]) == 0
    assert repeated_share([7] * 8) == pytest.approx(4 / 5)
    assert repeated_share([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)
    assert repeated_share([1, 2]) == repeated_share([]) == 0


def test_each_prompt_gives_two_scores_and_its_answer(model: Any, tiny_tokenizer: Any) -> None:
    written = answer_general_prompts(model, tiny_tokenizer)
    found = as_samples(written)
    assert [answer.asked for _, answer in found] == list(PROMPTS)
    means = {score.metric: score.value for score in scores([s for rows, _ in found for s in rows])}
    assert means["repeated_4grams"] == pytest.approx(sum(each.repeated for each in written) / 4)
    assert set(means) == {"repeated_4grams", "empty_answer"}
