"""The variant's own test rows, and held-out general texts, as lm-eval tasks.

A row with an answer gives `completion_loss` (nats a token of the answer and its end-of-turn token, given the
prompt), and `exact_match` and `token_f1` of a greedy answer, both after SQuAD's normalization. A text gives
its loss alone. Rows are rendered and split into tokens exactly as training did. Imports lm-eval.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import datasets
from lm_eval.api.task import ConfigurableTask

from ft_dagster.data.dataset_io import as_row
from ft_dagster.data.render import render_turn
from ft_dagster.errors import UserError
from ft_dagster.evaluation.sampling import draw

OWN_TASK, GENERAL_TEXT = "own_task", "general_holdout"
# The loss on the first tokens of a text tells as much as that on all of a book, and costs a bounded time.
TEXT_TOKENS = 512

Doc = dict[str, Any]


class Encoded(str):
    """A text with the token ids it stands for, so that the model sees what training saw."""

    ids: list[int]

    @classmethod
    def of(cls, text: str, ids: Sequence[int]) -> Encoded:
        made = cls(text)
        made.ids = list(ids)
        return made


def own_tasks(
    test: Path, tokenizer: Any, *, limit: int | None, seed: int, max_new_tokens: int, max_length: int
) -> list[ConfigurableTask]:
    """The lm-eval tasks that ask a drawn sample of a task_dataset's test.parquet. Raises UserError."""
    import pyarrow.parquet as pq

    if not test.is_file():
        raise UserError(
            "no such file", file=test, field="own_task.test", fix="Materialize task_dataset again"
        )
    rows = pq.read_table(test).to_pylist()
    if not rows:
        raise UserError(
            "the test split has no rows", file=test, fix="Give the variant more rows or a larger splits.test"
        )
    chosen = draw({OWN_TASK: len(rows)}, limit, seed)[OWN_TASK]
    room = max_length - max_new_tokens
    if room < 1:
        raise UserError(
            f"leaves no room for a prompt in the model's {max_length} tokens",
            field="evaluation.max_new_tokens",
            value=max_new_tokens,
            fix="Lower it",
        )
    answered = [
        doc for n in chosen if rows[n]["kind"] != "text" and (doc := _turn_doc(n, rows[n], tokenizer))
    ]
    texts = [
        _text_doc(n, rows[n]["record"], rows[n]["text"], tokenizer)
        for n in chosen
        if rows[n]["kind"] == "text"
    ]
    tasks: list[ConfigurableTask] = []
    if answered:
        tasks += [CompletionLoss(answered, max_length), GreedyAnswer(answered, max_new_tokens, room)]
    return [*tasks, TextLoss(texts, OWN_TASK, "completion_loss")] if texts else tasks


def general_text_task(file: Path, tokenizer: Any, *, limit: int | None, seed: int) -> ConfigurableTask:
    """The lm-eval task for the loss on a sample of the parquet's `text` column. Raises UserError."""
    import hashlib

    import pyarrow.parquet as pq

    if not file.is_file():
        raise UserError(
            "no such file", file=file, field="general_holdout", fix="Materialize training_mixture again"
        )
    texts = [
        text for text in pq.read_table(file, columns=["text"]).column("text").to_pylist() if text.strip()
    ]
    if not texts:
        raise UserError(
            "no held-out general text", file=file, fix="Raise the corpus' holdout, or give it more text"
        )
    chosen = draw({GENERAL_TEXT: len(texts)}, limit, seed)[GENERAL_TEXT]
    docs = [_text_doc(n, hashlib.sha256(texts[n].encode()).hexdigest(), texts[n], tokenizer) for n in chosen]
    return TextLoss(docs, GENERAL_TEXT, "general_loss")


class CompletionLoss(ConfigurableTask):
    """Log-likelihood of the reference answer, in tokens as trained on."""

    def __init__(self, docs: list[Doc], max_length: int) -> None:
        self.max_length = max_length
        super().__init__(
            config=_config(
                f"{OWN_TASK}_loss", "loglikelihood", docs, {"completion_loss": False}, _loss_results
            )
        )

    def construct_requests(self, doc: Doc, ctx: str, **kwargs: Any) -> Any:
        request = super().construct_requests(doc, ctx, **kwargs)
        answer = doc["answer_ids"][: self.max_length]
        request.arguments = (Encoded.of(doc["prompt"], doc["prompt_ids"]), Encoded.of(doc["answer"], answer))
        return request


class GreedyAnswer(ConfigurableTask):
    """A greedy answer, against the reference; a prompt longer than `room` tokens loses its beginning."""

    def __init__(self, docs: list[Doc], max_new_tokens: int, room: int) -> None:
        self.room = room
        config = _config(
            f"{OWN_TASK}_answer",
            "generate_until",
            docs,
            {"exact_match": True, "token_f1": True},
            _answer_results,
        )
        generation = {"until": [], "max_gen_toks": max_new_tokens, "do_sample": False}
        super().__init__(config={**config, "generation_kwargs": generation})

    def construct_requests(self, doc: Doc, ctx: str, **kwargs: Any) -> Any:
        request = super().construct_requests(doc, ctx, **kwargs)
        request.arguments = (Encoded.of(doc["prompt"], doc["prompt_ids"][-self.room :]), request.arguments[1])
        return request


class TextLoss(ConfigurableTask):
    """Rolling log-likelihood of whole texts."""

    def __init__(self, docs: list[Doc], task: str, metric: str) -> None:
        def results(doc: Doc, answers: Sequence[Any]) -> dict[str, float]:
            return {metric: -float(answers[0]) / doc["tokens"]}

        super().__init__(
            config=_config(f"{task}_text", "loglikelihood_rolling", docs, {metric: False}, results)
        )


def end_tokens(tasks: Iterable[ConfigurableTask], tokenizer: Any) -> set[int]:
    """The tokens that end an answer: the tokenizer's end of sequence, and what ends a turn in these tasks."""
    ends = {doc["end"] for task in tasks for doc in task.eval_docs if "end" in doc}
    ids = {tokenizer.convert_tokens_to_ids(end) for end in ends if end}
    return {token for token in (tokenizer.eos_token_id, *ids) if token is not None}


def exact_match(answer: str, reference: str) -> float:
    """1.0 if both are equal after SQuAD's normalization."""
    return float(_normalized(answer) == _normalized(reference))


def token_f1(answer: str, reference: str) -> float:
    """SQuAD's F1 over the words that both share (Rajpurkar et al. 2016); two empty texts are equal."""
    given, wanted = _normalized(answer), _normalized(reference)
    shared = sum((Counter(given) & Counter(wanted)).values())
    if not given or not wanted:
        return float(given == wanted)
    if not shared:
        return 0.0
    precision, recall = shared / len(given), shared / len(wanted)
    return 2 * precision * recall / (precision + recall)


def _normalized(text: str) -> list[str]:
    """Lower case, without punctuation and English articles, as words."""
    bare = "".join(char for char in text.lower() if char not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def _config(task: str, kind: str, docs: list[Doc], metrics: dict[str, bool], results: Any) -> dict[str, Any]:
    """Config of a task over `docs`; `metrics`: name -> whether higher is better."""
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


def _answer_results(doc: Doc, answers: Sequence[str]) -> dict[str, float]:
    given, reference = answers[0].strip(), doc["answer"].strip()
    return {"exact_match": exact_match(given, reference), "token_f1": token_f1(given, reference)}


def _turn_doc(number: int, row: dict[str, Any], tokenizer: Any) -> Doc | None:
    """Prompt and answer of a row as text and tokens; None for a row without a prompt or an answer."""
    turn = render_turn(as_row(row), tokenizer)
    whole = turn.prompt + turn.answer + turn.end
    encoded = tokenizer(
        whole, add_special_tokens=turn.add_special_tokens, return_offsets_mapping=True, verbose=False
    )
    ids = encoded["input_ids"]
    # A token across the border belongs to the answer, as in training.
    start = sum(end <= len(turn.prompt) for _, end in encoded["offset_mapping"])
    if not 0 < start < len(ids):
        return None
    return {
        "index": number,
        "record": row["record"],
        "prompt": turn.prompt,
        "answer": turn.answer,
        "end": turn.end,
        "prompt_ids": ids[:start],
        "answer_ids": ids[start:],
        "tokens": len(ids) - start,
    }


def _text_doc(number: int, record: str, text: str, tokenizer: Any) -> Doc:
    encoded = tokenizer(text, return_offsets_mapping=True, truncation=True, max_length=TEXT_TOKENS)
    offsets = encoded["offset_mapping"]
    kept = text[: offsets[-1][1]] if len(offsets) == TEXT_TOKENS else text
    ids = encoded["input_ids"]
    return {"index": number, "record": record, "prompt": "", "answer": kept, "ids": ids, "tokens": len(ids)}
