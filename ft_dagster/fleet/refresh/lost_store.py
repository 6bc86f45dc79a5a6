"""Detects a store that holds nothing although something was made: a mount that is gone, another address, a
mistake.

To whoever reads it, it looks like a fleet that was never trained, and a daemon would train all of it anew.
"""

from __future__ import annotations

from collections.abc import Callable

from ft_dagster.errors import UserError
from ft_dagster.fleet.table.table import FleetTable
from ft_dagster.store import SHARED, Store, outage, unreachable

KNOWN = "store"  # of the table: address of the store that held something, or may be empty
PARTS = ("tenants", SHARED)


def refuse_lost_store(store: Store, table: FleetTable, has_made: Callable[[], bool] = lambda: False) -> None:
    """Raises UserError for a store that cannot be read, and for one that holds nothing where the table or the
    instance (`has_made`) knows that something was made, unless it was said to be new.
    """
    known, holds = table.meta(KNOWN), _holds_something(store)
    if holds and known != store.url:
        table.set_meta(KNOWN, store.url)
    if holds or known == _may_be_empty(store) or (known is None and not has_made()):
        return
    raise UserError(
        "the store holds nothing, and artifacts were made before: nothing is decided by it",
        file=store.url,
        field="store",
        fix="Mount or restore it; of one that is to be new say `ft-dagster fleet rebuild --empty-store`",
    )


def accept_empty(store: Store, table: FleetTable) -> None:
    """Remember this store, from now on, as one that may hold nothing."""
    table.set_meta(KNOWN, _may_be_empty(store))


def _may_be_empty(store: Store) -> str:
    return f"{store.url} may be empty"


def _holds_something(store: Store) -> bool:
    try:
        return any(store.names(part) for part in PARTS)
    except Exception as error:  # of a file system, or of S3's client
        from ft_dagster.fleet.refresh.from_store import said_of  # the stages, which take a while to import

        way_out = outage(error).fix if unreachable(error) else "Mend it; the next tick reads it again"
        fix = f"{way_out}; until then nothing is decided by it"
        raise UserError(said_of(error), file=store.url, field="store", fix=fix) from error
