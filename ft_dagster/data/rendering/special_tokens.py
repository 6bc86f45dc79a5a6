"""Finds a tokenizer's special tokens in a text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any


def special_pattern(tokenizer: Any) -> re.Pattern[str]:
    """Return a pattern that finds any special token; kept on the tokenizer, since it is asked for each
    row.
    """
    kept: re.Pattern[str] | None = getattr(tokenizer, "_ft_dagster_special", None)
    if kept is None:
        kept = tokenizer._ft_dagster_special = pattern_of(special_words(tokenizer))
    return kept


def special_words(tokenizer: Any) -> list[str]:
    """Return the special tokens as text, the longest first."""
    words = {str(t.content) for t in tokenizer.added_tokens_decoder.values() if t.special}
    words |= {str(word) for word in tokenizer.all_special_tokens}
    return sorted(words - {""}, key=lambda word: (-len(word), word))


def pattern_of(words: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that finds any of the words; nothing where there is none."""
    return re.compile("|".join(map(re.escape, words)) or r"(?!)")
