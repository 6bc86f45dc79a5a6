"""Signs of degeneration on four fixed general prompts: repeated 4-grams and empty answers, greedily."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ft_dagster.training.watch.undisturbed import undisturbed

PROMPTS = (
    "Explain in a few sentences why the sky is blue.",
    "Write a short story about a fisherman who finds a letter in a bottle.",
    "What should I keep in mind when I plan a train journey with two small children?",
    "List the steps for baking a simple loaf of bread.",
)
NEW_TOKENS = 32
GRAM = 4


def degeneration(model: Any, tokenizer: Any) -> dict[str, Any]:
    """{"repeated": share of 4-grams seen before in the same answer, "empty": share of answers, "answers": …}.

    The means of the four prompts. Asked in the chat template where the tokenizer has one, else as a question.
    """
    answers = generate(model, tokenizer, [_asked(prompt, tokenizer) for prompt in PROMPTS])
    texts = [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in answers]
    return {
        "repeated": sum(map(repeated_share, answers)) / len(answers),
        "empty": sum(not text for text in texts) / len(texts),
        "answers": texts,
    }


def generate(model: Any, tokenizer: Any, prompts: Sequence[str]) -> list[list[int]]:
    """Greedy answers in tokens, the end token and what follows left out; one batch, padded on the left."""
    from transformers import GenerationConfig

    plain = not tokenizer.chat_template
    rows = [tokenizer(prompt, add_special_tokens=plain)["input_ids"] for prompt in prompts]
    width = max(map(len, rows))
    end = tokenizer.eos_token_id
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (end or 0)
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
    settings = GenerationConfig(
        max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=end, pad_token_id=pad, use_cache=True
    )
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    with undisturbed(model), torch.no_grad():
        model.generation_config = inner.generation_config = settings  # the base's own are not greedy
        made = model.generate(input_ids=ids, attention_mask=mask)
    return [_until(row, end) for row in made[:, width:].tolist()]


def repeated_share(tokens: Sequence[int]) -> float:
    """Of its 4-grams, those that occurred before in it; 0 for fewer than four tokens."""
    grams = [tuple(tokens[at : at + GRAM]) for at in range(len(tokens) - GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _asked(prompt: str, tokenizer: Any) -> str:
    if not tokenizer.chat_template:
        return f"Question: {prompt}\nAnswer:"
    asked: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    return asked


def _until(tokens: list[int], end: int | None) -> list[int]:
    return tokens[: tokens.index(end)] if end in tokens else tokens
