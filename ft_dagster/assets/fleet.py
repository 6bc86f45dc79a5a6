"""Builds the group fleet: the board over all tenants.

It has no run of its own: the sensor that looks at the fleet reports it where something changed. Who holds
which device is no asset, since a page shows what was so when it was made: `ft-dagster gpus` says it.
"""

from collections.abc import Sequence

import dagster as dg

from ft_dagster.assets.page import OVERVIEW, PICTURE, SUMMARY, Metadata, table
from ft_dagster.assets.partitions import Graph
from ft_dagster.fleet.picture import FleetPicture
from ft_dagster.fleet.status import COLUMNS as STATUS
from ft_dagster.fleet.status import StatusRow, arranged
from ft_dagster.report.charts.svg import Bar, bar_picture
from ft_dagster.report.figures import count
from ft_dagster.report.sentences.next_step import NOTHING
from ft_dagster.report.states import NEED_A_PERSON, ORDER, counts, states_sentence

SHOWN = ("variant", "state", "cause")
UNSERVED = ("version", "rule", "why")
BOARD = "fleet"
ROWS = 200  # of the board, those that need a person first
LONGEST = 240  # characters of a cause, so that the next variant is in sight


def board(graph: Graph) -> dg.AssetSpec:
    """Return the asset `fleet`, which a sensor reports (automation/board.py)."""
    return dg.AssetSpec(
        graph.key(BOARD),
        group_name=graph.name("fleet"),
        kinds={"table"},
        code_version="1",
        description="Each variant's state, gain and cause, retired and broken ones too; `ft-dagster status` "
        "has age, cost and the next retrain. Reported by `due_retrains` where something changed, at "
        "most every ten minutes",
    )


def fleet_metadata(fleet: FleetPicture) -> Metadata:
    """Return what its page shows: a sentence, how many there are of each state (to plot), the rows."""
    rows, states = fleet.rows, [row.state for row in fleet.rows]
    found = counts(states)
    shown = [_cells(row) for row in arranged(rows)[:ROWS]]
    said = f"**{states_sentence(states)}.**\n\nNext: {_next(rows)}."
    if len(rows) > len(shown):
        said += f"\n\nThe first {len(shown)} are below; `ft-dagster status` has all."
    parts = [Bar(state, number, count(number)) for state, number in found.items()]
    picture = bar_picture(parts, "number of variants, by state")
    usd = round(sum(row.usd for row in rows), 2)
    return {
        SUMMARY: dg.MetadataValue.md(said),
        **({} if picture is None else {PICTURE: dg.MetadataValue.md(picture)}),
        "variants": table(SHOWN, shown, OVERVIEW),
        "may no longer be served": table(UNSERVED, _unserved(rows), OVERVIEW),
        **{f"{state} variants": found.get(state, 0) for state in ORDER},
        "hours to date": round(sum(row.hours for row in rows), 2),
        **({"USD to date": usd} if usd else {}),  # without a known price nothing is known of it
    }


def _cells(row: StatusRow) -> list[str]:
    """Return the cells as SHOWN names them; `ft-dagster status` has all of the cause, age, cost and the next
    retrain too.
    """
    gained = dict(zip(STATUS, row.cells, strict=True))["over base"]
    state = f"{row.state} {row.shown_version}" + ("" if row.gain is None else f", {gained}")
    cause = row.cause if len(row.cause) <= LONGEST else f"{row.cause[:LONGEST]}…"
    return [row.variant, state, cause]


def _unserved(rows: Sequence[StatusRow]) -> list[list[str]]:
    """Return what is in production and may no longer be served, a row for each rule, as UNSERVED names it."""
    standing = [row.unserved for row in rows if row.unserved is not None][:ROWS]
    return [
        [f"{one.variant} v{one.version}{' (withheld)' if one.withheld else ''}", each.rule, each.words]
        for one in standing
        for each in one.findings
    ]


def _next(rows: Sequence[StatusRow]) -> str:
    """Say what somebody is to do, of the first variant that needs a person."""
    first = arranged(rows)[0] if rows else None
    if first is None or first.state not in NEED_A_PERSON:
        return f"{NOTHING}; `ft-dagster status` has the same"
    return f"{first.variant}: {first.next_step}"
