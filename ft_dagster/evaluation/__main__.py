"""Measures one model on the questions that RUN_DIR/run.json names: `python -m ft_dagster.evaluation RUN_DIR`.

Writes `<output>/payload/` (samples.parquet, scores.json), `<output>/evidence/` (answers.parquet, and what was
measured, by digest: measured.json), progress.json while it runs and result.json at the end. It loads the very
bytes that it hashed; where they changed before the end, nothing counts. Exit: 0 done, 2 bad input,
75 preempted, 130 cancelled.
"""

from __future__ import annotations

import os
from pathlib import Path

from ft_dagster.evaluation.measured_digests import FILE as MEASURED
from ft_dagster.evaluation.measured_digests import hold
from ft_dagster.evaluation.request import EvaluationRequest
from ft_dagster.evaluation.tasks.tasks import TaskEntry, frozen_tasks, resolve_tasks
from ft_dagster.gate.samples import Role
from ft_dagster.program import keep_freed_memory, run_program, start_program, write_json
from ft_dagster.provenance.held import FOLDER, held_files


def main(run_dir: Path) -> int:
    return run_program(run_dir, EvaluationRequest, _work)


def _work(request: EvaluationRequest) -> dict[str, object]:
    if os.environ.get("FT_DAGSTER_LEASE"):
        from ft_dagster.launch.leases import hold_as_rank

        hold_as_rank()
    roles: tuple[Role, ...] = ("task", "general")
    entries: dict[Role, tuple[TaskEntry, ...]] = {
        role: resolve_tasks(
            getattr(request, role),
            request.project,
            field=f"evaluation.{role}",
            asked_by=request.declared_in,
            roots=request.roots,
        )
        for role in roles
    }
    declared = [entry for tasks in entries.values() for entry in tasks]
    from ft_dagster.evaluation.tasks.load import prepare_environment

    prepare_environment(declared)
    from ft_dagster.evaluation.run import evaluate

    with held_files(request.output / FOLDER) as held, frozen_tasks(declared, request.digests, held):
        holding, measured = hold(request, held)
        figures = evaluate(holding, entries)
    write_json(request.output / "evidence" / MEASURED, measured.to_json())
    return {**figures, "measured": measured.to_json()}


if __name__ == "__main__":
    keep_freed_memory()
    start_program("ft_dagster.evaluation", main)
