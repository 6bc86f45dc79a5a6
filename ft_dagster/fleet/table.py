"""The fleet's table: a row a variant, in the database of the Dagster instance.

It remembers what was read of declarations, runs, releases and sources, so that a tick reads what changed. It
decides nothing and proves nothing: `ft-dagster fleet rebuild` makes it again from these. One of an older
version is emptied when it is opened, and filled again by the next ticks. Times are seconds since 1970, what
has parts is JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import sqlalchemy as sa

from ft_dagster.errors import UserError
from ft_dagster.fleet.amounts import Amount, PaidFor, RetrainCost
from ft_dagster.fleet.book import Charge
from ft_dagster.fleet.reasons import News, VariantState
from ft_dagster.fleet.version import KnownVersion
from ft_dagster.schema_version import FIELD, is_readable, newer_error
from ft_dagster.spec import VariantKey
from ft_dagster.spec.variant import RetrainSpec

SCHEMA_VERSION = 3
BUSY_SECONDS = 30  # that a writer waits for another
LOOKED, CHANGED = "looked", "changed"  # of META
FEW = 500  # values in one question to the database
METADATA = sa.MetaData()
VARIANTS = sa.Table(
    "ft_dagster_fleet_variants",
    METADATA,
    sa.Column("key", sa.String(61), primary_key=True),
    sa.Column("parent", sa.String(61), index=True),
    sa.Column("stamp", sa.Text, nullable=False),
    sa.Column("edited", sa.Float, nullable=False),
    sa.Column("learnt", sa.Boolean, nullable=False, index=True),
    sa.Column("next_look", sa.Float, index=True),
    sa.Column("known_since", sa.Float, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("served", sa.Float),
    sa.Column("renewed", sa.Float),
    sa.Column("running", sa.Boolean, nullable=False),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("failed_at", sa.Float),
    sa.Column("failure", sa.Text, nullable=False),
    sa.Column("fruitless", sa.Integer, nullable=False),
    sa.Column("fruitless_at", sa.Float),
    sa.Column("broken", sa.Text),
    sa.Column("retired", sa.Boolean, nullable=False),
    sa.Column("retrain", sa.Text, nullable=False),
    sa.Column("cost", sa.Text, nullable=False),
    sa.Column("paid", sa.Text, nullable=False),
    sa.Column("news", sa.Text, nullable=False),
    sa.Column("asked", sa.Text, nullable=False),
    sa.Column("tries", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
)
CHARGES = sa.Table(
    "ft_dagster_fleet_charges",
    METADATA,
    sa.Column("run", sa.String(64), primary_key=True),
    sa.Column("day", sa.String(10), primary_key=True, index=True),
    sa.Column("tenant", sa.String(30), nullable=False),
    sa.Column("hours", sa.Float, nullable=False),
    sa.Column("usd", sa.Float, nullable=False),
)
PLACES = sa.Table(
    "ft_dagster_fleet_places",
    METADATA,
    sa.Column("id", sa.String(64), primary_key=True),  # sha256 of the place, which may be of any length
    sa.Column("key", sa.String(61), primary_key=True, index=True),
    sa.Column("place", sa.Text, nullable=False),
    sa.Column("minutes", sa.Float, nullable=False),
    sa.Column("next_look", sa.Float, nullable=False, index=True),
    sa.Column("found", sa.String(64)),
)
META = sa.Table(
    "ft_dagster_fleet_meta",
    METADATA,
    sa.Column("name", sa.String(40), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)


@dataclass(frozen=True)
class FleetRow:
    """`stamp`: of the files that the declaration was read from, `edited`: when these changed last. `learnt`:
    runs and store were looked at since. `paid`: what its newest training took. `next_look`: when it may
    become due by itself. `version`: what stands of it, None before anything was trained.
    """

    state: VariantState
    stamp: str
    edited: datetime
    parent: str | None = None
    learnt: bool = False
    paid: PaidFor | None = None
    next_look: datetime | None = None
    version: KnownVersion | None = None

    @property
    def key(self) -> str:
        return str(self.state.key)

    def known(self, **changes: Any) -> FleetRow:
        """The same with other fields of its state."""
        return replace(self, state=replace(self.state, **changes))


class Watched(NamedTuple):
    """Places whose listings a variant asks for, each so many minutes; `anew`: a run of it changed what it
    compares with."""

    places: Sequence[str]
    minutes: float
    anew: bool = True


class FleetTable:
    """Over one database. All that is written in one `changing` block is written together, or not at all."""

    def __init__(self, url: str) -> None:
        options = {"timeout": BUSY_SECONDS} if url.startswith("sqlite") else {}
        self._engine = sa.create_engine(url, poolclass=sa.pool.NullPool, connect_args=options)
        self.url = self._engine.url.render_as_string(hide_password=True)
        with self.changing() as connection:
            META.create(connection, checkfirst=True)
            version = int(_meta(connection, FIELD) or 0)
            if not is_readable(version, SCHEMA_VERSION):
                raise newer_error(FIELD, version, SCHEMA_VERSION, file=self.url)
            if version < SCHEMA_VERSION:
                METADATA.drop_all(connection)
                METADATA.create_all(connection)
                _set_meta(connection, FIELD, str(SCHEMA_VERSION))

    @contextmanager
    def changing(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.DatabaseError as error:
            raise _unusable(error, self._engine) from None

    def meta(self, name: str) -> str | None:
        with self.changing() as connection:
            return _meta(connection, name)

    def set_meta(self, name: str, value: str) -> None:
        with self.changing() as connection:
            _set_meta(connection, name, value)

    def looked(self) -> datetime | None:
        """When a tick brought the table to what was, last; None: none has yet."""
        known = self.meta(LOOKED)
        return None if known is None else _present(float(known))

    def note_look(self, now: datetime) -> None:
        self.set_meta(LOOKED, str(now.timestamp()))

    def changed(self) -> str | None:
        """Of what is shown of the fleet: another word after each change."""
        return self.meta(CHANGED)

    def stamps(self) -> dict[str, str]:
        """Key -> stamp of every variant that is declared as far as is known."""
        asked = sa.select(VARIANTS.c.key, VARIANTS.c.stamp).where(sa.not_(VARIANTS.c.retired))
        with self.changing() as connection:
            return {row.key: row.stamp for row in connection.execute(asked)}

    def rows(self, where: Any = None, limit: int | None = None) -> list[FleetRow]:
        """In order of key."""
        asked = sa.select(VARIANTS).order_by(VARIANTS.c.key).limit(limit)
        with self.changing() as connection:
            found = connection.execute(asked if where is None else asked.where(where)).mappings().all()
        return [_row(content) for content in found]

    def named(self, keys: Iterable[str]) -> list[FleetRow]:
        wanted = sorted(set(keys))
        parts = (wanted[at : at + FEW] for at in range(0, len(wanted), FEW))
        return [row for part in parts for row in self.rows(VARIANTS.c.key.in_(part))]

    def to_look_at(self, now: datetime) -> list[FleetRow]:
        """Those that may be due, by the clock or for what was learnt of them."""
        return self.rows(VARIANTS.c.next_look <= now.timestamp())

    def busy(self) -> float:
        """Devices that runs in progress use, as they are expected to."""
        return sum(row.state.cost.devices for row in self.rows(VARIANTS.c.running))

    def running_and_count(self) -> tuple[list[str], int]:
        """Variants of which a run is in progress, as far as is known; and how many there are in all."""
        count = sa.select(sa.func.count()).select_from(VARIANTS)
        with self.changing() as connection:
            running = connection.execute(sa.select(VARIANTS.c.key).where(VARIANTS.c.running)).scalars().all()
            return list(running), int(connection.execute(count).scalar_one())

    def keys_after(self, last: str, count: int) -> list[str]:
        """The next `count` variants after `last` in order of key, from the first again after the end."""
        asked = sa.select(VARIANTS.c.key).order_by(VARIANTS.c.key).limit(count)
        with self.changing() as connection:
            keys = list(connection.execute(asked.where(VARIANTS.c.key > last)).scalars().all())
            if len(keys) < count:
                keys += connection.execute(asked.where(VARIANTS.c.key <= last)).scalars().all()
        return keys[:count]

    def unlearnt(self, most: int) -> list[FleetRow]:
        """Those that could not be read before come last: they may take long to fail again."""
        asked = sa.select(VARIANTS).where(sa.not_(VARIANTS.c.learnt)).limit(most)
        asked = asked.order_by(VARIANTS.c.broken.is_not(None), VARIANTS.c.key)
        with self.changing() as connection:
            return [_row(content) for content in connection.execute(asked).mappings()]

    def forget(self) -> None:
        """Let everything be learnt anew."""
        with self.changing() as connection:
            connection.execute(sa.update(VARIANTS).values(learnt=False))

    def count_unlearnt(self) -> int:
        asked = sa.select(sa.func.count()).select_from(VARIANTS).where(sa.not_(VARIANTS.c.learnt))
        with self.changing() as connection:
            return int(connection.execute(asked).scalar_one())

    def children(self, parents: Iterable[str]) -> list[FleetRow]:
        wanted = sorted(set(parents))
        parts = (wanted[at : at + FEW] for at in range(0, len(wanted), FEW))
        return [row for part in parts for row in self.rows(VARIANTS.c.parent.in_(part))]

    def put(self, rows: Sequence[FleetRow], watched: Mapping[str, Watched] | None = None) -> None:
        """Each row in place of what was known, but for what was found of its sources and base since it was
        read; and what variants (keys) ask to be looked at."""
        with self.changing() as connection:
            for at in range(0, len(rows), FEW):
                part = rows[at : at + FEW]
                known = _to_change(connection, [row.key for row in part])
                connection.execute(sa.delete(VARIANTS).where(VARIANTS.c.key.in_([row.key for row in part])))
                merged = [_with_found(row, known.get(row.key)) for row in part]
                connection.execute(sa.insert(VARIANTS), [_content(row) for row in merged])
                if any(_shown(row) != _shown(known.get(row.key)) for row in merged):
                    _set_meta(connection, CHANGED, uuid4().hex)
            for key, asked in (watched or {}).items():
                _watch(connection, key, asked)

    def charges(self, first: date) -> list[Charge]:
        """Of all days from `first` on, one a day and tenant."""
        hours, usd = sa.func.sum(CHARGES.c.hours), sa.func.sum(CHARGES.c.usd)
        asked = sa.select(CHARGES.c.day, CHARGES.c.tenant, hours, usd)
        asked = asked.where(CHARGES.c.day >= first.isoformat()).group_by(CHARGES.c.day, CHARGES.c.tenant)
        with self.changing() as connection:
            found = connection.execute(asked).all()
        return [Charge(date.fromisoformat(day), tenant, Amount(h, usd)) for day, tenant, h, usd in found]

    def charges_of(self, run: str) -> list[Charge]:
        asked = sa.select(CHARGES).where(CHARGES.c.run == run)
        with self.changing() as connection:
            found = connection.execute(asked).all()
        return [Charge(date.fromisoformat(r.day), r.tenant, Amount(r.hours, r.usd)) for r in found]

    def charge(self, run: str, charges: Sequence[Charge]) -> None:
        """A run's charges, in place of those that it had."""
        days: dict[date, Charge] = {}
        for each in charges:
            before = days.get(each.day)
            days[each.day] = each if before is None else each._replace(amount=each.amount.plus(before.amount))
        content = [
            {"run": run, "day": day.isoformat(), "tenant": each.tenant, **each.amount._asdict()}
            for day, each in days.items()
        ]
        with self.changing() as connection:
            connection.execute(sa.delete(CHARGES).where(CHARGES.c.run == run))
            if content:
                connection.execute(sa.insert(CHARGES), content)

    def paid(self, most: int = 200) -> list[PaidFor]:
        """What the newest trainings of the whole fleet took."""
        asked = sa.select(VARIANTS.c.paid).where(VARIANTS.c.paid != "null")
        with self.changing() as connection:
            found = connection.execute(asked.order_by(VARIANTS.c.served.desc()).limit(most)).scalars().all()
        return [PaidFor(*json.loads(content)) for content in found]

    def places(self, key: str) -> list[str]:
        """Those that a variant asks for."""
        asked = sa.select(PLACES.c.place).where(PLACES.c.key == key).order_by(PLACES.c.place)
        with self.changing() as connection:
            return list(connection.execute(asked).scalars().all())

    def places_due(self, now: datetime, most: int) -> dict[str, float]:
        """Place -> the fewest minutes between two looks that any who name it ask for; the longest due
        first."""
        first = sa.func.min(PLACES.c.next_look)
        place, minutes = sa.func.min(PLACES.c.place), sa.func.min(PLACES.c.minutes)
        asked = sa.select(place.label("place"), minutes.label("minutes")).group_by(PLACES.c.id)
        due = asked.having(first <= now.timestamp()).order_by(first).limit(most)
        with self.changing() as connection:
            return {row.place: row.minutes for row in connection.execute(due)}

    def unseen(self, place: str, found: str) -> list[str]:
        """The variants that have not seen a place as it is now (a digest)."""
        differs = sa.or_(PLACES.c.found.is_(None), PLACES.c.found != found)
        asked = sa.select(PLACES.c.key).where(PLACES.c.id == _place_id(place), differs)
        with self.changing() as connection:
            return list(connection.execute(asked).scalars().all())

    def put_off(self, place: str, again: datetime) -> None:
        """Say when it is a place's turn again."""
        with self.changing() as connection:
            turn = sa.update(PLACES).where(PLACES.c.id == _place_id(place))
            connection.execute(turn.values(next_look=again.timestamp()))

    def saw(self, place: str, again: datetime, found: str, failed: Iterable[str] = ()) -> None:
        """Note what was found at a place that was put off to `again`: all have seen it but those `failed`,
        and those who asked for it anew meanwhile."""
        where = (PLACES.c.id == _place_id(place), PLACES.c.next_look == again.timestamp())
        with self.changing() as connection:
            saw = sa.update(PLACES).where(*where, PLACES.c.key.not_in(sorted(failed)))
            connection.execute(saw.values(found=found))

    def set_news(
        self, key: str, found: Sequence[News], next_look: Callable[[VariantState], datetime | None]
    ) -> bool:
        """What was found of sources and base, and nothing else of the row, which another process may have
        changed since; returns whether that is other than what was known."""
        with self.changing() as connection:
            row = _to_change(connection, [key]).get(key)
            if row is None:
                return False
            state = replace(row.state, news=(*_of_parent(row), *found))
            content = json.dumps([_news_content(each) for each in state.news])
            values = {"news": content, "next_look": _seconds(next_look(state))}
            connection.execute(sa.update(VARIANTS).where(VARIANTS.c.key == key).values(values))
            if state.news != row.state.news:
                _set_meta(connection, CHANGED, uuid4().hex)
        return state.news != row.state.news


def _to_change(connection: sa.Connection, keys: Sequence[str]) -> dict[str, FleetRow]:
    """Rows as they are now, which nobody else changes until the transaction ends: a write comes first."""
    named = VARIANTS.c.key.in_(keys)
    connection.execute(sa.update(VARIANTS).where(named).values(learnt=VARIANTS.c.learnt))
    found = connection.execute(sa.select(VARIANTS).where(named)).mappings()
    return {content["key"]: _row(content) for content in found}


def _shown(row: FleetRow | None) -> tuple[object, ...] | None:
    """What people see of a row, but for what the clock alone changes."""
    if row is None:
        return None
    state = row.state
    runs = (state.running, state.failures, state.failure, state.fruitless, state.news)
    return state.broken, state.retired, row.parent, row.version, *runs


def _of_parent(row: FleetRow) -> list[News]:
    return [each for each in row.state.news if each.kind == "parent"]


def _with_found(row: FleetRow, known: FleetRow | None) -> FleetRow:
    """A row that was read before, with the news of sources and base as they are known by now."""
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
    """Each place is to be looked at when anybody looks next; where the same are asked for, only if `anew`."""
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
    """An empty table in place of one of any version, or of an SQLite file that is no database any more."""
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    try:
        METADATA.drop_all(engine)
    except sa.exc.OperationalError as error:
        raise _unusable(error, engine) from None
    except sa.exc.DatabaseError as error:
        if engine.dialect.name != "sqlite" or engine.url.database is None:
            raise _unusable(error, engine) from None
        for ending in ("", "-journal", "-wal", "-shm"):
            Path(engine.url.database + ending).unlink(missing_ok=True)
    return FleetTable(url)


def _unusable(error: sa.exc.DatabaseError, engine: sa.Engine) -> UserError:
    said = str(error.orig).partition("\n")[0]
    file = engine.url.render_as_string(hide_password=True)
    fix = "Try again; `ft-dagster fleet rebuild` makes the table anew"
    return UserError(f"the fleet's table cannot be used: {said}", file=file, fix=fix)


def _meta(connection: sa.Connection, name: str) -> str | None:
    return connection.execute(sa.select(META.c.value).where(META.c.name == name)).scalar()


def _set_meta(connection: sa.Connection, name: str, value: str) -> None:
    connection.execute(sa.delete(META).where(META.c.name == name))
    connection.execute(sa.insert(META).values(name=name, value=value))


def _content(row: FleetRow) -> dict[str, Any]:
    state = row.state
    return {
        "key": row.key,
        "parent": row.parent,
        "stamp": row.stamp,
        "edited": row.edited.timestamp(),
        "learnt": row.learnt,
        "next_look": _seconds(row.next_look),
        "known_since": state.known_since.timestamp(),
        "priority": state.priority,
        "served": _seconds(state.served),
        "renewed": _seconds(state.renewed),
        "running": state.running,
        "failures": state.failures,
        "failed_at": _seconds(state.failed_at),
        "failure": state.failure,
        "fruitless": state.fruitless,
        "fruitless_at": _seconds(state.fruitless_at),
        "broken": state.broken,
        "retired": state.retired,
        "retrain": state.retrain.model_dump_json(exclude_defaults=True),
        "cost": json.dumps([*state.cost.amount, state.cost.hours, state.cost.origin]),
        "paid": json.dumps(row.paid),
        "news": json.dumps([_news_content(news) for news in state.news]),
        "asked": json.dumps(state.asked),
        "tries": json.dumps(state.tries),
        "version": json.dumps(None if row.version is None else row.version.to_json()),
    }


def _row(content: Any) -> FleetRow:
    hours, usd, clock, origin = json.loads(content["cost"])
    paid, version = json.loads(content["paid"]), json.loads(content["version"])
    state = VariantState(
        key=VariantKey.parse(content["key"]),
        retrain=RetrainSpec.model_validate_json(content["retrain"]),
        cost=RetrainCost(Amount(hours, usd), clock, origin),
        known_since=_present(content["known_since"]),
        priority=content["priority"],
        served=_time(content["served"]),
        renewed=_time(content["renewed"]),
        running=content["running"],
        failures=content["failures"],
        failed_at=_time(content["failed_at"]),
        failure=content["failure"],
        fruitless=content["fruitless"],
        fruitless_at=_time(content["fruitless_at"]),
        news=tuple(_news(each) for each in json.loads(content["news"])),
        broken=content["broken"],
        retired=content["retired"],
        asked=tuple(json.loads(content["asked"])),
        tries=tuple(json.loads(content["tries"])),
    )
    return FleetRow(
        state,
        content["stamp"],
        _present(content["edited"]),
        content["parent"],
        content["learnt"],
        None if paid is None else PaidFor(*paid),
        _time(content["next_look"]),
        None if version is None else KnownVersion.from_json(version),
    )


def _news_content(news: News) -> dict[str, Any]:
    return {**news._asdict(), "since": news.since.timestamp(), "moved": news.moved.timestamp()}


def _news(content: dict[str, Any]) -> News:
    times = {name: _present(content[name]) for name in ("since", "moved")}
    return News(**{**content, **times})


def _seconds(time: datetime | None) -> float | None:
    return None if time is None else time.timestamp()


def _present(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else _present(seconds)
