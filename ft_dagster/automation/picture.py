"""Reads the fleet's picture, as `status`, `report --fleet` and the fleet page show it; and tells whether its
store is there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ft_dagster.errors import UserError, in_one_line
from ft_dagster.spec import VariantKey

if TYPE_CHECKING:
    from ft_dagster.fleet.picture import FleetPicture
    from ft_dagster.fleet.table.table import FleetTable
    from ft_dagster.settings import Settings
    from ft_dagster.spec import Declarations


def to_stderr(text: str) -> None:
    print(in_one_line(text), file=sys.stderr)


def picture(
    settings: Settings,
    declarations: Declarations,
    asked: Sequence[VariantKey],
    *,
    exact: bool = False,
    say: Callable[[str], None] = to_stderr,
) -> FleetPicture:
    """Return the picture of these variants, from the store with `exact` or where they are few; else what the
    fleet's table knows of all. `say`: is told of a table that cannot be used. Raises UserError where that
    is needed.
    """
    from ft_dagster.fleet.picture import EXACT_UP_TO, look_at, picture_of

    from_store, now = exact or len(asked) <= EXACT_UP_TO, datetime.now(UTC)
    table = table_of_store(settings, needed=not from_store, say=say)
    if table is None or table.looked() is None:
        return look_at(declarations, asked, None, settings, now)
    if from_store:
        return look_at(declarations, asked, table, settings, now)
    return picture_of(table, settings, now)


def table_of_store(
    settings: Settings, *, needed: bool = False, say: Callable[[str], None] = to_stderr
) -> FleetTable | None:
    """Return what ticks know of the fleet; None before the first. One that cannot be used is said, unless it
    is `needed`. Raises UserError, also where it knows that the store held something and that holds nothing
    now.
    """
    from ft_dagster.fleet.refresh.lost_store import refuse_lost_store

    try:
        table = table_of(settings)
    except UserError as error:  # it proves nothing: what the store says holds without it
        if needed:
            raise
        say(str(error))
        return None
    if table is not None:
        refuse_lost_store(settings.open_store(), table)
    return table


def table_of(settings: Settings) -> FleetTable | None:
    """Return what ticks know of the fleet, without a look at the store; None before the first."""
    from ft_dagster.fleet.decision import kept_elsewhere, table_beside

    if not kept_elsewhere(settings):
        return table_beside(settings)
    from ft_dagster.automation.fleet_table import open_fleet  # Dagster takes seconds to import
    from ft_dagster.automation.processes.instance import open_instance

    with open_instance(settings) as instance:
        return open_fleet(instance, settings)
