"""Where the fleet's table is: in the database of the Dagster instance, or beside its SQLite files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from ft_dagster.errors import UserError
from ft_dagster.fleet.decided import sqlite_url
from ft_dagster.fleet.table import FleetTable, emptied
from ft_dagster.launch.locks import locked
from ft_dagster.settings import Settings

LOCK = "fleet.lock"
PATIENCE = 60.0  # seconds


def fleet_url(instance: dg.DagsterInstance, settings: Settings) -> str:
    """For SQLAlchemy. An instance without a folder of its own has its table in the project's Dagster home."""
    url = getattr(instance.run_storage, "postgres_url", None)
    if url is not None:
        return str(url)
    return sqlite_url(_home(instance, settings))


def open_fleet(instance: dg.DagsterInstance, settings: Settings) -> FleetTable:
    """Made where it is not there. Raises UserError for one that a newer version wrote, or that is damaged."""
    with _alone(instance, settings):
        return FleetTable(fleet_url(instance, settings))


def empty_fleet(instance: dg.DagsterInstance, settings: Settings) -> FleetTable:
    """In place of the one that is there, of whatever version, damaged or not. Raises UserError."""
    with _alone(instance, settings):
        return emptied(fleet_url(instance, settings))


@contextmanager
def _alone(instance: dg.DagsterInstance, settings: Settings) -> Iterator[None]:
    """One process of this host at a time makes the table: SQLite makes each of its parts by itself."""
    home = _home(instance, settings)
    try:
        with locked(home / LOCK, PATIENCE):
            yield
    except TimeoutError:
        problem = f"another process has been making the fleet's table for {PATIENCE:.0f} s"
        raise UserError(problem, file=home / LOCK, fix="End it, or try again") from None


def _home(instance: dg.DagsterInstance, settings: Settings) -> Path:
    home = Path(instance.root_directory) if instance.is_persistent else settings.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    return home
