"""Reads the fleet's figures for Prometheus, again and again, and serves what was read last."""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

import dagster as dg
from prometheus_client import CollectorRegistry, start_http_server

from ft_dagster.assets.partitions import GRAPH
from ft_dagster.automation.fleet_table import open_fleet, refuse_lost
from ft_dagster.automation.jobs import JOB
from ft_dagster.automation.notify import open_outbox
from ft_dagster.automation.tags import NOBODY, TENANT
from ft_dagster.errors import UserError
from ft_dagster.fleet.decision import decided
from ft_dagster.fleet.due.costs import cost_rows, read_costs
from ft_dagster.fleet.metrics import FleetCollector, FleetFigures
from ft_dagster.fleet.table.table import FleetTable
from ft_dagster.fleet.table.table_rows import FleetRow
from ft_dagster.launch.leases import of_host
from ft_dagster.planning.hardware.catalogue import load_catalogue
from ft_dagster.settings import Settings

STATUS = dg.DagsterRunStatus
WAITING = (STATUS.QUEUED, STATUS.NOT_STARTED)
ACTIVE = (STATUS.STARTING, STATUS.STARTED, STATUS.CANCELING)
QUEUED, IN_PROGRESS = "queued", "in_progress"
IDLE, DUE = "idle", "due"  # beside the kinds of `fleet.due.due.WhyNot`


def read_figures(instance: dg.DagsterInstance, settings: Settings) -> FleetFigures:
    """Read all figures as they are now. Raises UserError."""
    began, table = time.time(), open_fleet(instance, settings)
    refuse_lost(instance, settings, table, GRAPH)
    costs = read_costs(settings.open_store(), load_catalogue(settings.project))
    rows = table.rows()
    devices = of_host(settings.host).table()
    targets = open_outbox(instance, settings).states()
    return FleetFigures(
        costs=tuple(cost_rows(costs.items, lambda item: item.tenant)),
        damaged=len(costs.damaged),
        variants=_states(table, rows, settings),
        failures=_failures(rows),
        runs=_runs(instance),
        devices=Counter(device.state for device in devices.devices),
        waiting=len(devices.waiting),
        untold={
            name: targets[name].waiting if name in targets else 0 for name in settings.notifications.targets
        },
        at=began,
        seconds=time.time() - began,
    )


def serve(
    read: Callable[[], FleetFigures], host: str, port: int, every: float, say: Callable[[str], None]
) -> None:
    """Serve on an address until the process is ended; the figures are read anew every so many seconds. Where
    that fails, by whatever it is, those of before stand and say so, and it is tried again.

    Raises UserError where it cannot listen there, or the first figures cannot be read.
    """
    collector, registry = FleetCollector(read()), CollectorRegistry()
    registry.register(collector)
    try:
        server, _ = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        problem = f"cannot listen there: {error.strerror or error}"
        raise UserError(problem, field="--host", value=f"{host}:{port}", fix="Give another --port") from None
    try:
        while True:
            time.sleep(every)
            try:
                collector.figures = read()
            except Exception as error:  # a storage or a database may be away for a while
                collector.figures = dataclasses.replace(collector.figures, failed=True)
                say(f"could not be read anew: {error!s:.500}")
    finally:
        server.shutdown()


def _states(table: FleetTable, rows: list[FleetRow], settings: Settings) -> dict[str, int]:
    """Count the variants of each state: due, why not, or idle."""
    decisions = decided(table, rows, settings, datetime.now(UTC))
    kinds = [waits.kind for waits in decisions.not_done]
    counts = Counter([*kinds, *(DUE for _ in decisions.retrains)])
    return {IDLE: len(rows) - counts.total(), DUE: 0, **counts}


def _failures(rows: list[FleetRow]) -> dict[str, int]:
    """Count failures by tenant; of what is declared no longer nobody mends any."""
    counts = Counter[str]()
    for row in rows:
        if row.state.retired:
            continue
        counts[row.state.key.tenant] += row.state.failures + row.state.fruitless
    return dict(counts)


def _runs(instance: dg.DagsterInstance) -> dict[tuple[str, str], int]:
    found = instance.get_runs(dg.RunsFilter(job_name=JOB, statuses=[*WAITING, *ACTIVE]))
    return Counter(
        (run.tags.get(TENANT, NOBODY), QUEUED if run.status in WAITING else IN_PROGRESS) for run in found
    )
