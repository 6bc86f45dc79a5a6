"""Defines what every objective says of itself. Light: what needs torch imports it inside a function."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeVar

from ft_dagster.objectives.loss import Loss, next_token_loss
from ft_dagster.objectives.rendered import Rendered

RowKind = Literal["messages", "prompt_completion", "text"]
R = TypeVar("R")
R_contra = TypeVar("R_contra", contravariant=True)
KINDS: dict[RowKind, str] = {  # as a person would say it
    "messages": "conversations",
    "prompt_completion": "prompts with completions",
    "text": "raw text",
}


class Renderer(Protocol[R_contra]):
    """Makes examples of rows, with the base's tokenizer and chat template; see `data.rendering.examples`."""

    def whole(self, rows: Sequence[R_contra]) -> Iterator[Rendered]:
        """Yield one example of each row, in order: the answers trained on, cut to the longest length."""

    def chunks(self, row: R_contra) -> Iterator[Rendered]:
        """Yield all tokens of a text row, cut into examples; of each, all but the first token trained on."""


class MakesExamples(Protocol):
    """Yields the examples of each row, in order; none for a row that gives none."""

    def __call__(self, rows: Sequence[R], renderer: Renderer[R]) -> Iterator[Sequence[Rendered]]: ...


def one_each(rows: Sequence[R], renderer: Renderer[R]) -> Iterator[Sequence[Rendered]]:
    """Yield one example for each row."""
    return ([example] for example in renderer.whole(rows))


def chunked(rows: Sequence[R], renderer: Renderer[R]) -> Iterator[Sequence[Rendered]]:
    """Yield as many examples of a document as it has chunks."""
    return (list(renderer.chunks(row)) for row in rows)


class Usual(NamedTuple):
    """Holds a value that stands unless another is declared, and why."""

    value: float
    reason: str


@dataclass(frozen=True)
class Objective:
    """Says what is taught: the rows that it takes, what they become, its loss, what its model is judged by.

    `loss`: (logits [positions, vocabulary] in fp32, labels [positions]) -> their sum, a scalar in nats; each
    position counts by itself, for a few are asked for at a time.
    `judged_by`: loss: what `evaluation.kind` measures, the loss of the answers where nothing is said; score:
    the same, and a kind or a task must be declared; questions: a declared task, for no gate passes by a loss.
    `teaches`: facts are said to need all weights, behaviour and format do not. `narrow`: one task, which full
    fine-tuning wins where general ability need not be kept.
    """

    name: str
    rows: tuple[RowKind, ...]
    examples: MakesExamples
    loss: Loss
    judged_by: Literal["loss", "score", "questions"]
    teaches: Literal["behaviour", "facts"]
    narrow: bool = False
    epochs: Usual | None = None  # passes over the mixture; None: by the method
    lora_rank: Usual | None = None  # None: by the number of examples

    @property
    def own_loss(self) -> str | None:
        """Return its name where its loss is its own, else None: by it a plan tells the trainer which to
        take.
        """
        return None if self.loss is next_token_loss else self.name
