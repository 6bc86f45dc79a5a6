"""Makes lm-eval tasks of the variant's own rows with examples of the training split before each question.

Every question of a number of examples gets the same ones, so that what they begin with is computed once a
batch. An example never has the text of a question that is asked, nor belongs to one of its groups. Where all
rows would cost more than a share of a pass over the training split, or on a CPU more than half a batch, fewer
are asked, of every number of examples the same. Imports lm-eval.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ft_dagster.data.files.parquet import dicts_of
from ft_dagster.data.rendering.render import render
from ft_dagster.data.rows.content import normal_text
from ft_dagster.data.rows.dataset_io import as_row
from ft_dagster.data.rows.rows import Message, Row, in_exchange
from ft_dagster.evaluation.request import Examples, SplitTask
from ft_dagster.evaluation.tasks.own_split import (
    Doc,
    GreedyAnswer,
    abouts,
    refuse_unanswerable,
    room_for_prompts,
    rows_asked,
    scorer_of,
    turn_doc,
)
from ft_dagster.gate.sampling import draw_rows

# Forward passes over the rows that are asked cost at most so much of one training pass over the training
# split, which is three times its forward pass. So few rows are asked whatever that budget says.
BUDGET, TRAINING_PASS, FEWEST = 0.2, 3, 16
CANDIDATES = 64  # rows of the training split, drawn by seed, among which the examples are
SEPARATORS = ("\n\n", "\n\n###\n\n", "\n\n#####\n\n")  # between examples without a chat template
LEAKING = 8  # characters of a question: a shorter one stands by chance in many rows


@dataclass(frozen=True)
class PromptedTasks:
    """Holds the tasks, and how their questions and examples were chosen.

    `tasks`: by the number of examples. `rows`: of the split that have a question and an answer; `asked`:
    of these. `left_out`: why a number of examples was not tried, by that number. `records`: the identities of
    the rows that are examples, in their order.
    """

    tasks: dict[int, GreedyAnswer]
    rows: int
    asked: int
    left_out: dict[str, str]
    records: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        named = ("rows", "asked", "left_out", "records")
        return {"schema_version": 1, **{name: getattr(self, name) for name in named}}


def prompted_tasks(
    own: SplitTask,
    examples: Examples,
    tokenizer: Any,
    *,
    limit: int | None,
    seed: int,
    max_length: int,
    batch: float,
) -> PromptedTasks:
    """Return the tasks, one for each number of examples that there are and that fit. `batch`: tokens, answers
    included, that are written at once, beyond which no more questions are asked. Raises UserError, see
    `test_split_tasks`.
    """
    rows = [row for row in rows_asked(own) if row.kind != "text"]
    names = abouts(rows)
    chosen = draw_rows([about["question"] for about in names], limit, seed)
    plain = [doc for n in chosen if (doc := turn_doc(names[n], rows[n], tokenizer))]
    if not plain:
        return PromptedTasks({}, 0, 0, {}, ())
    kept = [doc["index"] for doc in plain]
    if own.kind != "text":
        refuse_unanswerable(own.kind, plain, 0, own.max_new_tokens)
    candidates, all_rows = _candidates(own, examples, seed)
    drawn = _unleaking(candidates, [rows[n] for n in kept])
    room = room_for_prompts(max_length, own.max_new_tokens)
    docs: dict[int, list[Doc]] = {}
    left_out: dict[str, str] = {}
    for count in examples.counts:
        before = drawn[:count]
        made = plain if count == 0 else _with(before, [rows[n] for n in kept], plain, tokenizer)
        if why := _why_not(count, before, made, room):
            left_out[str(count)] = why
        else:
            docs[count] = made
    read = sum(len(render(row, tokenizer).input_ids) for row in candidates)
    budget = BUDGET * TRAINING_PASS * read / max(1, len(candidates)) * all_rows
    asked = min(_affordable(docs, own.max_new_tokens, budget), _in_a_batch(docs, own.max_new_tokens, batch))
    tasks = {
        count: GreedyAnswer(
            made[:asked],
            own.max_new_tokens,
            room,
            own.kind,
            scorer_of(own, made[:asked], tokenizer),
            named=f"examples_{count}",
            until=() if count == 0 else _separators(rows[kept[0]], drawn[:count]),
        )
        for count, made in docs.items()
    }
    records = tuple(row.identity.hex() for row in drawn[: max(docs, default=0)])
    return PromptedTasks(tasks, len(rows), asked, left_out, records)


def _candidates(own: SplitTask, examples: Examples, seed: int) -> tuple[list[Row], int]:
    """Return rows of the training split that have an answer, in the order in which they are drawn, and how
    many rows the split has.
    """
    import pyarrow.parquet as pq

    file = examples.train.path
    count = pq.read_metadata(file).num_rows
    drawn = random.Random(f"examples {seed}").sample(range(count), min(CANDIDATES, count))
    wanted, found = set(drawn), dict[int, Row]()
    for number, record in enumerate(dicts_of(file)):
        if number in wanted:
            found[number] = in_exchange(as_row(record), own.exchange)
            if len(found) == len(wanted):
                break
    return [found[number] for number in drawn if found[number].kind != "text"], count


def _unleaking(candidates: Sequence[Row], asked: Sequence[Row]) -> list[Row]:
    """Return the candidates that have no text of a question which is asked, and share no group with one."""
    groups = {row.group for row in asked} - {None}
    questions = {normal_text(question_of(row)) for row in asked}
    long = [question for question in questions if len(question) >= LEAKING]

    def leaks(row: Row) -> bool:
        if row.group in groups:
            return True
        texts = [text for role, text in row.normal if role != "system"]
        return any(text in questions or any(question in text for question in long) for text in texts)

    return [row for row in candidates if not leaks(row)]


def question_of(row: Row) -> str:
    """Return what a row asks last, as text."""
    if row.kind != "messages":
        return row.prompt
    return next((message.content for message in reversed(row.messages) if message.role == "user"), "")


def _with(before: Sequence[Row], rows: Sequence[Row], plain: Sequence[Doc], tokenizer: Any) -> list[Doc]:
    """Return the documents of rows with examples before each."""
    made = []
    for row, doc in zip(rows, plain, strict=True):
        about = {name: doc[name] for name in ("index", "question", "record", "group")}
        if found := turn_doc(about, after_examples(row, before), tokenizer):
            made.append(found)
    return made


def after_examples(row: Row, before: Sequence[Row]) -> Row:
    """Return a row whose prompt begins with the examples: as earlier turns of its conversation, after its own
    system turn; of plain text each with an empty line after it.
    """
    if row.kind != "messages":
        [separator] = _separators(row, before)
        text = "".join(f"{each.prompt}{each.completion}{separator}" for each in before)
        return replace(row, prompt=text + row.prompt)
    system = [message for message in row.messages[:1] if message.role == "system"]
    turns: list[Message] = [turn for each in before for turn in _turns(each)]
    return replace(row, messages=(*system, *turns, *row.messages[len(system) :]))


def _turns(row: Row) -> tuple[Message, ...]:
    if row.kind != "messages":
        return Message("user", row.prompt), Message("assistant", row.completion)
    return tuple(message for message in row.messages if message.role != "system")


def _separators(row: Row, before: Sequence[Row]) -> tuple[str, ...]:
    """Return what stands between examples of plain text, and so ends an answer: what none of them has in it.
    None in a conversation.
    """
    if row.kind == "messages":
        return ()
    texts = [each.prompt + each.completion for each in before]
    return (next((s for s in SEPARATORS if not any(s in text for text in texts)), SEPARATORS[-1]),)


def _why_not(count: int, before: Sequence[Row], made: Sequence[Doc], room: int) -> str:
    """Say why questions are not asked after so many examples; empty where they are."""
    if len(before) < count:
        return f"the training split has {len(before)} examples that have no text of a question"
    longest = max(len(doc["asked_ids"]) for doc in made)
    if count and longest > room:
        return f"the longest prompt would have {longest:,} tokens, and {room:,} fit beside an answer"
    return ""


def _affordable(docs: dict[int, list[Doc]], new_tokens: int, budget: float) -> int:
    """Count the questions that the budget, in tokens, pays for after every number of examples."""
    prompts = [[doc["asked_ids"] for doc in made] for made in docs.values()]
    begun = [_shared(each) for each in prompts]
    spent, most = sum(begun), min(map(len, prompts), default=0)
    for number in range(most):
        spent += sum(
            len(each[number]) - shared + new_tokens for each, shared in zip(prompts, begun, strict=True)
        )
        if spent > budget and number >= FEWEST:
            return number
    return most


def _in_a_batch(docs: dict[int, list[Doc]], new_tokens: int, batch: float) -> int:
    """Count the questions whose answers are written together, whatever the number of examples."""
    count = min(map(len, docs.values()), default=0)
    longest = max((len(doc["asked_ids"]) for made in docs.values() for doc in made), default=0) + new_tokens
    return max(1, int(min(count, batch // longest)))


def _shared(prompts: Sequence[Sequence[int]]) -> int:
    """Count the tokens that all prompts begin with: they are read once."""
    columns = zip(*prompts, strict=False)
    shortest = min(map(len, prompts), default=0)
    return next((n for n, column in enumerate(columns) if len(set(column)) > 1), shortest)
