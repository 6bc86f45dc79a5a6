"""What base and tuned model are asked: the variant's own task, general benchmarks, held-out text, probes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_dagster.evaluation.answer_scores import find_database
from ft_dagster.evaluation.arithmetic import Dtype, judging_dtype
from ft_dagster.evaluation.request import EvaluationRequest, JudgedModel, Regurgitation, SplitTask
from ft_dagster.spec import VariantSpec
from ft_dagster.spec.narrow import narrowed
from ft_dagster.stages.hands import Hands
from ft_dagster.stages.inputs import File
from ft_dagster.stages.view import View

QUESTIONS = ("evaluation.limit", "evaluation.seed", "evaluation.num_fewshot")
TASK = (
    "evaluation.task",
    "evaluation.max_new_tokens",
    "evaluation.kind",
    "evaluation.probed_rows",
    "evaluation.canaries",
    "data.train_on",
)
GENERAL = ("evaluation.general",)
FIELDS = (*QUESTIONS, *TASK, *GENERAL, "evaluation.database")
READS = ("declaration", "base_model", "task_dataset", "training_mixture")


@dataclass(frozen=True)
class OwnTask:
    """The variant's own task: the declared tasks (`tasks`: by digest), else the test split; and what is
    probed for regurgitation. `spec`: how it is asked.
    """

    spec: VariantSpec
    tasks: dict[str, str]
    test: File | None
    train: File | None
    database: File | None


@dataclass(frozen=True)
class General:
    """Benchmarks (`tasks`: by digest) and held-out general text."""

    spec: VariantSpec
    tasks: dict[str, str]
    general_holdout: File | None


def own_task(view: View) -> OwnTask:
    """Raises UserError, before anything is computed, for a database that is not there."""
    spec, rows = view.spec, view.payload(view.upstream("task_dataset"))
    asked = spec.evaluation
    probes = bool(asked.probed_rows or asked.canaries)
    splits = not asked.task
    database = asked.database if splits else None
    return OwnTask(
        narrowed(spec, (*QUESTIONS, *TASK)),
        view.frozen("tasks")["task"],
        File.of(rows / "test.parquet") if splits else None,
        File.of(rows / "train.parquet") if probes else None,
        None if database is None else File.of(_database(view, database)),
    )


def _database(view: View, path: str) -> Path:
    return find_database(path, view.project, view.declared_in, view.roots)


def general(view: View) -> General:
    texts = view.payload(view.upstream("training_mixture")) / "general_holdout" / "texts.parquet"
    return General(
        narrowed(view.spec, (*QUESTIONS, *GENERAL)),
        view.frozen("tasks")["general"],
        File.of(texts) if texts.exists() else None,
    )


def dtype_of(view: View) -> Dtype:
    """In what arithmetic models are asked: base and tuned model are compared in one alone."""
    return judging_dtype(view.device)


@dataclass(frozen=True)
class ModelQuestions:
    """One evaluation to be run: of what, on what."""

    base: Path
    tuned: Path | None
    device: str
    dtype: Dtype
    task: OwnTask | None = None
    general: General | None = None

    def request(self, hands: Hands, output: Path) -> EvaluationRequest:
        """The evaluation program's run.json."""
        part = self.task or self.general
        assert part is not None
        spec = part.spec.evaluation
        task, general = self.task, self.general
        return EvaluationRequest.model_validate(
            {
                "schema_version": 1,
                "model": JudgedModel(base=self.base, tuned=self.tuned),
                "device": self.device,
                "dtype": self.dtype,
                "limit": spec.limit,
                "seed": spec.seed,
                "num_fewshot": spec.num_fewshot,
                "project": hands.project,
                "roots": hands.roots,
                "declared_in": hands.declared_in,
                "output": output,
                **({} if task is None else _of_task(task)),
                **({} if general is None else _of_general(general)),
            }
        )


def _of_task(task: OwnTask) -> dict[str, Any]:
    spec = task.spec
    asked: dict[str, Any] = {"task": spec.evaluation.task}
    if task.train is not None:
        probed, canaries = spec.evaluation.probed_rows, spec.evaluation.canaries
        asked["regurgitation"] = Regurgitation(train=task.train.path, rows=probed, canaries=canaries)
    if task.test is not None:
        asked["test_split_task"] = SplitTask(
            test=task.test.path,
            max_new_tokens=spec.evaluation.max_new_tokens,
            kind=spec.evaluation.kind,
            database=None if task.database is None else task.database.path,
            train_on=spec.data.train_on,
        )
    return asked


def _of_general(general: General) -> dict[str, Any]:
    holdout = general.general_holdout
    return {
        "general": general.spec.evaluation.general,
        "general_holdout": None if holdout is None else holdout.path,
        "general_prompts": True,
    }


def scores_in(payload: Path) -> list[dict[str, Any]]:
    """Of an evaluation's payload: scores.json."""
    scores: list[dict[str, Any]] = json.loads((payload / "scores.json").read_text("utf-8"))["scores"]
    return scores
