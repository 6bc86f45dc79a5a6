"""`python -m ft_dagster.evaluation.texts RUN_DIR`: the words of every question and answer.

Training rows that repeat them are removed (decontamination), so all documents of the declared tasks are
written, not the drawn ones: `<output>/payload/texts.parquet` (task, text), a row a question and an answer.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from ft_dagster.evaluation.request import TextsRequest, read_request
from ft_dagster.evaluation.tasks import frozen_tasks, resolve_tasks
from ft_dagster.program import run_program
from ft_dagster.provenance.held import FOLDER, held_files


def main(run_dir: Path) -> int:
    @cache
    def request() -> TextsRequest:
        return read_request(run_dir, TextsRequest)

    return run_program(lambda: request().output, lambda: write_texts(request()))


def write_texts(request: TextsRequest) -> dict[str, Any]:
    """Write the texts of the asked tasks; returns how many of each task. Raises UserError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ft_dagster.evaluation.load import TABLES, load_task, prepare_environment

    entries = resolve_tasks(request.tasks, request.project)
    prepare_environment(entries)
    counts: dict[str, int] = {}
    folder = request.output / FOLDER
    schema = pa.schema([("task", pa.string()), ("text", pa.string())])
    with (
        held_files(folder) as held,
        frozen_tasks(entries, request.tasks, held),
        pq.ParquetWriter(request.output / "payload" / "texts.parquet", schema, compression="zstd") as writer,
    ):
        for entry in entries:
            texts = [
                text for part in load_task(entry, folder / TABLES).parts.values() for text in _texts(part)
            ]
            writer.write_table(pa.table({"task": [entry.name] * len(texts), "text": texts}, schema=schema))
            counts[entry.name] = len(texts)
            print(f"evaluation texts: {entry.name}: {len(texts)} texts", flush=True)
    return {"texts": sum(counts.values()), "by_task": counts}


def _texts(task: Any) -> Iterator[str]:
    for doc in task.eval_docs:
        question, answer = task.doc_to_text(doc), task.doc_to_target(doc)
        choices = task.doc_to_choice(doc) if task.config.doc_to_choice else []
        if isinstance(question, int):  # a task whose choices are whole sentences, such as winogrande
            question = choices[question]
        answers = answer if isinstance(answer, list) else [answer]
        right = [choices[a] if isinstance(a, int) and a < len(choices) else a for a in answers]
        yield from (str(text) for text in (question, *right) if str(text).strip())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m ft_dagster.evaluation.texts RUN_DIR")
    sys.exit(main(Path(sys.argv[1])))
