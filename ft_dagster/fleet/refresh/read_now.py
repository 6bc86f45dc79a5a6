"""Reads variants as declaration and store say them now; what is known of their runs stands."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from ft_dagster.errors import UserError
from ft_dagster.fleet.due.reasons import News
from ft_dagster.fleet.history import RunHistory
from ft_dagster.fleet.refresh.from_store import DAMAGE, known_version, learnt, said_of
from ft_dagster.fleet.refresh.listing import is_here
from ft_dagster.fleet.refresh.shared_state import SharedState
from ft_dagster.fleet.refresh.sync_declarations import as_declared
from ft_dagster.fleet.refresh.watching import Listings, news_of, places_of
from ft_dagster.fleet.table.table_rows import FleetRow
from ft_dagster.fleet.table.version import KnownVersion
from ft_dagster.models.base import check_place
from ft_dagster.settings import Settings
from ft_dagster.spec import Declarations, Declared, VariantKey


def exact_rows(
    settings: Settings,
    declarations: Declarations,
    keys: Iterable[VariantKey],
    known: Iterable[FleetRow],
    now: datetime,
) -> list[FleetRow]:
    """Return the rows of these variants and of those that they descend from. `known`: what the table
    knows.
    """
    shared, before = SharedState(settings), {row.key: row for row in known}
    listings = Listings(settings)
    rows, due = dict[str, FleetRow](), [*keys]
    while due:
        key = due.pop()
        if str(key) in rows:
            continue
        row = as_declared(str(key), before.get(str(key)), declarations, declarations.stamp(key), now)
        rows[str(key)] = _read(shared, listings, declarations, row, now)
        parent = None if row.state.broken else row.parent
        due += [] if parent is None else [VariantKey.parse(parent)]
    return list(rows.values())


def _read(
    shared: SharedState, listings: Listings, declarations: Declarations, row: FleetRow, now: datetime
) -> FleetRow:
    declared = None if row.state.broken is not None else declarations.declared(row.state.key)
    if declared is not None:
        roots = shared.roots(row.state.key.tenant)
        try:
            check_place(declared.spec.base_model, shared.settings.project, roots, declared.file)
        except UserError as error:
            declared, row = None, row.known(broken=said_of(error))
    if declared is None:
        return replace(row, version=known_version(shared, row, None))
    runs = RunHistory(**{name: getattr(row.state, name) for name in RunHistory._fields})
    try:
        known = replace(row, version=known_version(shared, row, declared))
        known = learnt(shared, known, without_mended(runs, known.version), (), now)
        return known.known(news=_news(shared, listings, declared, known, now))
    except (UserError, *DAMAGE) as error:
        return row.known(broken=said_of(error))


def without_mended(runs: RunHistory, version: KnownVersion | None) -> RunHistory:
    """Return what is known of runs without failures before what stands was judged or released: a run that
    nobody has read yet mended them.
    """
    made = None if version is None else version.made
    if made is None or runs.failed_at is None or made <= runs.failed_at:
        return runs
    return runs._replace(failures=0, failed_at=None, failure="")


def _news(
    shared: SharedState, listings: Listings, declared: Declared, row: FleetRow, now: datetime
) -> tuple[News, ...]:
    """Return the news of sources and base, where they are on this host; else as it was found last."""
    settings = shared.settings
    places = places_of(declared.spec, settings.project, shared.roots(declared.key.tenant))
    if not all(is_here(place, settings.project) for place in places):
        return row.state.news
    of_parent = [each for each in row.state.news if each.kind == "parent"]
    try:
        return *of_parent, *news_of(row, [*map(str, places)], listings, settings, now)
    except (UserError, OSError, ValueError):
        return row.state.news
