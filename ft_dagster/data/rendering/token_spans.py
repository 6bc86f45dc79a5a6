"""Turns texts with marked spans of characters into tokens with spans of tokens."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any, NamedTuple

from ft_dagster.objectives import Rendered, Spans


class Marked(NamedTuple):
    """Marks the character spans of a text to train on. `eos`: the end-of-sequence token follows, trained
    too.
    """

    text: str
    spans: Spans
    special: bool
    eos: bool


def encode_texts(texts: Iterable[str], tokenizer: Any) -> Iterator[tuple[list[int], list[tuple[int, int]]]]:
    """Yield (token ids, character offsets) of plain texts, with the special tokens that the tokenizer
    adds.
    """
    for text in texts:
        encoded = tokenizer(text, return_offsets_mapping=True, verbose=False)
        yield encoded["input_ids"], encoded["offset_mapping"]


def encode(texts: list[str], tokenizer: Any, special: bool) -> Any:
    """Return `input_ids` of each text, and its Encoding, which knows their places, in `encodings`."""
    return tokenizer(
        texts,
        add_special_tokens=special,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )


def spanned(
    item: Marked, ids: list[int], encoding: Any, eos: int | None
) -> tuple[list[int], list[tuple[int, int]]]:
    """Return token ids and spans from character spans; a token across a span's start belongs to the span."""
    if item.eos and eos is not None and (not ids or ids[-1] != eos):
        ids = [*ids, eos]
    spans = []
    for start, end in item.spans:
        first = len(ids) if start >= len(item.text) else _ended_before(encoding, start)
        to_the_end = end >= len(item.text) or (item.eos and end == item.spans[-1][1])
        last = len(ids) if to_the_end else _ended_before(encoding, end)
        if last > max(1, first):
            spans.append((max(1, first), last))
    return ids, spans


def _ended_before(encoding: Any, place: int) -> int:
    """Count the tokens that end before a character: the number of the first that does not."""
    token: int | None = encoding.char_to_token(place)
    if token is not None:
        return token
    # It is in none, as a space that the tokenizer leaves out. A token that the tokenizer adds by itself has
    # the offsets (0, 0): let it end where the one before does.
    return bisect_right(list(accumulate((end for _, end in encoding.offsets), max)), place)


def cut(ids: list[int], spans: list[tuple[int, int]], max_length: int | None) -> Rendered:
    if max_length is None or len(ids) <= max_length:
        return Rendered(ids, tuple(spans))
    kept = tuple((start, min(end, max_length)) for start, end in spans if start < max_length)
    return Rendered(ids[:max_length], kept, truncated=True, whole=len(ids))
