"""Finds variants for which a run would come to what Dagster shows already: none is started for them."""

import dagster as dg

from ft_dagster.automation.processes.instance import Launched
from ft_dagster.automation.processes.own_runs import newest_runs
from ft_dagster.dagster_private import DATA_VERSION
from ft_dagster.settings import Settings
from ft_dagster.spec import VariantKey
from ft_dagster.versions.now import up_to_date


def unchanged(instance: dg.DagsterInstance, settings: Settings, key: VariantKey) -> Launched | None:
    """Return the newest run of a variant, where it succeeded, nothing changed since, and Dagster shows as
    newest the very artifacts that stand; else None: a run is to be started.
    """
    record = next(newest_runs(instance, settings, key), None)
    if record is None or record.dagster_run.status != dg.DagsterRunStatus.SUCCESS:
        return None
    found = up_to_date(settings, key)
    if found is None or any(_shown(instance, key, name) != now for name, now in found.digests.items()):
        return None
    return Launched(key, record.dagster_run.run_id)


def _shown(instance: dg.DagsterInstance, key: VariantKey, asset: str) -> str | None:
    """Return the digest of the newest materialization of a variant's asset; None where there is none."""
    asked = dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[str(key)])
    records = instance.fetch_materializations(asked, limit=1).records
    made = records[0].asset_materialization if records else None
    return None if made is None else (made.tags or {}).get(DATA_VERSION)
