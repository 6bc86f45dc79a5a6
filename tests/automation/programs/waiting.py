"""A code location under the project's name whose one asset of a variant waits until the file `go` lies in the
project.
"""

import os
import time
from pathlib import Path

import dagster as dg

from ft_dagster.assets.partitions import PARTITIONS
from ft_dagster.automation.jobs import JOB
from ft_dagster.settings import PROJECT_VARIABLE


@dg.asset(partitions_def=dg.DynamicPartitionsDefinition(name=PARTITIONS))
def waits(context: dg.AssetExecutionContext) -> None:
    project = Path(os.environ[PROJECT_VARIABLE])
    (project / f"{context.run_id}.pid").write_text(str(os.getpid()))
    while not (project / "go").exists():
        time.sleep(0.1)


defs = dg.Definitions(
    assets=[waits], jobs=[dg.define_asset_job(JOB, [waits])], executor=dg.in_process_executor
)
