"""Chooses the questions that are asked: drawn by seed and content, never the first N, and the same for every
model.

A question's place in the draw depends on its id alone, so that questions added, moved or taken out leave most
of those that are asked as they were: versions of a model stay comparable.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence


def draw_questions(
    questions: Mapping[str, Sequence[str]], limit: int | None, seed: int, *, beyond: bool = False
) -> dict[str, list[int]]:
    """Return the document indices to ask of each (sub)task of one declared task, ascending; all of them
    without a limit. `beyond`: as many of those that are not asked otherwise, as far as there are any.

    `questions`: the ids of each subtask's documents, one entry for a plain task. A group such as mmlu
    gets `limit` questions in all, shared among its subtasks in proportion to their sizes (largest remainder),
    so that its plain mean is lm-eval's size-weighted one; a subtask whose share is none is left out.
    """
    sizes = {name: len(ids) for name, ids in questions.items()}
    total = sum(sizes.values())
    shares = dict(sizes) if limit is None or limit >= total else _shares(sizes, limit, seed)
    drawn = {name: in_drawn_order(questions[name], seed) for name, share in shares.items() if share}
    found = {
        name: sorted(order[shares[name] :][: shares[name]] if beyond else order[: shares[name]])
        for name, order in drawn.items()
    }
    return {name: rows for name, rows in found.items() if rows}


def draw_rows(questions: Sequence[str], limit: int | None, seed: int) -> list[int]:
    """Return the numbers of the rows to ask, ascending, by their ids; all of them without a limit."""
    return sorted(in_drawn_order(questions, seed)[:limit])


def in_drawn_order(questions: Sequence[str], seed: int) -> list[int]:
    """Return the numbers of all rows in the order in which they are drawn."""
    keys = [hashlib.sha256(f"{seed}\0{question}".encode()).digest() for question in questions]
    return sorted(range(len(questions)), key=lambda number: (keys[number], number))


def order_of_asking(questions: Sequence[str], seed: int) -> list[str]:
    """Return the ids of all questions of a task (subtask:number:identity) in the order in which they are
    asked where asking may end early.

    Each subtask's come in the order in which they are drawn, number k of its n at place (k + 1/2) / n of the
    whole: so many of them as `limit` would draw come first, of a group but for rounding.
    """
    subtasks: dict[str, list[str]] = {}
    for question in questions:
        subtask, number, identity = question.rsplit(":", 2)
        subtasks.setdefault(subtask, []).append(f"{number}:{identity}")
    placed = []
    for subtask, ids in subtasks.items():
        for place, drawn in enumerate(in_drawn_order(ids, seed)):
            placed.append(((place + 0.5) / len(ids), f"{subtask}:{ids[drawn]}"))
    return [question for _, question in sorted(placed)]


def _shares(sizes: Mapping[str, int], limit: int, seed: int) -> dict[str, int]:
    total = sum(sizes.values())
    shares = {name: limit * size // total for name, size in sizes.items()}
    ties = _generator(seed, *sizes)
    order = sorted(sizes, key=lambda name: (-(limit * sizes[name] % total), ties.random()))
    for name in order[: limit - sum(shares.values())]:
        shares[name] += 1
    return shares


def _generator(seed: int, *names: str) -> random.Random:
    """Return a generator seeded by names too, so that a task added to a declaration leaves the draws of the
    others alone.
    """
    digest = hashlib.sha256("\0".join((str(seed), *sorted(names))).encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))
