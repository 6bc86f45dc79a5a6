"""Finds why a variant is to be trained again, and by when: from what is known of it, by the clock given.

A cause stands until a run that started after it has come to a verdict, an order and an age until one has
succeeded; a run that failed is tried again.
Several causes at once are one retrain, asked for once by the stamp of the most urgent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

from cronsim import CronSim

from ft_dagster.fleet.due.retrain_cost import RetrainCost
from ft_dagster.fleet_settings import PlatformOrder
from ft_dagster.spec import VariantKey
from ft_dagster.spec.variant import RetrainSpec

DAY = timedelta(days=1)
NEWS = ("data", "base", "parent")
CauseKind = Literal["order", "age", "parent", "base", "data", "cron"]
PATIENCE: dict[CauseKind, timedelta] = {"cron": DAY, "data": 2 * DAY, "parent": 2 * DAY, "base": 3 * DAY}
MOST_QUIET = DAY  # a source that never stands still is trained on after this long
AGE_LEAD = DAY  # before the greatest age is reached, where that is more than two days
TRY = ".try"  # between a reason's stamp and the number of the try
STAMP, EXACT_STAMP = "%Y-%m-%dT%H.%MZ", "%Y-%m-%dT%H.%M.%SZ"  # of times in UTC
IN_STAMP = re.compile(r"(?<![^-])\d{4}-\d\d-\d\dT\d\d\.\d\d(\.\d\d)?Z")  # no name can look like it


class News(NamedTuple):
    """Names a change since the newest run: of a source, the base, or the parent's release.

    `stamp` names it; `since`: when it was first seen to differ; `moved`: when it changed last. Of data alone,
    `share`: of the bytes, in files that changed; `rows`: those that changed, by the size of a row before.
    """

    kind: Literal["data", "base", "parent"]
    stamp: str
    since: datetime
    moved: datetime
    words: str
    share: float = 1.0
    rows: int | None = None


@dataclass(frozen=True)
class VariantState:
    """Holds what is known of a variant when it is decided upon. Times are in UTC.

    `known_since`: when it was first seen as declared. `served`: when its newest run that came to a verdict
    started; None where none did; `renewed`: its newest that succeeded. `running`: a run waits or is in
    progress. `failures`: runs in a row that came to no verdict since; `failed_at`: when the newest of them
    ended. `fruitless`: those that came to a verdict and did not succeed, since `renewed`; `fruitless_at`:
    when the newest of them ended. `failure`: why the newest of these did not succeed, of `failures` where
    there are any. `broken`: why its declaration cannot be read; `retired`: it is declared no longer. `cost`:
    of its next retrain. `asked`: stamps for which a run was asked lately; `tries`: those whose run ended and
    did not succeed.
    """

    key: VariantKey
    retrain: RetrainSpec
    cost: RetrainCost
    known_since: datetime
    priority: int = 0
    served: datetime | None = None
    renewed: datetime | None = None
    running: bool = False
    failures: int = 0
    failed_at: datetime | None = None
    failure: str = ""
    fruitless: int = 0
    fruitless_at: datetime | None = None
    news: tuple[News, ...] = ()
    broken: str | None = None
    retired: bool = False
    asked: tuple[str, ...] = ()
    tries: tuple[str, ...] = ()

    @property
    def base_time(self) -> datetime:
        """Return the time from which changes count: what happened before needs no run."""
        return self.known_since if self.served is None else self.served


def not_dealt_with(news: Iterable[News], state: VariantState) -> list[News]:
    """Return the news that no run took up which came to a verdict: nothing differs from what the newest run
    read, yet that is in progress, or failed, and they are to be tried again.
    """

    def taken_up(each: News) -> bool:
        stamps = (stamp.partition(TRY)[0] for stamp in state.asked)
        return state.running or state.failures > 0 or each.stamp in stamps

    return [each for each in news if taken_up(each) and (not state.served or each.since > state.served)]


class Cause(NamedTuple):
    """Gives one reason. `deadline`: the retrain is to start by then; `ready`: not before this."""

    kind: CauseKind
    stamp: str
    words: str
    since: datetime
    deadline: datetime
    ready: datetime


def causes(state: VariantState, orders: Sequence[PlatformOrder], now: datetime) -> list[Cause]:
    """Return all that makes a variant due at `now`, the most urgent first; also what is not ready yet."""
    found = [*_by_the_clock(state, now), *_of_orders(state, orders, now), *_of_news(state)]
    return sorted(found, key=lambda cause: (cause.deadline, cause.kind, cause.stamp))


def first_fire(retrain: RetrainSpec, after: datetime) -> datetime | None:
    """Return the first time after `after` at which the declared cron fires, in UTC. In a night without that
    hour it fires when the clocks have moved, in one with two of them once, as Debian's cron does.
    """
    return None if retrain.cron is None else _fire(retrain.cron, retrain.timezone, after)


@lru_cache(50_000)  # who waits is asked about on each look
def _fire(cron: str, zone: str, after: datetime) -> datetime | None:
    local = after.astimezone(ZoneInfo(zone))
    minute, hour = cron.split()[-5:-3]
    if minute.startswith("*") or hour.startswith("*"):  # so often, whatever the clocks say
        fires = (fire.astimezone(UTC) for fire in CronSim(cron, local))
    else:
        fires = (_moment(fire, zone) for fire in CronSim(cron, local.replace(tzinfo=None)))
    return next((fire for fire in fires if fire > after), None)


def _moment(fire: datetime, zone: str) -> datetime:
    """Return when a zone's clocks first say this, in UTC; when they have moved, where that night they never
    do.
    """
    while True:
        at = fire.replace(tzinfo=ZoneInfo(zone), fold=0).astimezone(UTC)
        if at.astimezone(ZoneInfo(zone)).replace(tzinfo=None) == fire:
            return at
        fire += timedelta(minutes=1)


def next_look(state: VariantState, orders: Sequence[PlatformOrder], now: datetime) -> datetime | None:
    """Return when the passing of time alone may change what is decided; None: never. `now`: it is due."""
    if state.retired or state.broken or state.running:
        return None
    times: list[datetime | None] = [first_fire(state.retrain, state.base_time), age_cause_at(state)]
    times += [order.given for order in _orders_of(state, orders)]
    times += [cause.ready for cause in _of_news(state) if enough(state, cause.kind)]
    known = [max(now, time) for time in times if time is not None]
    return min(known, default=None)


def age_cause_at(state: VariantState) -> datetime | None:
    """Return from when on the greatest age asks for a run; None where none is declared, or no run
    succeeded.
    """
    if state.retrain.max_age_days is None or state.renewed is None:
        return None
    age = timedelta(days=state.retrain.max_age_days)
    return state.renewed + age - min(AGE_LEAD, age / 2)


def too_little(state: VariantState) -> str | None:
    """Return why changed data asks for no run yet; None where enough of it changed."""
    least = state.retrain
    for news in state.news:
        if news.kind != "data":
            continue
        if news.share < least.least_share:
            return f"{news.share:.1%} of the bytes changed, least_share is {least.least_share:.1%}"
        if least.least_rows is not None and news.rows is not None and news.rows < least.least_rows:
            return f"about {news.rows:,} rows changed, least_rows is {least.least_rows:,}"
    return None


def enough(state: VariantState, kind: CauseKind) -> bool:
    return kind != "data" or too_little(state) is None


def stamped_since(stamp: str) -> datetime | None:
    """Return since when the cause of a stamp stands, a further try's too; None where the stamp does not say
    it: an age's says its deadline.
    """
    found = IN_STAMP.search(stamp)
    if found is None or stamp[: found.start()] == "age-":
        return None
    try:
        return datetime.strptime(found[0], EXACT_STAMP if found[1] else STAMP).replace(tzinfo=UTC)
    except ValueError:  # of a run that no sensor asked for
        return None


def _cron_stamp(fire: datetime) -> str:
    """Return the stamp of a cron, exact where the minute is not: a cron of five fields keeps the stamps that
    older versions gave.
    """
    return fire.strftime(EXACT_STAMP if fire.second else STAMP)


def _by_the_clock(state: VariantState, now: datetime) -> Iterator[Cause]:
    fire = first_fire(state.retrain, state.base_time)
    if fire is not None and fire <= now:
        yield Cause("cron", _cron_stamp(fire), "schedule", fire, fire + PATIENCE["cron"], fire)
    asks = age_cause_at(state)
    if asks is not None and state.renewed is not None and asks <= now:
        days = state.retrain.max_age_days or 0.0
        deadline = state.renewed + timedelta(days=days)
        yield Cause("age", f"age-{deadline.strftime(STAMP)}", f"age of {days:g} days", asks, deadline, asks)


def _of_orders(state: VariantState, orders: Sequence[PlatformOrder], now: datetime) -> Iterator[Cause]:
    for order in _orders_of(state, orders):
        if order.given <= now:
            words = f"order {order.name}: {order.reason}"
            stamp = f"order-{order.name}-{order.given.astimezone(UTC):{EXACT_STAMP}}"
            yield Cause("order", stamp, words, order.given, order.deadline, order.given)


def _orders_of(state: VariantState, orders: Sequence[PlatformOrder]) -> Iterator[PlatformOrder]:
    """Yield the orders that no run of the variant has fulfilled yet, by its success. One that was never run
    has nothing to renew.
    """
    for order in orders:
        matches = any(fnmatchcase(str(state.key), pattern) for pattern in order.variants)
        fulfilled = state.renewed is not None and state.renewed >= order.given
        if matches and state.served is not None and not fulfilled:
            yield order


def _of_news(state: VariantState) -> Iterator[Cause]:
    asked = {"data": state.retrain.on_new_data, "base": state.retrain.on_new_base, "parent": True}
    for news in state.news:
        dealt_with = state.served is not None and news.since <= state.served
        if not asked[news.kind] or dealt_with:
            continue
        ready = news.since
        if news.kind == "data":
            quiet = timedelta(minutes=state.retrain.quiet_minutes)
            ready = min(news.moved + quiet, news.since + max(MOST_QUIET, quiet))
        yield Cause(news.kind, news.stamp, news.words, news.since, ready + PATIENCE[news.kind], ready)
