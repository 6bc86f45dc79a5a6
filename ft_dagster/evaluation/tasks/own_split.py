"""Makes lm-eval tasks of the variant's own test rows, and of held-out general texts.

A row with an answer gives `completion_loss` (nats a token of the answer and its end-of-turn token, given the
prompt), and the scores of a greedy answer that belong to the declared kind (see `answer_scores`). A text
gives its loss alone, a long one that of a piece of it. Rows are rendered and split into tokens exactly as a
training on last answers does. The answer is the row's own: what the template writes before it belongs to the
prompt of its loss, and is taken from an answer that begins with it. Imports lm-eval.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import datasets
from lm_eval.api.task import ConfigurableTask

from ft_dagster.data.rendering.chat_template import without_lead, without_specials
from ft_dagster.data.rendering.render import added_after, render, render_turn
from ft_dagster.data.rows.content import question_ids
from ft_dagster.data.rows.dataset_io import as_row
from ft_dagster.data.rows.rows import Row, in_exchange
from ft_dagster.data.rows.splits import sets_of
from ft_dagster.errors import UserError
from ft_dagster.evaluation.request import SplitTask
from ft_dagster.evaluation.tasks.calls import call_scorer
from ft_dagster.gate.answer_scores import (
    ANSWER_METRICS,
    LOWER_IS_BETTER,
    QueryError,
    exact_match,
    execution_accuracy,
    is_ordered,
    json_scores,
    label_match,
    run_query,
    token_f1,
)
from ft_dagster.gate.samples import GENERAL_TEXT, TEST_SPLIT_TASK
from ft_dagster.gate.sampling import draw_rows
from ft_dagster.spec.variant import AnswerKind

# The loss on a piece of a text tells as much as that on all of a book, and costs a bounded time.
TEXT_TOKENS = 512

Doc = dict[str, Any]
Scorer = Callable[[str, Doc], dict[str, float]]


class Encoded(str):
    """Holds a text with the token ids it stands for, so that the model sees what training saw. `whole`:
    special tokens of the answer to it are kept.
    """

    ids: list[int]
    whole: bool

    @classmethod
    def of(cls, text: str, ids: Sequence[int], *, whole: bool = False) -> Encoded:
        made = cls(text)
        made.ids, made.whole = list(ids), whole
        return made


def test_split_tasks(
    own: SplitTask, tokenizer: Any, *, limit: int | None, seed: int, max_length: int
) -> list[ConfigurableTask]:
    """Return the lm-eval tasks that ask a drawn sample of a task_dataset's test.parquet.

    Raises UserError, also for a reference answer that is not of the declared kind: no JSON, or a query that
    the database does not answer.
    """
    test, kind, max_new_tokens = own.test.path, own.kind, own.max_new_tokens
    rows = rows_asked(own)
    if not rows:
        raise UserError(
            "the test split has no rows", file=test, fix="Give the variant more rows or a larger splits.test"
        )
    names = abouts(rows)
    chosen = draw_rows([about["question"] for about in names], limit, seed)
    room = room_for_prompts(max_length, max_new_tokens)
    answered = [
        doc for n in chosen if rows[n].kind != "text" and (doc := turn_doc(names[n], rows[n], tokenizer))
    ]
    texts = [
        text_doc(names[n], _piece(rows[n].text, names[n]["record"], tokenizer, seed), tokenizer)
        for n in chosen
        if rows[n].kind == "text"
    ]
    if kind != "text":
        refuse_unanswerable(kind, answered, len(texts), max_new_tokens)
    tasks: list[ConfigurableTask] = []
    if answered:
        greedy = GreedyAnswer(answered, max_new_tokens, room, kind, scorer_of(own, answered, tokenizer))
        tasks += [CompletionLoss(answered, max_length), greedy]
    return [*tasks, TextLoss(texts, TEST_SPLIT_TASK, "completion_loss")] if texts else tasks


def loss_tasks(
    name: str, rows: Sequence[Row], abouts: Sequence[Doc], tokenizer: Any, *, max_length: int
) -> list[ConfigurableTask]:
    """Return the lm-eval tasks for the loss alone of these rows: on the last answer, or on a piece of a text,
    which the record draws. A row without an answer is left out.
    """
    turns = [
        doc
        for about, row in zip(abouts, rows, strict=True)
        if row.kind != "text" and (doc := turn_doc(about, row, tokenizer))
    ]
    texts = [
        text_doc(about, _piece(row.text, about["record"], tokenizer, 0), tokenizer)
        for about, row in zip(abouts, rows, strict=True)
        if row.kind == "text"
    ]
    texts = [doc for doc in texts if doc["tokens"]]
    found: list[ConfigurableTask] = [CompletionLoss(turns, max_length, name)] if turns else []
    return [*found, TextLoss(texts, name, "completion_loss")] if texts else found


def rows_asked(own: SplitTask) -> list[Row]:
    """Read all rows of the split that is asked. Raises UserError where its file is gone."""
    import pyarrow.parquet as pq

    file = own.test.path
    if not file.is_file():
        raise UserError(
            "no such file", file=file, field="test_split_task.test", fix="Materialize task_dataset again"
        )
    rows, part = [as_row(record) for record in pq.read_table(file).to_pylist()], own.reserve
    if part is not None:
        dealt = sets_of([(row.first_turn, row.group) for row in rows], part.sets, joined=part.joined)
        rows = [row for row, number in zip(rows, dealt, strict=True) if number == part.number]
    return [in_exchange(row, own.exchange) for row in rows]


def room_for_prompts(max_length: int, max_new_tokens: int) -> int:
    """Return the most tokens of a prompt beside its answer. Raises UserError where none are left."""
    room = max_length - max_new_tokens
    if room < 1:
        raise UserError(
            f"leaves no room for a prompt in the model's {max_length} tokens",
            field="evaluation.max_new_tokens",
            value=max_new_tokens,
            fix="Lower it",
        )
    return room


def general_text_task(file: Path, tokenizer: Any, *, limit: int | None, seed: int) -> ConfigurableTask:
    """Return the lm-eval task for the loss on a sample of the parquet's `text` column. Raises UserError."""
    import pyarrow.parquet as pq

    if not file.is_file():
        raise UserError(
            "no such file", file=file, field="general_holdout", fix="Materialize training_mixture again"
        )
    texts = [row for row in pq.read_table(file).to_pylist() if row["text"].strip()]
    if not texts:
        raise UserError(
            "no held-out general text", file=file, fix="Raise the corpus' holdout, or give it more text"
        )
    pieces = [Row("text", "", text=row["text"], group=row.get("group")) for row in texts]
    names = abouts(pieces)
    chosen = draw_rows([about["question"] for about in names], limit, seed)
    docs = [text_doc(names[n], pieces[n].text, tokenizer) for n in chosen]
    return TextLoss(docs, GENERAL_TEXT, "general_loss")


def abouts(rows: Sequence[Row]) -> list[Doc]:
    """Return what each row is known by as a document: `index` here, `question` and `record` by content,
    `group`.
    """
    ids = question_ids([row.likeness for row in rows])
    return [
        {"index": n, "question": ids[n], "record": row.likeness.hex(), "group": row.group}
        for n, row in enumerate(rows)
    ]


class CompletionLoss(ConfigurableTask):
    """Asks for the log-likelihood of the reference answer, in tokens as trained on."""

    def __init__(self, docs: list[Doc], max_length: int, task: str = TEST_SPLIT_TASK) -> None:
        self.max_length = max_length
        super().__init__(
            config=config_of(f"{task}_loss", "loglikelihood", docs, {"completion_loss": False}, _loss_results)
        )

    def construct_requests(self, doc: Doc, ctx: str, **kwargs: Any) -> Any:
        request = super().construct_requests(doc, ctx, **kwargs)
        answer = doc["answer_ids"][: self.max_length]
        request.arguments = (Encoded.of(doc["prompt"], doc["prompt_ids"]), Encoded.of(doc["answer"], answer))
        return request


class GreedyAnswer(ConfigurableTask):
    """Asks for a greedy answer, against the reference; a prompt longer than `room` tokens loses its
    beginning.

    The prompt is tokenized alone, as a server does: the tokens that it has beside the reference can give
    the reference away (a space at its end joins the first token of some answers only). The answer ends at
    its end-of-turn token, else after `max_new_tokens`. What the template writes before an answer is asked
    for too, and left out of what is written, as is the reasoning of rows that have some. `named`: the task;
    `until`: words that end an answer too.
    """

    def __init__(
        self,
        docs: list[Doc],
        max_new_tokens: int,
        room: int,
        kind: AnswerKind,
        scorer: Scorer,
        *,
        named: str = f"{TEST_SPLIT_TASK}_answer",
        until: Sequence[str] = (),
    ) -> None:
        def results(doc: Doc, answers: Sequence[str]) -> dict[str, float]:
            return scorer(answers[0].strip(), doc)

        self.room, self.whole = room, kind == "tool_calls"
        config = config_of(
            named,
            "generate_until",
            docs,
            {name: name not in LOWER_IS_BETTER for name in ANSWER_METRICS[kind]},
            results,
        )
        generation = {"until": list(until), "max_gen_toks": max_new_tokens, "do_sample": False}
        super().__init__(config={**config, "generation_kwargs": generation})

    def construct_requests(self, doc: Doc, ctx: str, **kwargs: Any) -> Any:
        request = super().construct_requests(doc, ctx, **kwargs)
        asked = Encoded.of(doc["prompt"], doc["asked_ids"][-self.room :], whole=self.whole)
        request.arguments = (asked, request.arguments[1])
        return request

    def apply_filters(self) -> None:
        super().apply_filters()
        for instance in self._instances:
            for name, answer in instance.filtered_resps.items():
                if self.whole:
                    continue
                after = answer.rpartition(instance.doc["closes"])[2] if instance.doc["closes"] else answer
                instance.filtered_resps[name] = without_lead(instance.doc["lead"], after).strip()


class TextLoss(ConfigurableTask):
    """Asks for the rolling log-likelihood of whole texts."""

    def __init__(self, docs: list[Doc], task: str, metric: str) -> None:
        def results(doc: Doc, answers: Sequence[Any]) -> dict[str, float]:
            return {metric: -float(answers[0]) / doc["tokens"]}

        super().__init__(
            config=config_of(f"{task}_text", "loglikelihood_rolling", docs, {metric: False}, results)
        )


def config_of(
    task: str, kind: str, docs: list[Doc], metrics: dict[str, bool], results: Any
) -> dict[str, Any]:
    """Return the config of a task over `docs`; `metrics`: name -> whether higher is better."""
    return {
        "task": task,
        "output_type": kind,
        "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list(docs)},
        "test_split": "test",
        "doc_to_text": lambda doc: doc["prompt"],
        "doc_to_target": lambda doc: doc["answer"],
        "target_delimiter": "",
        "process_results": results,
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": higher}
            for name, higher in metrics.items()
        ],
        "num_fewshot": 0,
    }


def _loss_results(doc: Doc, answers: Sequence[Any]) -> dict[str, float]:
    return {"completion_loss": -float(answers[0][0]) / doc["tokens"]}


def scorer_of(own: SplitTask, docs: list[Doc], tokenizer: Any) -> Scorer:
    """Return the function that scores an answer of the declared kind. Raises UserError for a reference that
    cannot be scored against.
    """
    kind = own.kind
    if kind == "tool_calls":
        return call_scorer(docs, tokenizer, ordered=own.call_order == "fixed")
    if kind == "label":
        return lambda answer, doc: {"exact_match": label_match(answer, doc["answer"])}
    if kind == "json":
        for doc in docs:
            _check_json(doc)
        return lambda answer, doc: json_scores(answer, doc["answer"])
    if kind == "sql":
        return _query_scorer(docs, None if own.database is None else own.database.path)
    return lambda answer, doc: {
        "exact_match": exact_match(answer, doc["answer"]),
        "token_f1": token_f1(answer, doc["answer"]),
    }


def _query_scorer(docs: list[Doc], database: Path | None) -> Scorer:
    if database is None or not database.is_file():
        raise UserError(
            "no such file", file=database, field="test_split_task.database", fix="Declare evaluation.database"
        )
    references = {}
    for doc in docs:
        try:
            references[doc["index"]] = run_query(database, doc["answer"]), is_ordered(doc["answer"])
        except QueryError as error:
            raise UserError(
                f"the reference query of record {doc['record'][:16]} fails on it: {error}",
                file=database,
                field="evaluation.database",
                fix="Correct the row, or name the database that it was written for",
            ) from None

    def score(answer: str, doc: Doc) -> dict[str, float]:
        result, ordered = references[doc["index"]]
        return {"execution_accuracy": execution_accuracy(answer, result, database, ordered=ordered)}

    return score


def _check_json(doc: Doc) -> None:
    try:
        json_scores("", doc["answer"])
    except ValueError as error:
        raise UserError(
            f"the answer of record {doc['record'][:16]} is not JSON: {error}",
            field="evaluation.kind",
            value="json",
            fix="Correct the row, or declare evaluation.kind: text",
        ) from None


def refuse_unanswerable(kind: AnswerKind, docs: list[Doc], texts: int, max_new_tokens: int) -> None:
    """Refuse rows that could only be scored 0, whatever the model says."""
    if texts:
        raise UserError(
            f"it scores answers, and {texts} of the rows asked are raw text",
            field="evaluation.kind",
            value=kind,
            fix="Give those rows as prompt and completion, or declare evaluation.kind: text",
        )
    longest = max(docs, key=lambda doc: doc["written"], default=None)
    if longest is not None and longest["written"] - 1 > max_new_tokens:  # its end need not fit
        raise UserError(
            f"the answer of record {longest['record'][:16]} has {longest['written']} tokens, so it would "
            "be cut off and scored 0",
            field="evaluation.max_new_tokens",
            value=max_new_tokens,
            fix=f"Raise it to {longest['written']} or more",
        )


def _piece(text: str, record: str, tokenizer: Any, seed: int) -> str:
    """Return a text of at most `TEXT_TOKENS` tokens as it is; of a longer one a piece that long.

    Drawn by seed and record: beginnings alone (titles, licences) would not stand for a corpus.
    """
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)[
        "offset_mapping"
    ]
    pieces = max(1, len(offsets) // TEXT_TOKENS)
    drawn = int.from_bytes(hashlib.sha256(f"{seed}:{record}".encode()).digest()[:8], "big") % pieces
    places = offsets[drawn * TEXT_TOKENS : (drawn + 1) * TEXT_TOKENS]
    return text[places[0][0] : places[-1][1]] if len(offsets) > TEXT_TOKENS else text


def turn_doc(about: Doc, row: Row, tokenizer: Any) -> Doc | None:
    """Return prompt and answer of a row as text, and as the tokens that training has; None for a row without
    a prompt or an answer. `written`: tokens that a model writes which answers so, those of the lead too.
    """
    turn, trained = render_turn(row, tokenizer), render(row, tokenizer)
    special = turn.add_special_tokens
    encoded = tokenizer(turn.whole, add_special_tokens=special, return_offsets_mapping=True, verbose=False)
    offsets = encoded["offset_mapping"]
    # A token across the border belongs to the answer: where it is the first, nothing is asked.
    if not trained.spans or offsets[0][1] > len(turn.prompt):
        return None
    start, end = trained.spans[-1]
    if turn.lead:
        before = len(turn.prompt) + len(turn.lead)
        start = next(at for at, (_, last) in enumerate(offsets) if last > before)
    return {
        **about,
        "prompt": turn.prompt,
        "lead": without_specials(turn.lead, tokenizer),
        "closes": without_specials(turn.closes, tokenizer).strip(),
        "whole_lead": turn.lead,
        "answer": turn.answer,
        "tools": row.tools,
        "prompt_ids": trained.input_ids[:start],
        "asked_ids": [
            *_added_before(encoded),
            *tokenizer(turn.prompt, add_special_tokens=False)["input_ids"],
        ],
        "answer_ids": trained.input_ids[start:end],
        "tokens": end - start,
        "written": end - trained.spans[-1][0],
    }


def _added_before(encoded: Any) -> list[int]:
    """Return the tokens that the tokenizer itself put before a text: those stand for no character."""
    added = takewhile(
        lambda pair: pair[1][1] == 0, zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    )
    return [token for token, _ in added]


def text_doc(about: Doc, text: str, tokenizer: Any) -> Doc:
    """Return the first `TEXT_TOKENS` tokens of a text, without what the tokenizer adds after it, and their
    number.
    """
    encoded = tokenizer(text, return_offsets_mapping=True, truncation=True, max_length=TEXT_TOKENS)
    offsets = encoded["offset_mapping"]
    kept = text[: max(end for _, end in offsets)] if len(offsets) == TEXT_TOKENS else text
    ids = encoded["input_ids"][: len(offsets) - added_after(tokenizer)]
    return {**about, "prompt": "", "answer": kept, "ids": ids, "tokens": len(ids)}
