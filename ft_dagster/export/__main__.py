"""`python -m ft_dagster.export RUN_DIR`: write what is served, and prove that it is what was judged.

Reads RUN_DIR/run.json (request.py). Writes `<output>/payload/` (the export), `<output>/evidence/` (README.md,
the model card, and certificate.json) and result.json. Exit: 0 done, 2 bad input or a failed certificate,
75 preempted, 130 cancelled.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

from ft_dagster.evaluation.request import read_request
from ft_dagster.export.request import ExportRequest
from ft_dagster.export.run import export
from ft_dagster.program import leave, run_program


def main(run_dir: Path) -> int:
    @cache
    def request() -> ExportRequest:
        return read_request(run_dir, ExportRequest)

    return run_program(lambda: request().output, lambda: export(request()))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m ft_dagster.export RUN_DIR")
    leave(main(Path(sys.argv[1])))
