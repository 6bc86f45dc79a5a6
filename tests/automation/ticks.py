"""What is around the ticks of a test: settings, and runs as Dagster's daemon makes them."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from ft_dagster.assets.release import LOG_ENTRIES
from ft_dagster.automation.fleet_table import open_fleet
from ft_dagster.fleet.table.table_rows import FleetRow
from ft_dagster.settings import load_settings
from tests.fleet.tables import row_of
from tests.present import present

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
STATUS = dg.DagsterRunStatus


def settings(project: Path, **fleet: Any) -> None:
    (project / "ft_dagster.yaml").write_text(json.dumps({"fleet": fleet}))


def row(project: Path, instance: dg.DagsterInstance, key: str) -> FleetRow:
    return row_of(open_fleet(instance, load_settings(project)), key)


def run_of(
    instance: dg.DagsterInstance, request: dg.RunRequest, status: STATUS = STATUS.QUEUED, **tags: str
) -> str:
    """A run of a request, as Dagster's daemon makes it."""
    key = present(request.partition_key)
    made = instance.create_run_for_job(
        _variant_chain(), tags={**request.tags, "dagster/partition": key, **tags}
    )
    end(instance, made.run_id, status)
    return made.run_id


def end(instance: dg.DagsterInstance, run_id: str, status: STATUS) -> None:
    run = present(instance.get_run_by_id(run_id))
    if status is STATUS.FAILURE:
        instance.report_run_failed(run, "out of memory")
        instance.add_run_tags(run_id, {"dagster/will_retry": "false"})
    elif status is not STATUS.QUEUED:
        kinds = {
            STATUS.SUCCESS: dg.DagsterEventType.RUN_SUCCESS,
            STATUS.STARTED: dg.DagsterEventType.RUN_START,
        }
        instance.report_dagster_event(
            dg.DagsterEvent(kinds[status].value, "variant_chain", message="as it would be"), run_id
        )


def _variant_chain() -> dg.JobDefinition:
    @dg.op
    def nothing() -> None:
        pass

    @dg.job
    def variant_chain() -> None:
        nothing()

    return variant_chain


def report_release(instance: dg.DagsterInstance, key: str, entries: int | None = None) -> None:
    """As a run does that released, and the command line. `entries`: of the log; None: as older versions."""
    said = {} if entries is None else {LOG_ENTRIES: entries}
    instance.report_runless_asset_event(dg.AssetMaterialization("release", partition=key, metadata=said))
