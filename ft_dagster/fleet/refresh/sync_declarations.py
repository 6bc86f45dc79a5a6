"""Brings what the table knows of the declarations to what the files say: each is read when it changed."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.fleet.due.reasons import VariantState
from ft_dagster.fleet.due.retrain_cost import expected_cost
from ft_dagster.fleet.table.table import FleetTable
from ft_dagster.fleet.table.table_rows import FleetRow
from ft_dagster.spec import Declarations, VariantKey
from ft_dagster.spec.variant import RetrainSpec

READ_SECONDS = 4.0


class Noticed(NamedTuple):
    """Lists keys by what became of them. `valid`: read anew, and variants of the graph; `broken`: why each is
    none; `retired`: their file is gone. `rows`: what the table is to have of all of these, once there are
    partitions for the valid ones.
    """

    valid: tuple[str, ...]
    broken: dict[str, str]
    retired: tuple[str, ...]
    rows: tuple[FleetRow, ...]


def notice(table: FleetTable, declarations: Declarations, now: datetime) -> Noticed:
    """Read what changed. A variant whose file is gone is retired, and comes back with all that is known of it
    when it is declared again; children of what changed are judged again, since a parent's mistake is theirs.
    What is not read within READ_SECONDS is the next call's.
    """
    stamps = {str(key): declarations.stamp(key) for key in declarations}
    known = table.stamps()
    changed = {key for key, stamp in stamps.items() if known.get(key) != stamp}
    gone = known.keys() - stamps.keys()
    if not changed and not gone:
        return Noticed((), {}, (), ())
    children = ({row.key for row in table.children([*changed, *gone])} & stamps.keys()) - changed
    before = {row.key: row for row in table.named([*changed, *children, *gone])}
    rows, end = list[FleetRow](), time.monotonic() + READ_SECONDS
    for key in (*sorted(children), *sorted(changed)):  # while a parent is unread, its children are read again
        rows.append(as_declared(key, before.get(key), declarations, stamps[key], now))
        if time.monotonic() > end:
            break
    retired = [replace(before[key].known(retired=True), next_look=None) for key in sorted(gone)]
    broken = {row.key: row.state.broken for row in rows if row.state.broken is not None}
    valid = tuple(row.key for row in rows if row.key not in broken)
    return Noticed(valid, broken, tuple(sorted(gone)), (*rows, *retired))


def as_declared(
    key: str, before: FleetRow | None, declarations: Declarations, stamp: str, now: datetime
) -> FleetRow:
    """Return the row of a declaration as its file says it now, not yet learnt from."""
    variant = VariantKey.parse(key)
    row = before or _new(variant, now)
    row = replace(row, stamp=stamp, edited=declarations.edited(variant), learnt=False).known(retired=False)
    try:
        spec = declarations.declared(variant).spec
    except UserError as error:
        return replace(row.known(broken=str(error)), next_look=None)
    changed = row.known(broken=None, retrain=spec.retrain, priority=spec.resources.priority)
    return replace(changed, parent=spec.base_model.variant)


def _new(key: VariantKey, now: datetime) -> FleetRow:
    return FleetRow(VariantState(key, RetrainSpec(), expected_cost(None), now), "", now)
