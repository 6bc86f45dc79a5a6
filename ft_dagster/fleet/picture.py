"""The fleet at a glance: by what its table knows, or read from the store now."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple

from ft_dagster.fleet.decided import decided
from ft_dagster.fleet.due import EVEN_START, Decisions
from ft_dagster.fleet.status import StatusRow, status_rows
from ft_dagster.fleet.table import FleetTable
from ft_dagster.settings import Settings
from ft_dagster.spec import Declarations, VariantKey

EXACT_UP_TO = 100  # variants


class FleetPicture(NamedTuple):
    """`exact`: read from the store now; else as of `looked`, as all is that is known of runs (None: nothing
    is, since no tick was made yet)."""

    rows: list[StatusRow]
    exact: bool
    looked: datetime | None

    @property
    def from_when(self) -> str:
        """In words."""
        if self.looked is None:
            return "read now; no tick was made yet, so nothing is known of runs"
        at = f"{self.looked:%Y-%m-%d %H:%M} UTC"
        return f"read now, runs as of {at}" if self.exact else f"as of {at}; --exact reads the store"


def picture_of(table: FleetTable, settings: Settings, now: datetime) -> FleetPicture:
    """All that the table knows."""
    rows = table.rows()
    decisions = decided(table, [row for row in rows if row.next_look and row.next_look <= now], settings, now)
    return FleetPicture(status_rows(rows, decisions, now), False, table.looked())


def look_at(
    declarations: Declarations,
    keys: Collection[VariantKey],
    table: FleetTable | None,
    settings: Settings,
    now: datetime,
) -> FleetPicture:
    """These variants as the store has them now, and those that were retired; of their runs what the table
    knows.
    """
    from ft_dagster.fleet.exact import exact_rows  # the stages, which take a second to import

    known = [] if table is None else table.rows()
    rows = exact_rows(settings, declarations, keys, known, now)
    rows += [row for row in known if row.state.retired and row.state.key not in declarations.files]
    due = [row for row in rows if row.next_look and row.next_look <= now]
    decisions = Decisions((), (), EVEN_START) if table is None else decided(table, due, settings, now)
    return FleetPicture(status_rows(rows, decisions, now), True, None if table is None else table.looked())
