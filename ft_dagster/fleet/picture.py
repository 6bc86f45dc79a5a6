"""Pictures the fleet at a glance: by what its table knows, or read from the store now."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import NamedTuple

from ft_dagster.fleet.decision import decided
from ft_dagster.fleet.due.due import EVEN_START, Decisions
from ft_dagster.fleet.status import StatusRow, status_rows
from ft_dagster.fleet.table.table import FleetTable
from ft_dagster.fleet.table.table_rows import FleetRow
from ft_dagster.settings import Settings
from ft_dagster.spec import Declarations, VariantKey

EXACT_UP_TO = 100  # variants
BEHIND = timedelta(minutes=1)  # since the last tick (four a minute): no daemon lives, and none of its runs
SECOND = timedelta(seconds=1)  # to which release logs tell the time


class FleetPicture(NamedTuple):
    """Holds the fleet's rows. `exact`: read from the store now; else as of `looked`, as all is that is known
    of runs (None: nothing is, since no tick was made yet).
    """

    rows: list[StatusRow]
    exact: bool
    looked: datetime | None

    @property
    def from_when(self) -> str:
        """Say in words how old the picture is."""
        if self.looked is None:
            return "read now; run history not loaded yet (start the daemon)"
        at = f"{self.looked:%Y-%m-%d %H:%M} UTC"
        return f"read now, runs as of {at}" if self.exact else f"as of {at}"


def picture_of(table: FleetTable, settings: Settings, now: datetime) -> FleetPicture:
    """Return all that the table knows."""
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
    """Return these variants as the store has them now, and those that were retired; of their runs what the
    table knows.
    """
    from ft_dagster.fleet.refresh.read_now import exact_rows  # the stages, which take a second to import

    known = [] if table is None else table.rows()
    looked = None if table is None else table.looked()
    rows = exact_rows(settings, declarations, keys, known, now)
    rows = [row if _may_run(row, looked, now) else row.known(running=False) for row in rows]
    rows += [row for row in known if row.state.retired and row.state.key not in declarations.files]
    due = [row for row in rows if row.next_look and row.next_look <= now]
    decisions = Decisions((), (), EVEN_START) if table is None else decided(table, due, settings, now)
    return FleetPicture(status_rows(rows, decisions, now), True, looked)


def _may_run(row: FleetRow, looked: datetime | None, now: datetime) -> bool:
    """Say whether a run that was in progress at the last tick may still be: it is not, where a run judged or
    released something since. What a person approves or rolls back ends no run.
    """
    known = row.version
    since = () if known is None else (known.made if known.gate else None, known.logged)
    done = max((at for at in since if at is not None), default=None)
    return looked is not None and now - looked < BEHIND and (done is None or done + SECOND < looked)
