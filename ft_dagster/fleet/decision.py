"""Decides by what the table knows, and finds the table of an instance."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.fleet.due.due import EVEN_START, Decisions, FleetState, Pace, due
from ft_dagster.fleet.table.table import FleetTable
from ft_dagster.fleet.table.table_rows import FleetRow
from ft_dagster.settings import Settings

FILE = "fleet.db"
DAYS_BACK = timedelta(days=40)  # charges that still count: of this month, and the seven days before
PACE, OWNER = "pace", "owner"  # of the table


def decided(table: FleetTable, rows: Sequence[FleetRow], settings: Settings, now: datetime) -> Decisions:
    """Return which of these rows are to be started now and which not, by what the table knows."""
    states = [row.state for row in rows]
    charges = table.charges((now - DAYS_BACK).date())
    return due(FleetState(states, charges, _pace(table), table.busy()), settings.fleet, now)


class Owner(NamedTuple):
    """Names whose table it is; `prefix`: what the keys of the project's assets begin with on the host's
    instance.
    """

    project: Path
    prefix: tuple[str, ...]

    def is_another(self, settings: Settings) -> bool:
        """Say whether it is another project of this host; else it is this one, by another path or seen from
        where it has another.
        """
        return (self.project / "tenants").is_dir() and not self.project.samefile(settings.project)


def keep_owner(table: FleetTable, settings: Settings, prefix: Sequence[str]) -> None:
    """Note whose table it is. Raises UserError where it is another project's, whose variants would all count
    as retired.
    """
    owner = owner_of(table)
    if owner is not None and owner.is_another(settings):
        raise UserError(
            f"the fleet of this Dagster instance is that of {owner.project}",
            field="DAGSTER_HOME",
            value=str(settings.dagster_home),
            fix="Give each project an instance of its own, or one of them a prefix (docs/embedding.md)",
        )
    table.set_meta(OWNER, json.dumps([str(settings.project), list(prefix)]))


def owner_of(table: FleetTable) -> Owner | None:
    """Return the owner of the table; None before a tick."""
    content = json.loads(table.meta(OWNER) or "null")
    return None if content is None else Owner(Path(content[0]), tuple(content[1]))


def keep_pace(table: FleetTable, pace: Pace) -> None:
    at = None if pace.at is None else pace.at.timestamp()
    table.set_meta(PACE, json.dumps([pace.hours, at, min(pace.rate, 1e9)]))


def _pace(table: FleetTable) -> Pace:
    content = json.loads(table.meta(PACE) or "null")
    if content is None:
        return EVEN_START
    hours, at, rate = content
    return Pace(hours, datetime.fromtimestamp(at, UTC), rate)


def sqlite_url(home: Path) -> str:
    """Return the URL of the table beside the SQLite files of an instance, for SQLAlchemy."""
    return f"sqlite:///{home / FILE}"


def kept_elsewhere(settings: Settings) -> bool:
    """Say whether the instance is kept in Postgres, and the table with it."""
    said = settings.dagster_home / "dagster.yaml"
    return said.is_file() and "postgres" in said.read_text("utf-8")


def table_beside(settings: Settings) -> FleetTable | None:
    """Open the project's table beside an instance in SQLite files, without asking Dagster, which takes
    seconds to load; None where there is none yet. Raises UserError.
    """
    for home in dict.fromkeys((settings.dagster_home, settings.own_home)):
        if (home / FILE).is_file():
            table = FleetTable(sqlite_url(home))
            owner = owner_of(table)
            if owner is None or not owner.is_another(settings):
                return table
    return None
