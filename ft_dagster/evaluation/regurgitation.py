"""Tests whether the model repeats what it was trained on: greedy continuations of training rows and planted
canaries.

A row is given up to the middle of its answer (of a text, of its first 512 tokens), a canary up to its own
middle with all that stands before it in its row. It is regurgitated if the next tokens come out word for
word: 32 at most of a row, the whole rest of a canary. After Carlini et al., "Quantifying memorization across
neural language models" (ICLR 2023). Imports lm-eval.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.task import ConfigurableTask

from ft_dagster.data.rendering.render import render_turn
from ft_dagster.data.rows.content import question_ids
from ft_dagster.data.rows.dataset_io import read_split
from ft_dagster.data.rows.rows import Row, in_exchange, upto_trained
from ft_dagster.errors import UserError
from ft_dagster.evaluation.tasks.own_split import Doc, Encoded, abouts, config_of, text_doc, turn_doc
from ft_dagster.gate.samples import CANARIES, ROWS
from ft_dagster.gate.sampling import in_drawn_order

REPEATED = "regurgitated"
CONTINUED = 32  # tokens of a row that must come out
SHORTEST = 8  # tokens: fewer are as soon guessed as remembered


def probes(
    train: Path,
    tokenizer: Any,
    *,
    rows: int,
    canaries: Sequence[str],
    seed: int,
    max_length: int,
    exchange: bool = False,
) -> dict[str, ConfigurableTask]:
    """Return the lm-eval tasks that probe a task_dataset's train.parquet, by name; none where nothing can be
    probed.

    `rows`: how many are drawn, by `seed`, of all those that are long enough; fewer where there are no more.
    `exchange`: see `examples.in_exchange`.
    Raises UserError for a canary that stands in no training row, or is parted wherever one is rendered.
    """
    if not train.is_file():
        raise UserError("no such file", file=train, fix="Materialize task_dataset again")
    drawn = _Drawn.of(train, tokenizer, rows, seed)
    all_rows = (in_exchange(row, exchange) for row in read_split(train))
    planted = _read(all_rows, drawn, canaries, tokenizer)
    names = abouts([Row("text", "", text=canary) for canary in planted])
    found = {
        ROWS: drawn.docs(),
        CANARIES: [
            _canary_doc(name, canary, row, tokenizer)
            for name, (canary, row) in zip(names, planted.items(), strict=True)
        ],
    }
    return {name: Continuation(name, docs, max_length) for name, docs in found.items() if docs}


class Continuation(ConfigurableTask):
    """Asks for the greedy continuation of `context_ids`, against `answer`; a long context loses its
    beginning.
    """

    def __init__(self, name: str, docs: list[Doc], max_length: int) -> None:
        longest = max(doc["tokens"] for doc in docs)
        self.room = max(1, max_length - longest)
        config = config_of(name, "generate_until", docs, {REPEATED: False}, _results)
        generation = {"until": [], "max_gen_toks": longest, "do_sample": False}
        super().__init__(config={**config, "generation_kwargs": generation})

    def construct_requests(self, doc: Doc, ctx: str, **kwargs: Any) -> Any:
        request = super().construct_requests(doc, ctx, **kwargs)
        context = Encoded.of(doc["prompt"], doc["context_ids"][-self.room :])
        request.arguments = (context, request.arguments[1])
        return request


def _results(doc: Doc, answers: Sequence[str]) -> dict[str, float]:
    return {REPEATED: float(answers[0].strip().startswith(doc["answer"].strip()))}


class _Drawn:
    """Draws the first `most` rows that are long enough, in the order in which all are drawn. They are given
    one after the other, as the file has them, so that few are tokenized and fewer kept.
    """

    def __init__(self, ids: Sequence[str], tokenizer: Any, most: int, seed: int) -> None:
        self._ids, self._tokenizer, self._most = ids, tokenizer, most
        self._places = {n: place for place, n in enumerate(in_drawn_order(ids, seed))} if most else {}
        self._kept: list[tuple[int, Doc]] = []  # a heap, the last that is drawn first

    @classmethod
    def of(cls, train: Path, tokenizer: Any, most: int, seed: int) -> _Drawn:
        return cls(question_ids([row.likeness for row in read_split(train)]), tokenizer, most, seed)

    def give(self, number: int, row: Row) -> None:
        answer = upto_trained(row).parts[-1][1]
        if not self._most or len(answer.encode()) < SHORTEST:  # a token takes a byte at least
            return
        place, full = -self._places[number], len(self._kept) == self._most
        if full and place < self._kept[0][0]:
            return
        doc = _row_doc({"index": number, "question": self._ids[number]}, row, self._tokenizer)
        if doc is not None:
            (heapq.heappushpop if full else heapq.heappush)(self._kept, (place, doc))

    def docs(self) -> list[Doc]:
        return sorted((doc for _, doc in self._kept), key=lambda doc: doc["index"])


def _read(all_rows: Iterable[Row], drawn: _Drawn, canaries: Sequence[str], tokenizer: Any) -> dict[str, Row]:
    """Return the first row that holds each canary as it is rendered; each row is given to `drawn`. Streamed.
    Raises UserError.
    """
    planted: dict[str, Row] = {}
    parted = set[str]()
    for number, row in enumerate(all_rows):
        drawn.give(number, row)
        words = row.whole_text if len(planted) < len(canaries) else ""
        held = [canary for canary in canaries if canary not in planted and canary in words]
        whole = render_turn(row, tokenizer).whole if held else ""
        planted |= {canary: row for canary in held if canary in whole}
        parted.update(canary for canary in held if canary not in whole)
    for number, canary in enumerate(canaries):
        if canary not in planted:
            raise _not_read(number) if canary in parted else _absent(number)
    return {canary: planted[canary] for canary in canaries}


def _absent(number: int) -> UserError:
    return UserError(
        "this canary stands in no training row",
        field=f"evaluation.canaries[{number}]",  # by its place: it is text of a row
        fix="Plant it in a row of the training split, or take it from the list",
    )


def _not_read(number: int) -> UserError:
    return UserError(
        "this canary stands in training rows, and not in what the model reads of any",
        field=f"evaluation.canaries[{number}]",  # by its place: it is text of a row
        fix="Give it without white space at its ends, and all of it within one message",
    )


def _row_doc(about: Doc, row: Row, tokenizer: Any) -> Doc | None:
    """Return a row with what must follow; None of one that is too short."""
    given, asked = _halves(about, row, tokenizer)
    text = tokenizer.decode(asked, skip_special_tokens=True)
    if len(asked) < SHORTEST or not text.strip():
        return None
    return _doc(about, given, asked, text=text, tokenizer=tokenizer)


def _halves(about: Doc, row: Row, tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return what is given of a row and what must follow, in tokens; nothing of a row without an answer."""
    if row.kind == "text":
        before: list[int] = []
        ids = text_doc(about, row.text, tokenizer)["ids"]
    else:
        doc = turn_doc(about, row, tokenizer)
        if doc is None:
            return [], []
        before, ids = doc["prompt_ids"], doc["answer_ids"][:-1]  # without the end of the turn
    half = len(ids) // 2
    return [*before, *ids[:half]], ids[half : half + CONTINUED]


def _canary_doc(about: Doc, canary: str, row: Row, tokenizer: Any) -> Doc:
    turn = render_turn(row, tokenizer)
    whole, special = turn.whole, turn.add_special_tokens
    start = whole.index(canary)
    encoded = tokenizer(whole, add_special_tokens=special, return_offsets_mapping=True, verbose=False)
    end = start + len(canary)
    places = encoded["offset_mapping"]
    own = [at for at, (first, last) in enumerate(places) if last > start and first < end]
    middle = own[len(own) // 2]
    text = whole[max(start, places[middle][0]) : end]
    ids = encoded["input_ids"]
    return _doc(about, ids[:middle], ids[middle : own[-1] + 1], text=text, tokenizer=tokenizer)


def _doc(about: Doc, given: list[int], asked: list[int], *, text: str, tokenizer: Any) -> Doc:
    return {
        **about,
        "prompt": tokenizer.decode(given),
        "answer": text,
        "context_ids": given,
        "tokens": len(asked),
    }
