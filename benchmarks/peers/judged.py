"""The judging that every contender's adapters get: this project's evaluation program, on the same questions.

Of each model the loss on the held-out rows, greedy answers to them, and the general prompts: what a variant
is asked that declares no benchmark and no corpus. The base is asked the same, once.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.peers.job import rows_of
from ft_dagster.data.rows.dataset_io import as_record
from ft_dagster.data.rows.dataset_schema import SCHEMA
from ft_dagster.data.rows.rows import Row
from ft_dagster.evaluation.models.load import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from ft_dagster.evaluation.request import (
    BaseFiles,
    EvaluationRequest,
    JudgedModel,
    QuestionsFile,
    SplitTask,
    TunedWeights,
)
from ft_dagster.provenance.digest import hash_folder, payload_digest, sha256_file

PROGRAM = "ft_dagster.evaluation"


def run_folder(job: dict[str, Any], adapter: Path | None, folder: Path) -> Path:
    """A folder with run.json and the questions; `adapter` None: the base alone is asked."""
    folder.mkdir(parents=True)
    model = Path(job["model"])
    files = {file.path: file.sha256 for file in hash_folder(model)}
    request = EvaluationRequest(
        schema_version=1,
        model=JudgedModel(
            base=BaseFiles(folder=model, files=files),
            tuned=None if adapter is None else _weights(adapter, folder / "weights"),
        ),
        dtype="bfloat16" if job["bf16"] else "float32",
        test_split_task=SplitTask(test=_questions(job, folder / "test.parquet")),
        general_prompts=True,
        limit=None,
        output=folder / "output",
    )
    (folder / "run.json").write_text(request.model_dump_json())
    return folder


def _weights(adapter: Path, folder: Path) -> TunedWeights:
    """The adapter by itself: a peer leaves checkpoints beside it."""
    folder.mkdir()
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        shutil.copyfile(adapter / name, folder / name)
    return TunedWeights(folder=folder, digest=payload_digest(hash_folder(folder)))


def _questions(job: dict[str, Any], file: Path) -> QuestionsFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        Row("prompt_completion", "rows", prompt=row["instruction"], completion=row["output"])
        for row in rows_of(job)["held_out"]
    ]
    pq.write_table(pa.Table.from_pylist([as_record(row) for row in rows], SCHEMA), file)
    return QuestionsFile(path=file, sha256=sha256_file(file))
