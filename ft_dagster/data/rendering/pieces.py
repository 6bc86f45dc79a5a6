"""Takes a row apart as training renders it: what is trained, what is context, and what is cut off."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from ft_dagster.data.rendering.examples import examples_of
from ft_dagster.data.rows.rows import Row
from ft_dagster.objectives import Rendered
from ft_dagster.spec.variant import VariantSpec

Part = Literal["trained", "context", "cut"]
MARKS: dict[str, tuple[str, str]] = {"trained": ("«", "»"), "context": ("", ""), "cut": ("✂", "✂")}
WHOLE = 10_000_000  # tokens: more than any row has


class Piece(NamedTuple):
    """Is a piece of a row's text, what is done with it, and how many tokens it has."""

    part: Part
    text: str
    tokens: int

    @property
    def marked(self) -> str:
        left, right = MARKS[self.part]
        return f"{left}{self.text}{right}"


def pieces_of_row(
    spec: VariantSpec, row: Row, tokenizer: Any, max_length: int, *, exchange: bool
) -> list[Piece]:
    """Return the pieces of a row, in order; a text that becomes several examples is not cut. Raises
    UserError as `examples_of`.
    """
    [(_, examples)] = examples_of(spec, [row], tokenizer, max_length, exchange=exchange)
    if any(example.truncated for example in examples):
        [(_, examples)] = examples_of(spec, [row], tokenizer, WHOLE, exchange=exchange)
    return list(_pieces(examples, tokenizer, max_length))


def marked(example: Rendered, tokenizer: Any) -> str:
    """Return an example as text, what is trained between « and »."""
    return "".join(piece.marked for piece in _pieces([example], tokenizer, len(example.input_ids)))


def _pieces(examples: Iterable[Rendered], tokenizer: Any, max_length: int) -> Iterator[Piece]:
    for example in examples:
        ids: Any = example.input_ids
        spans = [at for span in example.spans for at in span]
        for start, end in pairwise(sorted({0, min(max_length, len(ids)), len(ids), *spans})):
            trained = any(first <= start < last for first, last in example.spans)
            part: Part = "cut" if start >= max_length else "trained" if trained else "context"
            yield Piece(part, tokenizer.decode(ids[start:end], skip_special_tokens=False), end - start)
