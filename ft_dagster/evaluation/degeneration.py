"""Signs of degeneration on four fixed general prompts: repeated 4-grams and empty answers, greedily.

Used by the evaluation, and by the trainer while it trains (training/watch). Imports torch inside functions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from ft_dagster.evaluation.samples import Answer, Role, Sample
from ft_dagster.evaluation.weights import generate as generate_padded
from ft_dagster.evaluation.weights import inner_model, virtual_tokens

GENERAL_PROMPTS = "general_prompts"
ROLE: Role = "general_prompts"
PROMPTS = (
    "Explain in a few sentences why the sky is blue.",
    "Write a short story about a fisherman who finds a letter in a bottle.",
    "What should I keep in mind when I plan a train journey with two small children?",
    "List the steps for baking a simple loaf of bread.",
)
NEW_TOKENS = 32
GRAM = 4


class Written(NamedTuple):
    """An answer. `repeated`: share of its 4-grams seen before in it; `empty`: 1.0 if it has no words."""

    prompt: str
    answer: str
    repeated: float
    empty: float


def answer_general_prompts(model: Any, tokenizer: Any) -> list[Written]:
    """Answers to the four prompts, in the chat template where the tokenizer has one, else as questions.

    `model` is in evaluation mode; its generation settings are greedy afterwards.
    """
    answers = generate_greedily(model, tokenizer, [_asked(prompt, tokenizer) for prompt in PROMPTS])
    texts = [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in answers]
    return [
        Written(prompt, text, repeated_share(ids), float(not text))
        for prompt, text, ids in zip(PROMPTS, texts, answers, strict=True)
    ]


def as_samples(written: Sequence[Written]) -> list[tuple[list[Sample], Answer]]:
    """What an evaluation keeps of each answer: two scores, and the words."""
    found = []
    for number, each in enumerate(written):
        content = hashlib.sha256(each.prompt.encode()).hexdigest()[:16]
        question = f"{GENERAL_PROMPTS}:{number}:{content}"
        scores = [
            Sample(ROLE, GENERAL_PROMPTS, metric, question, value, 1.0, False)
            for metric, value in (("repeated_4grams", each.repeated), ("empty_answer", each.empty))
        ]
        found.append((scores, Answer(ROLE, GENERAL_PROMPTS, question, each.prompt, "", each.answer)))
    return found


def generate_greedily(model: Any, tokenizer: Any, prompts: Sequence[str]) -> list[list[int]]:
    """Greedy answers in tokens, the end token and what follows left out; one batch, padded on the left."""
    import torch
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
    with torch.no_grad():
        model.generation_config = inner_model(model).generation_config = settings  # its own are not greedy
        made = generate_padded(model, ids, mask)
    return [_until(row, end) for row in made[:, virtual_tokens(model) + width :].tolist()]


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
