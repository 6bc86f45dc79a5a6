"""Finds where the fleet's table is: in the database of the Dagster instance, or beside its SQLite files.

And whether the store that it was made from is there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from ft_dagster.assets.partitions import GRAPH, Graph
from ft_dagster.errors import UserError
from ft_dagster.fleet.decision import FILE, Owner, owner_of, sqlite_url
from ft_dagster.fleet.refresh.lost_store import refuse_lost_store
from ft_dagster.fleet.table.table import FleetTable, emptied
from ft_dagster.launch.locks import locked
from ft_dagster.settings import Settings
from ft_dagster.stage_entries import DECLARATION

LOCK = "fleet.lock"
PATIENCE = 60.0  # seconds


def fleet_url(instance: dg.DagsterInstance, settings: Settings, graph: Graph = GRAPH) -> str:
    """Return the table's address for SQLAlchemy. Under a prefix it is in the project's own folder: the
    instance has others' too.
    """
    url = getattr(instance.run_storage, "postgres_url", None)
    if url is not None and not graph.prefix:
        return str(url)
    return sqlite_url(fleet_home(instance, settings, graph))


def open_fleet(instance: dg.DagsterInstance, settings: Settings, graph: Graph = GRAPH) -> FleetTable:
    """Open the table, made where it is not there. Raises UserError for one that a newer version wrote, or
    that is damaged.
    """
    with _alone(instance, settings, graph):
        return FleetTable(fleet_url(instance, settings, graph))


def owner_of_instance(instance: dg.DagsterInstance, settings: Settings) -> Owner | None:
    """Return the project whose fleet the instance has; None before its first tick, and where the table cannot
    be read.
    """
    in_database = getattr(instance.run_storage, "postgres_url", None) is not None
    if not in_database and not (fleet_home(instance, settings, GRAPH) / FILE).is_file():
        return None
    try:
        return owner_of(open_fleet(instance, settings))
    except UserError:
        return None


def empty_fleet(instance: dg.DagsterInstance, settings: Settings) -> FleetTable:
    """Make an empty table in place of the one that is there, of whatever version, damaged or not. Raises
    UserError.
    """
    with _alone(instance, settings, GRAPH):
        return emptied(fleet_url(instance, settings))


def refuse_lost(instance: dg.DagsterInstance, settings: Settings, table: FleetTable, graph: Graph) -> None:
    """Raises UserError where the store cannot be read, or holds nothing of what runs of the instance made."""

    def has_made() -> bool:
        return instance.get_latest_materialization_event(graph.key(DECLARATION.name)) is not None

    refuse_lost_store(settings.open_store(), table, has_made)


@contextmanager
def _alone(instance: dg.DagsterInstance, settings: Settings, graph: Graph) -> Iterator[None]:
    """Let one process of this host at a time make the table: SQLite makes each of its parts by itself."""
    home = fleet_home(instance, settings, graph)
    try:
        with locked(home / LOCK, PATIENCE):
            yield
    except TimeoutError:
        problem = f"another process has been making the fleet's table for {PATIENCE:.0f} s"
        raise UserError(problem, file=home / LOCK, fix="End it, or try again") from None


def fleet_home(instance: dg.DagsterInstance, settings: Settings, graph: Graph) -> Path:
    """Return the folder of what is kept beside Dagster's own databases, made where it is not there."""
    if graph.prefix:
        home = settings.own_home
    else:
        home = Path(instance.root_directory) if instance.is_persistent else settings.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    return home
