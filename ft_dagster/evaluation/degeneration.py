"""Signs of degeneration on fixed general prompts, answered greedily: repetition, and answers without words.

Used by the evaluation, and by the trainer while it trains (training/watch). Imports torch inside functions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ft_dagster.evaluation.prompts import PROMPTS
from ft_dagster.evaluation.samples import Answer, Role, Sample

if TYPE_CHECKING:
    from ft_dagster.evaluation.greedy import Greedy

GENERAL_PROMPTS = "general_prompts"
ROLE: Role = "general_prompts"
DEGENERATE = "degenerate"  # the metric that the gate judges
NEW_TOKENS = 96  # so that a loop of up to half of them is seen
WATCHED, WATCHED_TOKENS = PROMPTS[:4], 32  # while it trains
GRAM = 4


class Written(NamedTuple):
    """An answer. `repeated`: see `repeated_share`; `empty`: 1.0 if it has no letter and no digit."""

    prompt: str
    answer: str
    repeated: float
    empty: float

    @classmethod
    def of(cls, prompt: str, answer: str, tokens: Sequence[int]) -> Written:
        return cls(prompt, answer, repeated_share(tokens), float(not any(map(str.isalnum, answer))))

    @property
    def degenerate(self) -> float:
        return max(self.repeated, self.empty)


def answer_general_prompts(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str] = PROMPTS,
    new_tokens: int = NEW_TOKENS,
    write: Callable[..., Sequence[Greedy]] | None = None,
) -> list[Written]:
    """Answers to the prompts, in the chat template where the tokenizer has one, else as questions.

    `model` is in evaluation mode. `write`: what answers in its place, as `greedy.write` does.
    """
    asked = [_asked(prompt, tokenizer) for prompt in prompts]
    answers = generate_greedily(model, tokenizer, asked, new_tokens, write)
    texts = [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in answers]
    return [Written.of(*each) for each in zip(prompts, texts, answers, strict=True)]


def as_samples(written: Sequence[Written]) -> list[tuple[list[Sample], Answer]]:
    """What an evaluation keeps of each answer: three scores, and the words."""
    found = []
    for number, each in enumerate(written):
        content = hashlib.sha256(each.prompt.encode()).hexdigest()[:16]
        question = f"{GENERAL_PROMPTS}:{number}:{content}"
        scores = [
            Sample(ROLE, GENERAL_PROMPTS, metric, question, value, 1.0, False)
            for metric, value in (
                ("repeated_4grams", each.repeated),
                ("empty_answer", each.empty),
                (DEGENERATE, each.degenerate),
            )
        ]
        found.append((scores, Answer(ROLE, GENERAL_PROMPTS, question, each.prompt, "", each.answer)))
    return found


def generate_greedily(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    new_tokens: int = NEW_TOKENS,
    write: Callable[..., Sequence[Greedy]] | None = None,
) -> list[list[int]]:
    """Greedy answers in tokens, the end token left out; one batch. `write`: see `answer_general_prompts`."""
    from ft_dagster.evaluation import greedy

    write = write or partial(greedy.write, model)
    plain = not tokenizer.chat_template
    rows = [tokenizer(prompt, add_special_tokens=plain)["input_ids"] for prompt in prompts]
    ends = set() if tokenizer.eos_token_id is None else {tokenizer.eos_token_id}
    answers = [each.tokens for each in write(rows, new_tokens=new_tokens, ends=ends)]
    return [tokens[:-1] if tokens[-1] in ends else tokens for tokens in answers]


def repeated_share(tokens: Sequence[int]) -> float:
    """Of its 4-grams, those that occurred before in it: about half or more of a loop whose period is at most
    half of the text. A text of two or three tokens counts whole where they are the same token.
    """
    if len(tokens) <= 1:
        return 0.0
    if len(tokens) < GRAM:
        return float(len(set(tokens)) == 1)
    grams = [tuple(tokens[at : at + GRAM]) for at in range(len(tokens) - GRAM + 1)]
    return 1 - len(set(grams)) / len(grams)


def _asked(prompt: str, tokenizer: Any) -> str:
    if not tokenizer.chat_template:
        return f"Question: {prompt}\nAnswer:"
    asked: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    return asked
