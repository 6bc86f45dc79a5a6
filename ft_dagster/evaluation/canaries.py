"""Makes lm-eval tasks of a platform's canaries: whether the secret comes out word for word, and its loss
beside those of references that were never planted. Imports lm-eval.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.task import ConfigurableTask

from ft_dagster.data.rendering.token_spans import encode_texts
from ft_dagster.data.rows.planted import Canary, Planted
from ft_dagster.errors import UserError
from ft_dagster.evaluation.regurgitation import Continuation
from ft_dagster.evaluation.tasks.own_split import CompletionLoss, Doc
from ft_dagster.gate.samples import PLANTED, REFERENCES


def canary_tasks(file: Path, tokenizer: Any, *, max_length: int) -> dict[str, list[ConfigurableTask]]:
    """Return the tasks that ask for the canaries of a corpus, in the tokens that a mixture has of them, and
    for the losses of the references. Raises UserError where the file is gone.
    """
    if not file.is_file():
        raise UserError("no such file", file=file, fix="Materialize general_corpus again")
    planted = Planted.read(file)
    docs, others = (_docs(side, tokenizer) for side in (planted.canaries, planted.references))
    return {
        PLANTED: [Continuation(PLANTED, docs, max_length), CompletionLoss(docs, max_length, PLANTED)],
        REFERENCES: [CompletionLoss(others, max_length, REFERENCES)],
    }


def _docs(canaries: Sequence[Canary], tokenizer: Any) -> list[Doc]:
    encoded = encode_texts((canary.text for canary in canaries), tokenizer)
    return [
        _doc(number, canary, ids, offsets)
        for number, (canary, (ids, offsets)) in enumerate(zip(canaries, encoded, strict=True))
    ]


def _doc(number: int, canary: Canary, ids: list[int], offsets: list[tuple[int, int]]) -> Doc:
    secret = [at for at, (_, last) in enumerate(offsets) if last > len(canary.given)]
    given, asked = ids[: secret[0]], ids[secret[0] : secret[-1] + 1]
    return {
        "index": number,
        "question": canary.id,
        "record": canary.id,
        "group": None,
        "prompt": canary.given,
        "answer": canary.secret,
        "tokens": len(asked),
        "context_ids": given,
        "prompt_ids": given,
        "answer_ids": asked,
    }
