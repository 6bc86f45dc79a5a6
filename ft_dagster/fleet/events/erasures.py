"""Makes the events that remind of an erasure: as its day comes near, and once it is over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta

from ft_dagster.fleet.events.events import FleetEvent, moment_of
from ft_dagster.lineage.erasures import ErasureState

REMINDED = (7, 3, 1, -1)  # days before the day on which it is due; below 0: it is over


def reminders(state: ErasureState, variants: Iterable[str], today: date) -> Iterator[FleetEvent]:
    """Yield what is told today of a request that is not purged, of each variant that has to train again; of
    `variants` where none has. While a hold stands nothing is told.
    """
    reached = [days for days in REMINDED if state.days_left(today) <= days]
    if state.purged is not None or state.held is not None or not reached:
        return
    asked, days = state.asked, reached[-1]
    began = date.fromisoformat(asked.due) - timedelta(days=days)
    due = f"was due on {asked.due}" if days < 0 else f"is due on {asked.due}"
    for variant in asked.retrains or variants:
        yield FleetEvent(
            "erasure_due",
            variant,
            moment_of(datetime.combine(began, time(), UTC)),
            f"{asked.request}:{days}",
            f"request {asked.request} for an erasure {due} and is not purged; it {_stands(state)}",
        )


def _stands(state: ErasureState) -> str:
    return "is approved" if state.acts else state.said
