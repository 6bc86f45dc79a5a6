"""Checks whether new tokens stand in what tasks ask: `python -m ft_dagster.evaluation.tasks.unsaid RUN_DIR`.

All documents are looked at, not the drawn ones, each as a model reads it: with the words of the task's
template, and with every choice. result.json's figures say how many there are of each task. Exit: 0 where none
has any, 2 where one does, or for bad input.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ft_dagster.data.rendering.new_tokens import refuse_said
from ft_dagster.evaluation.request import UnsaidRequest
from ft_dagster.evaluation.tasks.questions import asked_of
from ft_dagster.evaluation.tasks.tasks import frozen_tasks, resolve_tasks
from ft_dagster.program import run_program, start_program
from ft_dagster.provenance.held import FOLDER, held_files

BETWEEN = "\0"  # parts of a text that no model reads in a row


def main(run_dir: Path) -> int:
    return run_program(run_dir, UnsaidRequest, look_through)


def look_through(request: UnsaidRequest) -> dict[str, object]:
    """Count the questions of each task, and refuse a token that stands in one. Raises UserError where a token
    stands in one.
    """
    from ft_dagster.evaluation.tasks.load import TABLES, load_task, prepare_environment, shots_of

    entries = resolve_tasks(request.tasks, request.project, roots=request.roots)
    prepare_environment(entries)
    counts: dict[str, int] = {}
    folder = request.output / FOLDER
    with held_files(folder) as held, frozen_tasks(entries, request.tasks, held):
        for entry in entries:
            loaded = load_task(entry, folder / TABLES)
            with loaded.reading():
                texts = [text for part in loaded.parts.values() for text in read_texts(part)]
                drawn = [
                    text
                    for part in loaded.parts.values()
                    if shots_of(part, request.num_fewshot)
                    for text in read_examples(part)
                ]
            named = f"questions of {entry.entry}"
            refuse_said(request.tokens, texts, named, request.declared_in)
            refuse_said(request.tokens, drawn, f"examples of {entry.entry}", request.declared_in)
            counts[entry.name] = len(texts)
    return {"questions": sum(counts.values()), "by_task": counts}


def read_texts(task: Any) -> Iterator[str]:
    """Yield each document as a model reads it: every request that it makes, and its answers in an example."""
    around, before = str(task.config.fewshot_delimiter), str(task.config.target_delimiter)
    for doc in task.eval_docs:
        context = task.fewshot_context(doc, 0, gen_prefix=task.doc_to_prefix(doc))
        made = task.construct_requests(doc, context, metadata=(task.config.task, 0, 1))
        asked = [request.args for request in (made if isinstance(made, list) else [made])]
        texts = ["".join(part for part in parts if isinstance(part, str)) for parts in asked]
        texts += [f"{before}{answer}" for answer in asked_of(task, doc).answers]
        yield BETWEEN.join(f"{around}{text}{around}" for text in texts)


def read_examples(task: Any) -> Iterator[str]:
    """Yield each document that may be drawn as an example, as it stands before a question."""
    doc, sampler = task.eval_docs[0], task.sampler
    try:
        for example in sampler.fewshot_docs():
            task.sampler = SimpleNamespace(sample=lambda n, eval_doc=None, drawn=example: [drawn])
            yield str(task.fewshot_context(doc, 1, gen_prefix=task.doc_to_prefix(doc)))
    finally:
        task.sampler = sampler


if __name__ == "__main__":
    start_program("ft_dagster.evaluation.tasks.unsaid", main)
