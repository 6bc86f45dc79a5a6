"""Turns rows into an objective's examples: what it takes, and the two ways in which rows are rendered
for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ft_dagster.data.rendering.chat_form import note_chat, options_of
from ft_dagster.data.rendering.general import document_chunks
from ft_dagster.data.rendering.render import TrainOn, eos_token, render_rows
from ft_dagster.data.rows.rows import Row, in_exchange
from ft_dagster.errors import UserError
from ft_dagster.objectives import KINDS, OBJECTIVES, Rendered, objective_of
from ft_dagster.spec.variant import VariantSpec


@dataclass(frozen=True)
class RowRenderer:
    """Renders rows for an objective by a base's tokenizer; `max_length` is in tokens. `exchange`: see
    `rows.in_exchange`.
    """

    tokenizer: Any
    train_on: TrainOn
    max_length: int
    exchange: bool

    def whole(self, rows: Sequence[Row]) -> Iterator[Rendered]:
        """Yield an example of each row, cut to `max_length`. Raises UserError as `render_rows`."""
        given = [in_exchange(row, self.exchange) for row in rows]
        return render_rows(given, self.tokenizer, train_on=self.train_on, max_length=self.max_length)

    def chunks(self, row: Row) -> Iterator[Rendered]:
        """Yield the examples of a text. Raises UserError for a tokenizer that cannot end it."""
        eos_token(row, self.tokenizer)
        for chunk in document_chunks(row.text, 0, self.tokenizer, self.max_length):
            yield chunk.rendered()


def examples_of(
    spec: VariantSpec, rows: Sequence[Row], tokenizer: Any, max_length: int, *, exchange: bool
) -> Iterator[tuple[Row, Sequence[Rendered]]]:
    """Yield each row with its examples, none for a row that gives none. Raises UserError."""
    note_chat(tokenizer, options_of(spec.data))
    renderer = RowRenderer(tokenizer, spec.data.train_on, max_length, exchange)
    return zip(rows, objective_of(spec.objective).examples(rows, renderer), strict=True)


def refuse_kind(spec: VariantSpec, row: Row, declared_in: object) -> None:
    """Raise UserError for a row that the declared objective cannot train on."""
    taken = objective_of(spec.objective).rows
    if row.kind in taken:
        return
    other = next(name for name, objective in OBJECTIVES.items() if row.kind in objective.rows)
    wanted = " and ".join(KINDS[kind] for kind in taken)
    raise UserError(
        f"{spec.objective} trains on {wanted}, and the source {row.named} has {KINDS[row.kind]}",
        file=declared_in,
        field="objective",
        value=spec.objective,
        fix=f"Declare objective: {other} for such rows, or give the source as {wanted}",
    )
