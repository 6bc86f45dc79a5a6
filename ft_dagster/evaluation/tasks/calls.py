"""Scores answers that call tools, in the format in which the base's own chat template writes calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ft_dagster.data.rendering.call_format import Call
from ft_dagster.data.rendering.learn_calls import NoCalls, format_of
from ft_dagster.data.rows.tool_schemas import schemas_of, why_invalid
from ft_dagster.errors import UserError
from ft_dagster.gate.call_scores import call_scores

Doc = Mapping[str, Any]


def call_scorer(
    docs: Sequence[Doc], tokenizer: Any, *, ordered: bool
) -> Callable[[str, Doc], dict[str, float]]:
    """Return the function that scores an answer by its calls. Raises UserError for a base whose template
    writes none, and for a row whose own calls cannot be read back or are not valid.

    The calls that are due are read from the row as the template renders it, just as those of an answer.
    """
    try:
        known = format_of(tokenizer)
    except NoCalls as error:
        raise no_calls(str(error)) from None
    schemas: dict[int, dict[str, Any]] = {}
    due: dict[int, tuple[Call, ...]] = {}
    for doc in docs:
        tools = schemas[doc["index"]] = schemas_of(json.loads(doc["tools"] or "[]"))
        read = known.read(doc["whole_lead"] + doc["answer"], tools, after=doc["prompt"])
        broken = "its call cannot be read back as the base's template writes it" if read.broken else ""
        wrong = next(filter(None, (why_invalid(*call, tools) for call in read.calls if tools)), broken)
        if wrong:
            raise UserError(
                f"the answer of record {doc['record'][:16]} calls a tool, and {wrong}",
                field="evaluation.kind",
                value="tool_calls",
                fix="Correct the row, or declare evaluation.kind: text",
            )
        due[doc["index"]] = read.calls

    def score(answer: str, doc: Doc) -> dict[str, float]:
        tools = schemas[doc["index"]]
        read = known.read(answer, tools, after=doc["prompt"])
        return call_scores(read, due[doc["index"]], tools, ordered=ordered)

    return score


def no_calls(why: str, file: object = None) -> UserError:
    """Return the error for a base that answers with no calls."""
    return UserError(
        f"the base answers with no calls of tools: {why}",
        file=file,
        field="evaluation.kind",
        value="tool_calls",
        fix="Use a base whose chat_template.jinja writes an answer's tool_calls, or declare another kind",
    )
