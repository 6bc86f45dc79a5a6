"""Finds signs of degeneration in greedy answers to fixed general prompts: repetition, and answers without
words.

Used by the evaluation, and by the trainer while it trains (training/watch). Imports torch inside functions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ft_dagster.data.rendering.chat_rules import stop_token_ids
from ft_dagster.data.rendering.chat_template import render_asked
from ft_dagster.data.rendering.render import prompt_tokens
from ft_dagster.data.rows.rows import Message
from ft_dagster.gate.prompts import PROMPTS
from ft_dagster.gate.samples import DEGENERATE, GENERAL_PROMPTS, Answer, Role, Sample

if TYPE_CHECKING:
    from ft_dagster.evaluation.models.greedy import Greedy, PromptRow

ROLE: Role = "general_prompts"
NEW_TOKENS = 96  # so that a loop of up to half of them is seen
WATCHED, WATCHED_TOKENS = PROMPTS[:4], 32  # while it trains
GRAM = 4
PLAIN = "Question: {}\nAnswer:"  # how a model without a chat template is asked


class Written(NamedTuple):
    """Holds an answer. `repeated`: see `repeated_share`; `empty`: 1.0 if it has no letter and no digit."""

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
    model: Any, tokenizer: Any, prompts: Sequence[str] = PROMPTS, new_tokens: int = NEW_TOKENS
) -> list[Written]:
    """Answer the prompts greedily, in one batch. `model` is in evaluation mode."""
    from ft_dagster.evaluation.models.greedy import write

    return answered(tokenizer, write(model, rows_to_ask(tokenizer, prompts, new_tokens)), prompts)


def rows_to_ask(
    tokenizer: Any, prompts: Sequence[str] = PROMPTS, new_tokens: int = NEW_TOKENS
) -> list[PromptRow]:
    """Return the prompts in tokens, in the chat template where the tokenizer has one, else as questions.
    Raises UserError where the template refuses them.
    """
    from ft_dagster.evaluation.models.greedy import rows_of

    plain = not tokenizer.chat_template
    asked = [_asked(prompt, tokenizer) for prompt in prompts]
    ids = [prompt_tokens(text, tokenizer, special=plain) for text in asked]
    return rows_of(ids, new_tokens=new_tokens, ends=stop_token_ids(tokenizer))


def answered(tokenizer: Any, answers: Sequence[Greedy], prompts: Sequence[str] = PROMPTS) -> list[Written]:
    """Return the answers to `rows_to_ask` in words, the end token left out."""
    ends = stop_token_ids(tokenizer)
    ids = [each.tokens[:-1] if each.tokens[-1] in ends else each.tokens for each in answers]
    texts = [tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in ids]
    return [Written.of(*each) for each in zip(prompts, texts, ids, strict=True)]


def as_samples(written: Sequence[Written]) -> list[tuple[list[Sample], Answer]]:
    """Return what an evaluation keeps of each answer: three scores, and the words."""
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


def repeated_share(tokens: Sequence[int]) -> float:
    """Return the share of its 4-grams that occurred before in it: about half or more of a loop whose period
    is at most half of the text. A text of two or three tokens counts whole where they are the same token.
    """
    if len(tokens) <= 1:
        return 0.0
    if len(tokens) < GRAM:
        return float(len(set(tokens)) == 1)
    grams = [tuple(tokens[at : at + GRAM]) for at in range(len(tokens) - GRAM + 1)]
    return 1 - len(set(grams)) / len(grams)


def _asked(prompt: str, tokenizer: Any) -> str:
    if not tokenizer.chat_template:
        return PLAIN.format(prompt)
    return render_asked([Message("user", prompt)], tokenizer)
