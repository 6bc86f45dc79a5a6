"""Takes over the rows of each upstream asset that declarations may read, by their content (group data)."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from ft_dagster.assets.data import GROUP
from ft_dagster.assets.failures import failures
from ft_dagster.assets.page import DIGITS, Page
from ft_dagster.assets.partitions import Graph
from ft_dagster.dagster_private import DATA_VERSION
from ft_dagster.data.sources.upstream import (
    Materialization,
    Snapshot,
    forget_snapshots,
    table_rows,
    take_snapshot,
)
from ft_dagster.errors import UserError
from ft_dagster.report.figures import counted, size
from ft_dagster.report.sentences.next_step import NOTHING
from ft_dagster.report.sentences.summaries import Summary
from ft_dagster.resources import TENANTS
from ft_dagster.resources.tenants import Tenants
from ft_dagster.settings import Settings
from ft_dagster.store import unreachable

DAY = 86_400.0


def upstream_assets(graph: Graph) -> list[dg.AssetsDefinition]:
    return [_snapshot_of(graph, name) for name in graph.upstream]


def newest_materialization(instance: dg.DagsterInstance, asset: str) -> Materialization | None:
    """Return the newest materialization of an asset by its key, `warehouse/tickets`; None where it was never
    materialized.
    """
    records = instance.fetch_materializations(dg.AssetKey(asset.split("/")), limit=1).records
    made = records[0].asset_materialization if records else None
    if made is None:
        return None
    at = datetime.fromtimestamp(records[0].timestamp, UTC).isoformat(timespec="seconds")
    version = (made.tags or {}).get(DATA_VERSION)
    return Materialization(records[0].storage_id, at, records[0].run_id or None, version)


def _snapshot_of(graph: Graph, name: str) -> dg.AssetsDefinition:
    @dg.asset(
        key=graph.snapshot_key(name),
        description=f"Rows of {name}, as its IO manager gives them: what declarations read as asset: {name}",
        deps=[dg.AssetKey(name.split("/"))],
        group_name=graph.name(GROUP),
        kinds={"json"},
        code_version="1",
        required_resource_keys={graph.name(TENANTS)},
    )
    def snapshot(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        tenants: Tenants = getattr(context.resources, graph.name(TENANTS))
        with failures(context, lambda: tenants.settings().retries):
            settings = tenants.settings()
            made = newest_materialization(context.instance, name)
            if made is None:
                raise UserError("it was never materialized", value=name, fix="Materialize it first")
            taken = take_snapshot(settings.project, name, _rows(context, name), made)
            _forget(settings, name)
        return dg.MaterializeResult(
            metadata=_page(taken).metadata(""), data_version=dg.DataVersion(taken.sha256)
        )

    return snapshot


def _rows(context: dg.AssetExecutionContext, name: str) -> Iterator[Any]:
    """Yield the rows as the asset's IO manager loads them; of a partitioned asset those of each partition
    that was materialized, by its key. Raises UserError where it loads nothing.
    """
    key = dg.AssetKey(name.split("/"))
    partitions = sorted(context.instance.get_materialized_partitions(key)) or [None]
    for partition in partitions:
        try:
            value = context.load_asset_value(key, partition_key=partition)
        except Exception as error:  # whatever an IO manager raises
            if unreachable(error):
                raise  # it is tried again
            raise UserError(
                f"its IO manager cannot load it ({_said(error)})",
                value=name if partition is None else f"{name}, {partition}",
                fix="Let the asset return its rows, with an IO manager that loads what it stores, and "
                "materialize it",
            ) from None
        yield from table_rows(value)


def _said(error: Exception) -> str:
    """Say the error of a file that is not there all; of any other error its kind alone, for it may quote a
    row.
    """
    return f"{type(error).__name__}: {error}" if isinstance(error, OSError) else type(error).__name__


def _forget(settings: Settings, name: str) -> None:
    """Forget snapshots that no run can be reading any more, by the retention of what tenants share."""
    kept = settings.retention.of(None)
    if not kept.hold:
        forget_snapshots(settings.project, name, time.time() - kept.days * DAY)


def _page(taken: Snapshot) -> Page:
    summary = Summary(
        f"{counted(taken.rows, 'row')} of {taken.asset}, {size(taken.size)}",
        f"Materialized {taken.made.at}; data version {taken.made.data_version or 'not told'}",
        f"{NOTHING}; variants that read it and ask for retrains on new data are due where rows changed",
    )
    entries = {"dagster/row_count": taken.rows, "sha256": dg.MetadataValue.text(taken.sha256[:DIGITS])}
    return Page(summary, entries)
