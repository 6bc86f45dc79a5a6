"""Where the fleet's table is: in the database of the Dagster instance, or beside its SQLite files."""

from pathlib import Path

import dagster as dg

from ft_dagster.fleet.table import FleetTable, emptied
from ft_dagster.settings import Settings

FILE = "fleet.db"


def fleet_url(instance: dg.DagsterInstance, settings: Settings) -> str:
    """For SQLAlchemy. An instance without a folder of its own has its table in the project's Dagster home."""
    url = getattr(instance.run_storage, "postgres_url", None)
    if url is not None:
        return str(url)
    home = Path(instance.root_directory) if instance.is_persistent else settings.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{home / FILE}"


def open_fleet(instance: dg.DagsterInstance, settings: Settings) -> FleetTable:
    """Made where it is not there. Raises UserError for one that a newer version wrote."""
    return FleetTable(fleet_url(instance, settings))


def empty_fleet(instance: dg.DagsterInstance, settings: Settings) -> FleetTable:
    """In place of the one that is there, of whatever version."""
    return emptied(fleet_url(instance, settings))
