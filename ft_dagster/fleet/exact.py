"""Variants as declaration and store say them now; what is known of their runs stands."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from ft_dagster.errors import UserError
from ft_dagster.fleet.declared import as_declared
from ft_dagster.fleet.history import RunHistory
from ft_dagster.fleet.learning import DAMAGE, known_version, learnt, said_of
from ft_dagster.fleet.table import FleetRow
from ft_dagster.fleet.world import World
from ft_dagster.settings import Settings
from ft_dagster.spec import Declarations, VariantKey


def exact_rows(
    settings: Settings,
    declarations: Declarations,
    keys: Iterable[VariantKey],
    known: Iterable[FleetRow],
    now: datetime,
) -> list[FleetRow]:
    """Of these variants and of those that they descend from. `known`: what the table knows."""
    world, before = World(settings), {row.key: row for row in known}
    rows, due = dict[str, FleetRow](), [*keys]
    while due:
        key = due.pop()
        if str(key) in rows:
            continue
        row = as_declared(str(key), before.get(str(key)), declarations, declarations.stamp(key), now)
        rows[str(key)] = _read(world, declarations, row, now)
        parent = None if row.state.broken else row.parent
        due += [] if parent is None else [VariantKey.parse(parent)]
    return list(rows.values())


def _read(world: World, declarations: Declarations, row: FleetRow, now: datetime) -> FleetRow:
    if row.state.broken is not None:
        return replace(row, version=known_version(world, row, None))
    runs = RunHistory(**{name: getattr(row.state, name) for name in RunHistory._fields})
    try:
        known = learnt(row, runs, world.settings, (), now)
        return replace(known, version=known_version(world, known, declarations.declared(row.state.key)))
    except (UserError, *DAMAGE) as error:
        return row.known(broken=said_of(error))
