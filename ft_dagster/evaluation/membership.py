"""Makes lm-eval tasks of rows that a model was trained on, and of rows that it never saw, for their losses.

Both sides are rendered, and their losses taken, as those of the test split (`tasks.own_split`). Which rows
are asked follows from the bytes of the data set alone: nobody chooses them by a seed. Rows of one side that
are nearly rows of the other are left out of both: such a held-out row was seen, in all but name. Imports
lm-eval.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from lm_eval.api.task import ConfigurableTask

from ft_dagster.data.mixture.mixture_io import trained_rows_of
from ft_dagster.data.rows.content import question_ids
from ft_dagster.data.rows.dataset_io import dealt_turns, read_split
from ft_dagster.data.rows.near_across import near_across
from ft_dagster.data.rows.rows import Row, in_exchange
from ft_dagster.errors import UserError
from ft_dagster.evaluation.request import Membership, ReserveSet
from ft_dagster.evaluation.tasks.own_split import loss_tasks
from ft_dagster.gate.samples import MEMBERS, OTHERS
from ft_dagster.gate.sampling import in_drawn_order


def membership_tasks(
    asked: Membership, tokenizer: Any, *, max_length: int
) -> dict[str, list[ConfigurableTask]]:
    """Return the lm-eval tasks of both sides by name; none of a side without a row that can be asked.

    At most `rows` of each: of the training rows those of which the mixture has examples. Raises UserError
    where a split is gone.
    """
    train, held = asked.train.path, asked.held_out.path
    for file in (train, held):
        if not file.is_file():
            raise UserError("no such file", file=file, fix="Materialize task_dataset again")
    few = _drawn(held, asked, among=_set_of(held, asked.reserve))
    near, seen = near_across(read_split(train), [row for _, row in few])
    mixed = None if asked.mixed is None else trained_rows_of(asked.mixed.path)
    sides = {
        MEMBERS: _drawn(train, asked, without=near, among=mixed),
        OTHERS: [one for number, one in enumerate(few) if number not in seen],
    }
    return {
        name: tasks
        for name, drawn in sides.items()
        if (tasks := _tasks(name, drawn, asked, tokenizer, max_length))
    }


def _set_of(file: Path, part: ReserveSet | None) -> set[int] | None:
    """Return the numbers of the rows of one set of the test split; None: of all."""
    if part is None:
        return None
    dealt = dealt_turns(file, part.sets, joined=part.joined)
    return {n for n, (_, number) in enumerate(dealt) if number == part.number}


def _drawn(
    file: Path, asked: Membership, *, without: Collection[int] = (), among: Collection[int] | None = None
) -> list[tuple[str, Row]]:
    """Return the first rows of a split, each with its name, in an order that its bytes give."""
    names = question_ids([row.likeness for row in read_split(file)])
    order = in_drawn_order(names, int(asked.train.sha256[:12], 16))
    allowed = [n for n in order if n not in without and (among is None or n in among)]
    kept = set(allowed[: asked.rows])
    return [(names[n], row) for n, row in enumerate(read_split(file)) if n in kept]


def _tasks(
    name: str, drawn: list[tuple[str, Row]], asked: Membership, tokenizer: Any, max_length: int
) -> list[ConfigurableTask]:
    rows = [in_exchange(row, asked.exchange) for _, row in drawn]
    abouts = [
        {"index": n, "question": question, "record": row.likeness.hex(), "group": row.group}
        for n, (question, row) in enumerate(drawn)
    ]
    return loss_tasks(name, rows, abouts, tokenizer, max_length=max_length)
