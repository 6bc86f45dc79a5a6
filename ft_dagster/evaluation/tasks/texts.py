"""Writes the bare words of every question and answer: `python -m ft_dagster.evaluation.tasks.texts RUN_DIR`.

Training rows that repeat them are removed (decontamination), so all documents of the declared tasks are
written, not the drawn ones: `<output>/payload/texts.parquet` (task, questions, answers), a row a document.
"""

from __future__ import annotations

from pathlib import Path

from ft_dagster.evaluation.request import TextsRequest
from ft_dagster.evaluation.tasks.tasks import frozen_tasks, resolve_tasks
from ft_dagster.program import run_program, start_program
from ft_dagster.provenance.held import FOLDER, held_files


def main(run_dir: Path) -> int:
    return run_program(run_dir, TextsRequest, write_texts)


def write_texts(request: TextsRequest) -> dict[str, object]:
    """Write the questions of the asked tasks; returns how many of each task, how its few-shot examples are
    drawn and how many it says itself, and the metrics of those that say so. Raises UserError.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ft_dagster.data.rows.decontaminate import ITEMS_SCHEMA
    from ft_dagster.evaluation.tasks.load import TABLES, load_task, prepare_environment, sampler_of
    from ft_dagster.evaluation.tasks.questions import bare_items, metrics_of

    entries = resolve_tasks(request.tasks, request.project, roots=request.roots)
    prepare_environment(entries)
    counts: dict[str, int] = {}
    metrics: dict[str, list[str]] = {}
    examples: dict[str, list[dict[str, str | int | None]]] = {}
    file, folder = request.output / "payload" / "texts.parquet", request.output / FOLDER
    with (
        held_files(folder) as held,
        frozen_tasks(entries, request.tasks, held),
        pq.ParquetWriter(file, ITEMS_SCHEMA, compression="zstd") as writer,
    ):
        for entry in entries:
            loaded = load_task(entry, folder / TABLES)
            with loaded.reading():
                parts = loaded.parts.values()
                items = [item._asdict() for part in parts for item in bare_items(part, entry.name)]
                offered = [metrics_of(part) for part in parts]
                drawn = {(sampler_of(part), part.get_config("num_fewshot")) for part in parts}
            writer.write_table(pa.Table.from_pylist(items, schema=ITEMS_SCHEMA))
            counts[entry.name] = len(items)
            examples[entry.name] = [
                {"sampler": sampler, "num_fewshot": said} for sampler, said in sorted(drawn, key=str)
            ]
            if None not in offered:
                metrics[entry.name] = sorted({name for names in offered for name in names or ()})
            print(f"evaluation texts: {entry.name}: {len(items)} questions", flush=True)
    return {"questions": sum(counts.values()), "by_task": counts, "metrics": metrics, "examples": examples}


if __name__ == "__main__":
    start_program("ft_dagster.evaluation.tasks.texts", main)
