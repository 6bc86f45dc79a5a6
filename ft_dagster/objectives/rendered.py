"""Defines what a row becomes and a batch is made of: token ids, and which of them are trained on."""

from __future__ import annotations

from dataclasses import dataclass

Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Rendered:
    """Is one example. `spans` are half open ranges of token positions that carry a label, from 1 on. `whole`:
    how many tokens it had before it was `truncated`; None: not known.
    """

    input_ids: list[int]
    spans: Spans
    truncated: bool = False
    whole: int | None = None

    @property
    def trained_tokens(self) -> int:
        return sum(end - start for start, end in self.spans)
