"""Keeps the events that are to be told, and which targets have been: a database of its own beside the
fleet's.

It may be lost: what happened within the last day is then told again, by the same ids.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa

from ft_dagster.fleet.events.events import FleetEvent
from ft_dagster.fleet.table.database import SharedDatabase
from ft_dagster.schema_version import FIELD, is_readable, newer_error

SCHEMA_VERSION = 1
FEW = 500  # values in one question to the database
FIRST_WAIT, LONGEST_WAIT = timedelta(minutes=1), timedelta(hours=1)  # before a target is tried again
KEPT = timedelta(days=90)  # what was told
METADATA = sa.MetaData()
EVENTS = sa.Table(
    "ft_dagster_events",
    METADATA,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("found", sa.Float, nullable=False, index=True),
    sa.Column("happened", sa.Float, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
)
DELIVERIES = sa.Table(
    "ft_dagster_deliveries",
    METADATA,
    sa.Column("event", sa.String(32), primary_key=True),
    sa.Column("target", sa.String(30), primary_key=True),
    sa.Column("told", sa.Float, index=True),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("next_try", sa.Float, nullable=False),
)
TARGETS = sa.Table(
    "ft_dagster_event_targets",
    METADATA,
    sa.Column("name", sa.String(30), primary_key=True),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("next_try", sa.Float, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
)
META = sa.Table(
    "ft_dagster_events_meta",
    METADATA,
    sa.Column("name", sa.String(40), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)


class PendingEvent(NamedTuple):
    """Holds an event that a target has not been told. `tries`: that failed."""

    id: str
    body: bytes
    tries: int


class TargetState(NamedTuple):
    """Describes a target. `waiting`: events that it has not been told; `failures`: tries in a row that
    failed, `why` the last.
    """

    waiting: int
    failures: int
    why: str


class Outbox:
    """Reads and writes one database; each method is one transaction."""

    def __init__(self, url: str) -> None:
        fix = "Wait, where it is busy; delete it where it is damaged: the last day is then told again"
        self._database = SharedDatabase(url, "the record of what was told", fix)
        self.url = self._database.url
        with self._database.changing() as connection:
            METADATA.create_all(connection)
            found = connection.execute(sa.select(META.c.value).where(META.c.name == FIELD)).scalar()
            if found is None:
                connection.execute(sa.insert(META).values(name=FIELD, value=str(SCHEMA_VERSION)))
        if found is not None and not is_readable(int(found), SCHEMA_VERSION):
            raise newer_error(FIELD, int(found), SCHEMA_VERSION, file=self.url)

    def unknown(self, events: Iterable[FleetEvent]) -> list[FleetEvent]:
        """Return the events that were never put in, each once."""
        with self._database.reading() as connection:
            return _unknown(connection, events)

    def put(self, events: Sequence[FleetEvent], targets: Mapping[str, Sequence[str]], now: datetime) -> None:
        """Events, and the names of the targets that each (by its id) is to be told to: all of it, or nothing.
        Raises UserError, also where another process puts the same into a file meanwhile.
        """
        with self._database.changing() as connection:
            new = _unknown(connection, events)
            rows = [
                {"event": event.id, "target": name, "tries": 0, "next_try": 0.0}
                for event in new
                for name in dict.fromkeys(targets.get(event.id, ()))
            ]
            if new:
                connection.execute(sa.insert(EVENTS), [_content(event, now) for event in new])
            if rows:
                connection.execute(sa.insert(DELIVERIES), rows)

    def next_for(self, target: str, now: datetime) -> PendingEvent | None:
        """Return what a target is to be told now: the oldest of what never failed, then what failed longest
        ago.
        """
        at = now.timestamp()
        asked = sa.select(EVENTS.c.id, EVENTS.c.body, DELIVERIES.c.tries)
        asked = asked.join(DELIVERIES, DELIVERIES.c.event == EVENTS.c.id)
        asked = asked.where(
            DELIVERIES.c.target == target, DELIVERIES.c.told.is_(None), DELIVERIES.c.next_try <= at
        )
        order = (DELIVERIES.c.next_try, EVENTS.c.happened, EVENTS.c.id)
        with self._database.reading() as connection:
            waits = connection.execute(
                sa.select(TARGETS.c.name).where(TARGETS.c.name == target, TARGETS.c.next_try > at)
            ).first()
            found = None if waits else connection.execute(asked.order_by(*order).limit(1)).first()
        return None if found is None else PendingEvent(found.id, found.body, found.tries)

    def told(self, event: str, target: str, now: datetime) -> None:
        """Note that a target has taken an event."""
        with self._database.changing() as connection:
            _of(connection, event, target, told=now.timestamp())
            connection.execute(sa.delete(TARGETS).where(TARGETS.c.name == target))

    def failed(self, event: PendingEvent, target: str, why: str, now: datetime) -> None:
        """Note that a target did not take an event: both wait, each the longer the more often it failed."""
        with self._database.changing() as connection:
            again = (now + wait_after(event.tries + 1)).timestamp()
            _of(connection, event.id, target, tries=event.tries + 1, next_try=again)
            before = connection.execute(
                sa.select(TARGETS.c.failures).where(TARGETS.c.name == target)
            ).scalar()
            failures = (before or 0) + 1
            connection.execute(sa.delete(TARGETS).where(TARGETS.c.name == target))
            connection.execute(
                sa.insert(TARGETS).values(
                    name=target,
                    failures=failures,
                    next_try=(now + wait_after(failures)).timestamp(),
                    why=why,
                )
            )

    def states(self) -> dict[str, TargetState]:
        """Return the state of each target that has something waiting, or failed last."""
        waiting = sa.select(DELIVERIES.c.target, sa.func.count()).where(DELIVERIES.c.told.is_(None))
        with self._database.reading() as connection:
            counts = {row[0]: row[1] for row in connection.execute(waiting.group_by(DELIVERIES.c.target))}
            failing = {row.name: row for row in connection.execute(sa.select(TARGETS))}
        return {
            name: TargetState(
                counts.get(name, 0),
                failing[name].failures if name in failing else 0,
                failing[name].why if name in failing else "",
            )
            for name in sorted({*counts, *failing})
        }

    def forget_old(self, now: datetime, targets: Collection[str]) -> None:
        """Forget what was told long ago, and what was to be told to nobody, or only to targets that are none
        of `targets`, the declared ones.
        """
        before = (now - KEPT).timestamp()
        waiting = sa.select(DELIVERIES.c.event).where(
            DELIVERIES.c.told.is_(None), DELIVERIES.c.target.in_(targets)
        )
        old = sa.and_(EVENTS.c.found < before, EVENTS.c.id.not_in(waiting))
        with self._database.changing() as connection:
            gone = sa.select(EVENTS.c.id).where(old)
            connection.execute(sa.delete(DELIVERIES).where(DELIVERIES.c.event.in_(gone)))
            connection.execute(sa.delete(EVENTS).where(old))


def _unknown(connection: sa.Connection, events: Iterable[FleetEvent]) -> list[FleetEvent]:
    found, known = {event.id: event for event in events}, set[str]()
    ids = list(found)
    for at in range(0, len(ids), FEW):
        asked = sa.select(EVENTS.c.id).where(EVENTS.c.id.in_(ids[at : at + FEW]))
        known |= set(connection.execute(asked).scalars())
    return [event for one, event in found.items() if one not in known]


def _content(event: FleetEvent, now: datetime) -> dict[str, object]:
    happened = datetime.fromisoformat(event.at).timestamp()
    return {"id": event.id, "found": now.timestamp(), "happened": happened, "body": event.body}


def wait_after(failures: int) -> timedelta:
    """Return how long to wait before the next try, after so many of them failed."""
    return min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(failures - 1, 10))


def _of(connection: sa.Connection, event: str, target: str, **values: float) -> None:
    where = (DELIVERIES.c.event == event, DELIVERIES.c.target == target)
    connection.execute(sa.update(DELIVERIES).where(*where).values(values))
