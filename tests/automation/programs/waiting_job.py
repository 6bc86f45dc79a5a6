"""A job that waits until the file `go` lies in the project."""

import os
import time
from pathlib import Path

import dagster as dg


@dg.op
def waits(context: dg.OpExecutionContext) -> None:
    project = Path(os.environ["FT_DAGSTER_PROJECT"])
    (project / f"{context.run_id}.pid").write_text(str(os.getpid()))
    while not (project / "go").exists():
        time.sleep(0.1)


@dg.job(executor_def=dg.in_process_executor)
def waiting() -> None:
    waits()
