"""Stores one score of one question: the table that gates, comparisons and later statistics are made from."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ft_dagster.data.files.parquet import dicts_of
from ft_dagster.errors import UserError
from ft_dagster.gate.answer_scores import macro_f1, micro_f1
from ft_dagster.strict_json import dumps

Role = Literal[
    "task",
    "test_split_task",
    "general",
    "general_loss",
    "general_prompts",
    "regurgitation",
    "refusals",
    "membership",
    "platform_canaries",
]
SAMPLES, SCORES, ANSWERS, LABELS = "samples.parquet", "scores.json", "answers.parquet", "labels.json"
OWN = "own_evaluation"  # beside the certificate of a merge that drifted from what was judged
DEGENERATE = "degenerate"  # the metric of general prompts by which a model is judged
AGGREGATES = ("macro_f1", "micro_f1")
# What is asked beside declared tasks: by the variant's rows, by general text, and what is probed.
TEST_SPLIT_TASK, GENERAL_TEXT, GENERAL_PROMPTS = "test_split_task", "general_holdout", "general_prompts"
ROWS, CANARIES = "training_rows", "canaries"
REFUSALS: Role = "refusals"
MEMBERS, OTHERS = "rows_trained_on", "rows_held_out"  # that are to be told apart
PLANTED, REFERENCES = "planted_canaries", "reference_canaries"  # of the platform's
FORMER = {"own_task": "test_split_task"}  # the role, and its task, as older stores call them
RESERVED = {
    TEST_SPLIT_TASK,
    *FORMER,
    GENERAL_TEXT,
    GENERAL_PROMPTS,
    ROWS,
    CANARIES,
    "must_refuse",
    "must_answer",
    MEMBERS,
    OTHERS,
    PLANTED,
    REFERENCES,
}
SCHEMA_VERSION = 1


class Sample(NamedTuple):
    """Holds the `value` of `metric` on one question; `weight` is its number of tokens for a loss, else 1.

    `question` is the same string for every model that was asked the same, wherever it stood: (sub)task, its
    number among questions of equal content, and a hash of that content. `group`: questions of one group
    depend on each other (rows of one document, of one customer); None stands alone.
    """

    role: Role
    task: str
    metric: str
    question: str
    value: float
    weight: float
    higher_is_better: bool
    group: str | None = None


class Answer(NamedTuple):
    """Holds what one question asked, what was expected and what the model answered (a tenant's rows:
    evidence).
    """

    role: Role
    task: str
    question: str
    asked: str
    expected: str
    answered: str


class Score(NamedTuple):
    """Holds the mean of one metric over the questions of one task, or an F1 over its labels."""

    role: Role
    task: str
    metric: str
    value: float
    questions: int
    higher_is_better: bool


def read_samples(folder: Path) -> list[Sample]:
    """Read the samples that a run wrote into `folder`, its payload, in the order written. Raises
    UserError.
    """
    return samples_in(folder / SAMPLES)


def samples_in(file: Path) -> list[Sample]:
    """Read the samples in a file that `write_samples` wrote, in the order written. Raises UserError."""
    return [Sample(**_renamed(row)) for row in _read(file)]


def write_samples(samples: Sequence[Sample], folder: Path) -> None:
    """Write samples.parquet into `folder`."""
    import pyarrow as pa

    kinds = {"value": pa.float64(), "weight": pa.float64(), "higher_is_better": pa.bool_()}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in Sample._fields])
    _write(samples, schema, folder / SAMPLES)


def read_answers(folder: Path) -> list[Answer]:
    """Read the answers that a run wrote into `folder`, its evidence. Raises UserError."""
    return [Answer(**_renamed(row)) for row in _read(folder / ANSWERS)]


def write_answers(answers: Sequence[Answer], folder: Path) -> None:
    """Write answers.parquet into `folder`."""
    import pyarrow as pa

    _write(answers, pa.schema([(name, pa.string()) for name in Answer._fields]), folder / ANSWERS)


def scores(samples: Iterable[Sample]) -> list[Score]:
    """Average every metric of every task, in the order of the samples; not a number if any of its values is
    not.

    As scores.json has it: of a loss each token counts alike. What is shown is `means`, as the gate judges.
    """
    groups: dict[tuple[Role, str, str], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.role, sample.task, sample.metric), []).append(sample)
    found = []
    for (role, task, metric), asked in groups.items():
        weight = math.fsum(s.weight for s in asked)
        value = math.fsum(s.value * s.weight for s in asked) / weight if weight else math.nan
        found.append(Score(role, task, metric, value, len(asked), asked[0].higher_is_better))
    return found


def means(samples: Iterable[Sample]) -> list[Score]:
    """Average with each question, or text, counting alike, as in the rules of the gate."""
    return scores(sample._replace(weight=1.0) for sample in samples)


def on_the_same(samples: Iterable[Sample], asked: Iterable[Sample]) -> list[Sample]:
    """Return those of `samples` on questions that `asked` has too."""
    known = {sample[:4] for sample in asked}
    return [sample for sample in samples if sample[:4] in known]


def label_aggregates(pairs: Sequence[tuple[str, str]]) -> list[Score]:
    """Return F1 over the labels of the test split's task: (answer, reference) of each question; none without
    any.
    """
    if not pairs:
        return []
    values = {"macro_f1": macro_f1(pairs), "micro_f1": micro_f1(pairs)}
    return [
        Score("test_split_task", "test_split_task", name, value, len(pairs), True)
        for name, value in values.items()
    ]


def read_aggregates(folder: Path) -> list[Score]:
    """Read the scores in `folder`, a payload, that no mean over the questions gives."""
    rows = json.loads((folder / SCORES).read_text("utf-8"))["scores"]
    return [Score(**_renamed(row)) for row in rows if row["metric"] in AGGREGATES]


def write_scores(samples: Iterable[Sample], folder: Path, aggregates: Sequence[Score] = ()) -> None:
    """Write scores.json into `folder`; a value that is not a number becomes null."""
    rows = [
        {**score._asdict(), "value": score.value if math.isfinite(score.value) else None}
        for score in (*scores(samples), *aggregates)
    ]
    text = dumps({"schema_version": SCHEMA_VERSION, "scores": rows}, indent=1)
    (folder / SCORES).write_text(text + "\n", "utf-8")


def main_metric(metrics: Sequence[str]) -> str:
    """Return the one metric a task is judged by: acc_norm, else acc; of the own task, what its kind of answer
    says.

    That is calls_right, execution_accuracy of a query, json_f1, exact_match of a label, and the loss of a
    free text, whose exact match says little (it has a token_f1 beside it). Else the first.
    """
    label = () if "token_f1" in metrics else ("exact_match",)
    scored = ("calls_right", "execution_accuracy", "json_f1", *label, "completion_loss")
    own = scored if "completion_loss" in metrics else ()
    preferred = (*own, "acc_norm", "acc")
    return next((metric for metric in preferred if metric in metrics), metrics[0])


def _renamed(row: dict[str, Any]) -> dict[str, Any]:
    """Return a stored row with the role and the task that it would have today."""
    now = FORMER.get(row["role"])
    return row if now is None else {**row, "role": now, "task": now}


def _read(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        raise UserError("no such file", file=file, fix="Materialize the evaluation again")
    return list(dicts_of(file))


def _write(rows: Sequence[NamedTuple], schema: object, file: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist([row._asdict() for row in rows], schema=schema)
    pq.write_table(table, file, compression="zstd")
