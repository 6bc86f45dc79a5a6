"""Finds signs of degeneration while it trains: what `evaluation.degeneration` writes, leaving no trace."""

from __future__ import annotations

from typing import Any

from ft_dagster.evaluation.degeneration import WATCHED, WATCHED_TOKENS, answer_general_prompts
from ft_dagster.training.watch.budget import ForwardWork

IDENTITY = {"prompts": list(WATCHED), "tokens": WATCHED_TOKENS}  # what is asked


def degeneration(model: Any, tokenizer: Any) -> dict[str, Any]:
    """Return {"repeated": share of 4-grams seen before in the same answer, "empty": share of answers,
    "answers": …}.

    The means of four of its prompts, answered more briefly.
    """
    from ft_dagster.training.watch.undisturbed import undisturbed

    with undisturbed(model):
        written = answer_general_prompts(model, tokenizer, WATCHED, WATCHED_TOKENS)
    return {
        "repeated": sum(each.repeated for each in written) / len(written),
        "empty": sum(each.empty for each in written) / len(written),
        "answers": [each.answer for each in written],
    }


def work(tokenizer: Any) -> ForwardWork:
    """Count the work of answering once: all prompts and all that may be written."""
    written = len(WATCHED) * WATCHED_TOKENS
    return ForwardWork(sum(len(tokenizer(prompt)["input_ids"]) for prompt in WATCHED) + written, 0, written)
