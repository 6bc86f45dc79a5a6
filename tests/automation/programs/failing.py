"""A code location under the project's name whose training fails while the base is judged, until the file `go`
lies in the project, or for two minutes.
"""

import os
import time
from pathlib import Path

import dagster as dg

from ft_dagster.assets.partitions import PARTITIONS
from ft_dagster.automation.jobs import JOB
from ft_dagster.settings import PROJECT_VARIABLE

VARIANTS = dg.DynamicPartitionsDefinition(name=PARTITIONS)


@dg.asset(partitions_def=VARIANTS, op_tags={"dagster/priority": "1"})
def fine_tuned_model() -> None:
    raise dg.Failure("the disk is full")


@dg.asset(partitions_def=VARIANTS)
def base_evaluation() -> None:
    go, until = Path(os.environ[PROJECT_VARIABLE]) / "go", time.monotonic() + 120
    while not go.exists() and time.monotonic() < until:
        time.sleep(0.1)


defs = dg.Definitions(
    assets=[fine_tuned_model, base_evaluation],
    jobs=[dg.define_asset_job(JOB, "*")],
    executor=dg.in_process_executor,
)
