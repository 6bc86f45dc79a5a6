"""Does the model repeat what it was trained on? Greedy continuations of training rows and planted canaries.

A row is given up to the middle of its answer (of a text, of its first 512 tokens), a canary up to its own
middle with all that stands before it in its row. It is regurgitated if the next tokens come out word for
word: 32 at most of a row, the whole rest of a canary. After Carlini et al., "Quantifying memorization across
neural language models" (ICLR 2023). Imports lm-eval.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.task import ConfigurableTask

from ft_dagster.data.content import question_ids
from ft_dagster.data.dataset_io import read_split
from ft_dagster.data.render import render_turn
from ft_dagster.data.rows import Row, in_exchange
from ft_dagster.errors import UserError
from ft_dagster.evaluation.samples import CANARIES, ROWS
from ft_dagster.evaluation.sampling import in_drawn_order
from ft_dagster.evaluation.test_split_task import Doc, Encoded, abouts, config_of, text_doc, turn_doc

REPEATED = "regurgitated"
CONTINUED = 32  # tokens of a row that must come out
TRIED = 8  # rows looked at for one that is long enough
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
    """By name, the lm-eval tasks that probe a task_dataset's train.parquet; none where nothing can be probed.

    `rows`: how many are drawn, by `seed`, of those long enough. `exchange`: see `data.rows.in_exchange`.
    Raises UserError for a canary that stands in no training row, or is parted wherever one is rendered.
    """
    if not train.is_file():
        raise UserError("no such file", file=train, fix="Materialize task_dataset again")
    ids = question_ids([row.identity for row in read_split(train)])
    drawn = in_drawn_order(ids, seed)[: TRIED * rows]
    all_rows = (in_exchange(row, exchange) for row in read_split(train))
    given, planted = _read(all_rows, set(drawn), canaries, tokenizer)
    about = {n: {"index": n, "question": ids[n]} for n in drawn}
    names = abouts([Row("text", "", text=canary) for canary in planted])
    found = {
        ROWS: _row_docs([(about[number], given[number]) for number in drawn], tokenizer, rows),
        CANARIES: [
            _canary_doc(name, canary, row, tokenizer)
            for name, (canary, row) in zip(names, planted.items(), strict=True)
        ],
    }
    return {name: Continuation(name, docs, max_length) for name, docs in found.items() if docs}


class Continuation(ConfigurableTask):
    """Greedy continuation of `context_ids`, against `answer`; a long context loses its beginning."""

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


def _read(
    all_rows: Iterable[Row], drawn: set[int], canaries: Sequence[str], tokenizer: Any
) -> tuple[dict[int, Row], dict[str, Row]]:
    """The drawn rows by number, and the first row that holds each canary as it is rendered; streamed. Raises
    UserError.
    """
    rows: dict[int, Row] = {}
    planted: dict[str, Row] = {}
    parted = set[str]()
    for number, row in enumerate(all_rows):
        if number in drawn:
            rows[number] = row
        words = row.whole_text if len(planted) < len(canaries) else ""
        held = [canary for canary in canaries if canary not in planted and canary in words]
        whole = render_turn(row, tokenizer).whole if held else ""
        planted |= {canary: row for canary in held if canary in whole}
        parted.update(canary for canary in held if canary not in whole)
    for number, canary in enumerate(canaries):
        if canary not in planted:
            raise _not_read(number) if canary in parted else _absent(number)
    return rows, {canary: planted[canary] for canary in canaries}


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


def _row_docs(drawn: Sequence[tuple[Doc, Row]], tokenizer: Any, rows: int) -> list[Doc]:
    """Of the drawn rows, in this order, the first `rows` that are long enough."""
    docs: list[Doc] = []
    for about, row in drawn:
        given, asked = _halves(about, row, tokenizer)
        text = tokenizer.decode(asked, skip_special_tokens=True)
        if len(docs) < rows and len(asked) >= SHORTEST and text.strip():
            docs.append(_doc(about, given, asked, text=text, tokenizer=tokenizer))
    return sorted(docs, key=lambda doc: doc["index"])


def _halves(about: Doc, row: Row, tokenizer: Any) -> tuple[list[int], list[int]]:
    """What is given of a row and what must follow, in tokens; nothing of a row without an answer."""
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
