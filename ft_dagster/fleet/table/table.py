"""Keeps the fleet's table: a row a variant, in the database of the Dagster instance.

It remembers what was read of declarations, runs, releases and sources, so that a tick reads what changed. It
decides nothing and proves nothing: `ft-dagster fleet rebuild` makes it again from these. One of an older
version is emptied when it is opened, and filled again by the next ticks.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from hashlib import sha256
from typing import Any
from uuid import uuid4

import sqlalchemy as sa

from ft_dagster.fleet.due.budget_ledger import Charge
from ft_dagster.fleet.due.reasons import News, VariantState
from ft_dagster.fleet.due.retrain_cost import Amount, PaidFor
from ft_dagster.fleet.table.database import SharedDatabase
from ft_dagster.fleet.table.table_rows import (
    CHARGES,
    META,
    METADATA,
    PLACES,
    VARIANTS,
    FleetRow,
    Watched,
    content_of,
    moment_at,
    news_content,
    row_of,
    seconds_of,
)
from ft_dagster.schema_version import FIELD, is_readable, newer_error

SCHEMA_VERSION = 4
LOOKED, CHANGED, LISTING = "looked", "changed", "listing"  # of META
FEW = 500  # values in one question to the database


class FleetTable:
    """Reads and writes one database. What a method writes is written together, or not at all."""

    def __init__(self, url: str) -> None:
        self._database = _database(url)
        self.url = self._database.url
        with self._database.changing() as connection:
            META.create(connection, checkfirst=True)
            version = int(_meta(connection, FIELD) or 0)
            if not is_readable(version, SCHEMA_VERSION):
                raise newer_error(FIELD, version, SCHEMA_VERSION, file=self.url)
            if version < SCHEMA_VERSION:
                METADATA.drop_all(connection)
                METADATA.create_all(connection)
                _set_meta(connection, FIELD, str(SCHEMA_VERSION))

    def meta(self, name: str) -> str | None:
        with self._database.reading() as connection:
            return _meta(connection, name)

    def set_meta(self, name: str, value: str) -> None:
        with self._database.changing() as connection:
            _set_meta(connection, name, value)

    def looked(self) -> datetime | None:
        """Return when a tick brought the table up to date last; None: none has yet."""
        known = self.meta(LOOKED)
        return None if known is None else moment_at(float(known))

    def note_look(self, now: datetime) -> None:
        self.set_meta(LOOKED, str(now.timestamp()))

    def changed(self) -> str | None:
        """Return a mark of what is shown of the fleet: another word after each change."""
        return self.meta(CHANGED)

    def stamps(self) -> dict[str, str]:
        """Return key -> stamp of every variant that is declared as far as is known."""
        asked = sa.select(VARIANTS.c.key, VARIANTS.c.stamp).where(sa.not_(VARIANTS.c.retired))
        with self._database.reading() as connection:
            return {row.key: row.stamp for row in connection.execute(asked)}

    def rows(self, where: Any = None, limit: int | None = None) -> list[FleetRow]:
        """Return the rows in order of key."""
        asked = sa.select(VARIANTS).order_by(VARIANTS.c.key).limit(limit)
        with self._database.reading() as connection:
            found = connection.execute(asked if where is None else asked.where(where)).mappings().all()
        return [row_of(content) for content in found]

    def named(self, keys: Iterable[str]) -> list[FleetRow]:
        wanted = sorted(set(keys))
        parts = (wanted[at : at + FEW] for at in range(0, len(wanted), FEW))
        return [row for part in parts for row in self.rows(VARIANTS.c.key.in_(part))]

    def to_look_at(self, now: datetime) -> list[FleetRow]:
        """Return the rows that may be due, by the clock or for what was learnt of them."""
        return self.rows(VARIANTS.c.next_look <= now.timestamp())

    def busy(self) -> float:
        """Return how many devices runs in progress use, as they are expected to."""
        return sum(row.state.cost.devices for row in self.rows(VARIANTS.c.running))

    def running_and_count(self) -> tuple[list[str], int]:
        """Return the variants of which a run is in progress, as far as is known; and how many there are in
        all.
        """
        count = sa.select(sa.func.count()).select_from(VARIANTS)
        with self._database.reading() as connection:
            running = connection.execute(sa.select(VARIANTS.c.key).where(VARIANTS.c.running)).scalars().all()
            return list(running), int(connection.execute(count).scalar_one())

    def keys_after(self, last: str, count: int) -> list[str]:
        """Return the next `count` variants after `last` in order of key, from the first again after the
        end.
        """
        asked = sa.select(VARIANTS.c.key).order_by(VARIANTS.c.key).limit(count)
        with self._database.reading() as connection:
            keys = list(connection.execute(asked.where(VARIANTS.c.key > last)).scalars().all())
            if len(keys) < count:
                keys += connection.execute(asked.where(VARIANTS.c.key <= last)).scalars().all()
        return keys[:count]

    def unlearnt(self, most: int) -> list[FleetRow]:
        """Return the rows that are not learnt yet. Those that could not be read before come last: they may
        take long to fail again.
        """
        asked = sa.select(VARIANTS).where(sa.not_(VARIANTS.c.learnt)).limit(most)
        asked = asked.order_by(VARIANTS.c.broken.is_not(None), VARIANTS.c.key)
        with self._database.reading() as connection:
            return [row_of(content) for content in connection.execute(asked).mappings()]

    def forget(self) -> None:
        """Let everything be learnt anew."""
        with self._database.changing() as connection:
            connection.execute(sa.update(VARIANTS).values(learnt=False))

    def count_unlearnt(self) -> int:
        asked = sa.select(sa.func.count()).select_from(VARIANTS).where(sa.not_(VARIANTS.c.learnt))
        with self._database.reading() as connection:
            return int(connection.execute(asked).scalar_one())

    def children(self, parents: Iterable[str]) -> list[FleetRow]:
        parts = _parts(sorted(set(parents)))
        return [row for part in parts for row in self.rows(VARIANTS.c.parent.in_(part))]

    def put(self, rows: Sequence[FleetRow], watched: Mapping[str, Watched] | None = None) -> None:
        """Put each row in place of what was known, but for what was found of its sources and base since it
        was read; and what variants (keys) ask to be looked at.
        """
        with self._database.changing() as connection:
            for at in range(0, len(rows), FEW):
                part = rows[at : at + FEW]
                known = _to_change(connection, [row.key for row in part])
                connection.execute(sa.delete(VARIANTS).where(VARIANTS.c.key.in_([row.key for row in part])))
                merged = [_with_found(row, known.get(row.key)) for row in part]
                connection.execute(sa.insert(VARIANTS), [content_of(row) for row in merged])
                if any(_shown(row) != _shown(known.get(row.key)) for row in merged):
                    _set_meta(connection, CHANGED, uuid4().hex)
            for key, asked in (watched or {}).items():
                _watch(connection, key, asked)

    def charges(self, first: date) -> list[Charge]:
        """Return the charges of all days from `first` on, one a day and tenant."""
        hours, usd = sa.func.sum(CHARGES.c.hours), sa.func.sum(CHARGES.c.usd)
        asked = sa.select(CHARGES.c.day, CHARGES.c.tenant, hours, usd)
        asked = asked.where(CHARGES.c.day >= first.isoformat()).group_by(CHARGES.c.day, CHARGES.c.tenant)
        with self._database.reading() as connection:
            found = connection.execute(asked).all()
        return [Charge(date.fromisoformat(day), tenant, Amount(h, usd)) for day, tenant, h, usd in found]

    def charges_of(self, run: str) -> list[Charge]:
        asked = sa.select(CHARGES).where(CHARGES.c.run == run)
        with self._database.reading() as connection:
            found = connection.execute(asked).all()
        return [Charge(date.fromisoformat(r.day), r.tenant, Amount(r.hours, r.usd)) for r in found]

    def charge(self, run: str, charges: Sequence[Charge]) -> None:
        """Put a run's charges in place of those that it had."""
        days: dict[date, Charge] = {}
        for each in charges:
            before = days.get(each.day)
            days[each.day] = each if before is None else each._replace(amount=each.amount.plus(before.amount))
        content = [
            {"run": run, "day": day.isoformat(), "tenant": each.tenant, **each.amount._asdict()}
            for day, each in days.items()
        ]
        with self._database.changing() as connection:
            connection.execute(sa.delete(CHARGES).where(CHARGES.c.run == run))
            if content:
                connection.execute(sa.insert(CHARGES), content)

    def paid(self, most: int = 200) -> list[PaidFor]:
        """Return what the newest trainings of the whole fleet took."""
        asked = sa.select(VARIANTS.c.paid).where(VARIANTS.c.paid != "null").limit(most)
        with self._database.reading() as connection:
            found = connection.execute(asked.order_by(VARIANTS.c.served.desc().nulls_last())).scalars().all()
        return [PaidFor(*json.loads(content)) for content in found]

    def places(self, keys: Iterable[str]) -> dict[str, list[str]]:
        """Return the places that each of these variants asks for."""
        wanted, found = sorted(set(keys)), defaultdict[str, list[str]](list)
        with self._database.reading() as connection:
            for part in _parts(wanted):
                asked = sa.select(PLACES.c.key, PLACES.c.place).where(PLACES.c.key.in_(part))
                for row in connection.execute(asked.order_by(PLACES.c.place)):
                    found[row.key].append(row.place)
        return dict(found)

    def places_due(self, now: datetime, most: int) -> dict[str, float]:
        """Return place -> the fewest minutes between two looks that any who name it ask for; the longest due
        first.
        """
        first = sa.func.min(PLACES.c.next_look)
        place, minutes = sa.func.min(PLACES.c.place), sa.func.min(PLACES.c.minutes)
        asked = sa.select(place.label("place"), minutes.label("minutes")).group_by(PLACES.c.id)
        due = asked.having(first <= now.timestamp()).order_by(first).limit(most)
        with self._database.reading() as connection:
            return {row.place: row.minutes for row in connection.execute(due)}

    def asked_by(self, places: Iterable[str]) -> dict[str, dict[str, str | None]]:
        """Return for each place the variants that ask for it, and what each saw there last (a digest)."""
        ids = {_place_id(place): place for place in places}
        found: dict[str, dict[str, str | None]] = {place: {} for place in ids.values()}
        with self._database.reading() as connection:
            for part in _parts([*ids]):
                asked = sa.select(PLACES.c.id, PLACES.c.key, PLACES.c.found).where(PLACES.c.id.in_(part))
                for row in connection.execute(asked):
                    found[ids[row.id]][row.key] = row.found
        return found

    def demand(self, now: datetime) -> tuple[int, float]:
        """Return how many places wait to be looked at, and how many looks a minute all ask for together."""
        first, rate = sa.func.min(PLACES.c.next_look), 1.0 / sa.func.min(PLACES.c.minutes)
        place = sa.select(first.label("first"), rate.label("rate")).group_by(PLACES.c.id).subquery()
        waits = sa.func.sum(sa.case((place.c.first <= now.timestamp(), 1), else_=0))
        with self._database.reading() as connection:
            waiting, looks = connection.execute(sa.select(waits, sa.func.sum(place.c.rate))).one()
        return int(waiting or 0), float(looks or 0)

    def put_off(self, again: Mapping[str, datetime], *, to_list: bool = False) -> None:
        """Say when it is each place's turn again. `to_list`: they are about to be listed (see `listing`)."""
        turn = sa.update(PLACES).where(PLACES.c.id == sa.bindparam("place_id"))
        turns = [{"place_id": _place_id(place), "turn": at.timestamp()} for place, at in again.items()]
        with self._database.changing() as connection:
            if turns:
                connection.execute(turn.values(next_look=sa.bindparam("turn")), turns)
            if to_list:
                _set_meta(connection, LISTING, json.dumps([*again]))

    def listing(self) -> list[str]:
        """Return the places that were about to be listed last; none once `set_listed` was called."""
        return list(json.loads(self.meta(LISTING) or "[]"))

    def set_listed(self) -> None:
        self.set_meta(LISTING, "[]")

    def saw(self, found: Mapping[str, tuple[datetime, str]], failed: Iterable[str] = ()) -> None:
        """Note what was found at places (a digest) that were put off to a time: all have seen it but those
        `failed`, and those who asked for it anew meanwhile."""
        all_but = PLACES.c.key.not_in(sorted(failed))
        with self._database.changing() as connection:
            for place, (again, mark) in found.items():
                where = (PLACES.c.id == _place_id(place), PLACES.c.next_look == again.timestamp())
                connection.execute(sa.update(PLACES).where(*where, all_but).values(found=mark))

    def set_news(
        self,
        found: Mapping[str, Sequence[News]],
        next_look: Callable[[VariantState], datetime | None],
    ) -> list[str]:
        """Set what was found of sources and bases of variants, and nothing else of their rows, which another
        process may have changed since; returns those of which it changed.
        """
        changed = list[str]()
        with self._database.changing() as connection:
            for part in _parts(sorted(found)):
                for key, row in _to_change(connection, part).items():
                    state = replace(row.state, news=(*_of_parent(row), *found[key]))
                    if state.news == row.state.news:
                        continue
                    content = json.dumps([news_content(each) for each in state.news])
                    values = {"news": content, "next_look": seconds_of(next_look(state))}
                    connection.execute(sa.update(VARIANTS).where(VARIANTS.c.key == key).values(values))
                    changed.append(key)
            if changed:
                _set_meta(connection, CHANGED, uuid4().hex)
        return changed


def _parts(values: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield FEW at a time."""
    return (values[at : at + FEW] for at in range(0, len(values), FEW))


def _to_change(connection: sa.Connection, keys: Sequence[str]) -> dict[str, FleetRow]:
    """Return rows as they are now, which nobody else changes until the transaction ends: a write comes
    first.
    """
    named = VARIANTS.c.key.in_(keys)
    connection.execute(sa.update(VARIANTS).where(named).values(learnt=VARIANTS.c.learnt))
    found = connection.execute(sa.select(VARIANTS).where(named)).mappings()
    return {content["key"]: row_of(content) for content in found}


def _shown(row: FleetRow | None) -> tuple[object, ...] | None:
    """Return what people see of a row, but for what the clock alone changes."""
    if row is None:
        return None
    state = row.state
    runs = (state.running, state.failures, state.failure, state.fruitless, state.news)
    return state.broken, state.retired, row.parent, row.version, *runs


def _of_parent(row: FleetRow) -> list[News]:
    return [each for each in row.state.news if each.kind == "parent"]


def _with_found(row: FleetRow, known: FleetRow | None) -> FleetRow:
    """Return a row that was read before, with the news of sources and base as they are known by now."""
    if known is None:
        return row
    found = [each for each in known.state.news if each.kind != "parent"]
    news = (*_of_parent(row), *found)
    if news == row.state.news:
        return row
    times = [time for time in (row.next_look, known.next_look) if time is not None]
    return replace(row.known(news=news), next_look=min(times, default=None))


def _place_id(place: str) -> str:
    return sha256(place.encode()).hexdigest()


def _watch(connection: sa.Connection, key: str, asked: Watched) -> None:
    """Have each place looked at when anybody looks next; where the same are asked for, only if `anew`."""
    before = connection.execute(sa.select(PLACES.c.place, PLACES.c.minutes).where(PLACES.c.key == key))
    wanted = {(place, asked.minutes) for place in asked.places}
    if not asked.anew and {(row.place, row.minutes) for row in before} == wanted:
        return
    content = [
        {
            "id": _place_id(place),
            "key": key,
            "place": place,
            "minutes": minutes,
            "next_look": 0.0,
            "found": None,
        }
        for place, minutes in sorted(wanted)
    ]
    connection.execute(sa.delete(PLACES).where(PLACES.c.key == key))
    if content:
        connection.execute(sa.insert(PLACES), content)


def emptied(url: str) -> FleetTable:
    """Put an empty table in place of one of any version, or of an SQLite file that is no database any
    more.
    """
    _database(url).empty(METADATA)
    return FleetTable(url)


def _database(url: str) -> SharedDatabase:
    fix = "Try again; `ft-dagster fleet rebuild` makes the table anew"
    return SharedDatabase(url, "the fleet's table", fix)


def _meta(connection: sa.Connection, name: str) -> str | None:
    return connection.execute(sa.select(META.c.value).where(META.c.name == name)).scalar()


def _set_meta(connection: sa.Connection, name: str, value: str) -> None:
    connection.execute(sa.delete(META).where(META.c.name == name))
    connection.execute(sa.insert(META).values(name=name, value=value))
