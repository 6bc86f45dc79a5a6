"""Writes what is served, and proves that it is what was judged: `python -m ft_dagster.export RUN_DIR`.

Reads RUN_DIR/run.json (request.py). Writes `<output>/payload/` (the export), `<output>/evidence/` (README.md,
the model card, and certificate.json) and result.json. Exit: 0 done, 2 bad input or a failed certificate,
75 preempted, 130 cancelled.
"""

from __future__ import annotations

from pathlib import Path

from ft_dagster.export.request import ExportRequest
from ft_dagster.export.run import export
from ft_dagster.program import run_program, start_program


def main(run_dir: Path) -> int:
    return run_program(run_dir, ExportRequest, export)


if __name__ == "__main__":
    start_program("ft_dagster.export", main)
