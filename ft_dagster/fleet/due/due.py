"""Decides what is trained again now, in which order, and why all else is not: one pure decision over the
fleet.

The most urgent go first, by the time by which each is to start; a tenant that had much of the last week's
hours gives way to others by a day at most, a declared priority moves it by a day at most. So whoever waits
comes to the front. What can be paid is charged at once; what cannot lets the cheaper pass, and once it is
overdue it takes what is left of each day first. Retrains that may wait start evenly over `spread_hours`, and
on no more devices at once than a day's budget keeps busy: one that is overdue, can be paid and finds too few
free holds those behind it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from heapq import heapify, heappop, heapreplace
from typing import Literal, NamedTuple

from ft_dagster.fleet.due.budget_ledger import PLATFORM, BudgetLedger, CannotPay, Charge, never_paid
from ft_dagster.fleet.due.reasons import (
    DAY,
    NEWS,
    PATIENCE,
    TRY,
    Cause,
    VariantState,
    causes,
    enough,
    too_little,
)
from ft_dagster.fleet.due.retrain_cost import RetrainCost
from ft_dagster.fleet.log_once import log_once
from ft_dagster.fleet_settings import FleetSettings
from ft_dagster.spec import VariantKey

GIVES_WAY = timedelta(days=1)  # a tenant that had all of the last week's hours
PRIORITY = timedelta(hours=0.24)  # of each point of resources.priority, of which there are 100 either way
BACK_OFF, LONGEST_BACK_OFF = timedelta(minutes=15), timedelta(days=1)  # four times longer after each failure
GROWS = 4  # times, after which it is the longest

HOUR = timedelta(hours=1)
SOON = 0.25  # hours: what should have started by then is not started faster, nor made up for longer
WhyNot = Literal[
    "retired",
    "broken",
    "running",
    "asked",
    "small",
    "quiet",
    "back-off",
    "parked",
    "budget",
    "refused",
    "spread",
]


class Pace(NamedTuple):
    """Smooths the starts of retrains that may wait, as a leaky bucket of hours: what was started and has not
    yet worn off, below zero where more may start, and how fast it wears off (hours an hour).
    """

    hours: float
    at: datetime | None
    rate: float

    def now(self, now: datetime, rate: float) -> Pace:
        if self.at is None:
            return Pace(0.0, now, rate)
        passed = max(0.0, (now - self.at) / HOUR)
        unused = rate * min(passed, SOON)  # what could have started since then, where nothing could be paid
        faster = max(self.rate, rate)
        hours = max(-unused, self.hours - passed * faster)
        return Pace(hours, now, faster if hours > 0 else rate)


EVEN_START = Pace(0.0, None, 0.0)


@dataclass(frozen=True)
class FleetState:
    """Holds the state of the fleet. `charges`: those of this month and after, of running and finished
    retrains; `busy`: devices that runs in progress use.
    """

    variants: Sequence[VariantState]
    charges: Sequence[Charge] = ()
    pace: Pace = EVEN_START
    busy: float = 0.0


@dataclass(frozen=True)
class Retrain:
    """Describes one retrain to start. `reasons`: the most urgent first; `attempt`: 1 unless runs before it
    failed.

    `urgency`: hours until it is to have started, below zero where it is late. `stamp`: names this
    retrain, the same on every look until a run of it has ended.
    """

    key: VariantKey
    reasons: tuple[Cause, ...]
    urgency: float
    attempt: int
    cost: RetrainCost
    charges: tuple[Charge, ...]

    stamp: str


@dataclass(frozen=True)
class NotDone:
    """Describes one that is not started, and why not. `again`: when that may change by itself; None: it does
    not.
    """

    key: VariantKey
    kind: WhyNot
    why: str
    reasons: tuple[Cause, ...] = ()
    urgency: float | None = None
    cost: RetrainCost | None = None
    again: datetime | None = None


@dataclass(frozen=True)
class Decisions:
    """Holds the decisions. `pace`: to be given back with the next state."""

    retrains: tuple[Retrain, ...]
    not_done: tuple[NotDone, ...]
    pace: Pace


class _Ready(NamedTuple):
    """Describes a variant that waits for money and its turn alone."""

    state: VariantState
    reasons: tuple[Cause, ...]

    @property
    def deadline(self) -> datetime:
        return self.reasons[0].deadline

    @property
    def turn(self) -> datetime:
        return self.deadline - self.state.priority * PRIORITY

    @property
    def stamp(self) -> str:
        stamp = self.reasons[0].stamp
        return stamp if self.attempt == 1 else f"{stamp}{TRY}{self.attempt}"

    @property
    def attempt(self) -> int:
        """Return one more than the last by this reason, forgiven or not: a run's key is used once."""
        own = re.compile(re.escape(self.reasons[0].stamp) + rf"(?:{re.escape(TRY)}(\d+))?")
        found = (own.fullmatch(stamp) for stamp in self.state.tries)
        return max((int(match[1] or 1) for match in found if match), default=0) + 1

    def hours_left(self, now: datetime) -> float:
        return (self.deadline - now) / HOUR

    def not_done(self, kind: WhyNot, why: str, now: datetime, again: datetime | None = None) -> NotDone:
        return NotDone(self.state.key, kind, why, self.reasons, self.hours_left(now), self.state.cost, again)


def due(state: FleetState, policy: FleetSettings, now: datetime) -> Decisions:
    """Return what is to be started at `now`, in order, and each due thing that is not, with why not."""
    ready, not_done = _ready(state.variants, policy, now)
    book = BudgetLedger(policy, state.charges)
    spread = timedelta(hours=policy.spread_hours)
    waiting = [each for each in ready if not _presses(each, spread, now)]
    pace = state.pace.now(now, _rate(waiting, book, spread, now))
    retrains: list[Retrain] = []
    makes_room = False  # for one that is overdue, can be paid, and needs more devices than are free
    busy, room = state.busy, book.limits(PLATFORM).day.hours / 24
    for each in _in_turn(ready, book, now):
        if each.stamp in each.state.asked:
            not_done.append(each.not_done("asked", "a run was asked for it before", now))
            continue
        tenant, cost, late = each.state.key.tenant, each.state.cost, now >= each.deadline
        try:
            paid = book.place(tenant, cost, now, policy.dearer, overdue=late)
        except Exception as error:  # of this variant alone
            not_done.append(each.not_done("broken", log_once(f"paying for {each.state.key}", error), now))
            continue
        if isinstance(paid, CannotPay):
            not_done.append(each.not_done("budget" if paid.later else "refused", paid.why, now, paid.again))
            continue
        may_wait = not _presses(each, spread, now)
        full = busy > 0 and busy + cost.devices > room
        if may_wait and spread and (full or makes_room or pace.hours > 0):
            makes_room = makes_room or (full and late)
            not_done.append(each.not_done("spread", "its turn comes: starts are spread", now, now))
            continue
        for charge in paid:
            book.add(charge)
        busy += cost.devices
        if may_wait:
            pace = pace._replace(hours=pace.hours + cost.amount.hours)
        retrains.append(_retrain(each, paid, now))
    return Decisions(tuple(retrains), tuple(not_done), pace)


def _ready(
    variants: Iterable[VariantState], policy: FleetSettings, now: datetime
) -> tuple[list[_Ready], list[NotDone]]:
    ready: list[_Ready] = []
    not_done: list[NotDone] = []
    for state in variants:
        try:
            reasons = tuple(causes(state, policy.orders, now))
            held = _held(state, reasons, now)
        except Exception as error:  # of this variant alone
            not_done.append(NotDone(state.key, "broken", log_once(f"deciding on {state.key}", error)))
            continue
        if held is not None:
            not_done.append(held)
        elif reasons:
            stands = tuple(r for r in reasons if r.ready <= now and enough(state, r.kind))
            ready.append(_Ready(state, stands))
    return ready, not_done


def _held(state: VariantState, reasons: tuple[Cause, ...], now: datetime) -> NotDone | None:
    """Return why a variant cannot be started whatever is left of the budgets; None where it can, or nothing
    asks.
    """

    def held(kind: WhyNot, why: str, again: datetime | None = None) -> NotDone:
        return NotDone(state.key, kind, why, reasons, None, state.cost, again)

    if state.retired:
        return held("retired", "it is declared no longer")
    if state.broken is not None:
        return held("broken", state.broken)
    if not reasons:
        return None
    if state.running:
        return held("running", "a run of it waits or is in progress")
    failing = [_failing(state, cause, now) for cause in reasons]
    until = [each for each in failing if each is not None]
    if len(until) == len(reasons):
        return held(*min(until, key=lambda each: each[2] or datetime.max.replace(tzinfo=UTC)))
    stands = [cause for cause in reasons if enough(state, cause.kind)]
    if not stands:
        return held("small", too_little(state) or "")
    first = min(cause.ready for cause in stands)
    if first > now:
        return held("quiet", "its sources changed lately: they are to stand still first", first)
    never = never_paid(state.cost)  # it is no part of what others share, nor of their pace
    return None if never is None else held("refused", never)


def _failing(state: VariantState, cause: Cause, now: datetime) -> tuple[WhyNot, str, datetime | None] | None:
    """Return why a cause of which a run failed is not tried now. News since then are another thing to try.

    An order and an age want a success: to them a run whose gate did not hold failed too.
    """
    failures, ended, why = state.failures, state.failed_at, state.failure
    if cause.kind in ("order", "age") and state.fruitless:
        failures += state.fruitless
        ended, why = ended or state.fruitless_at, why or "its gate did not hold"
    failed_at = ended or state.base_time
    if not failures or (cause.kind in (*NEWS, "order") and cause.since > failed_at):
        return None
    if failures >= state.retrain.max_attempts:
        runs = f"{failures} runs in a row failed" if failures > 1 else "its run failed"
        return "parked", f"{runs}: {why}. Mend it, and run it by hand or change what it reads", None
    again = failed_at + min(LONGEST_BACK_OFF, BACK_OFF * 4 ** min(failures - 1, GROWS))
    if now >= failed_at and again > now:
        return "back-off", f"run {failures} failed: {why}", again
    return None


def _presses(each: _Ready, spread: timedelta, now: datetime) -> bool:
    """Say whether it may not wait: an age or an order whose time comes."""
    soon = now + max(spread, HOUR)
    return any(cause.kind in ("age", "order") and cause.deadline <= soon for cause in each.reasons)


def _rate(waiting: Sequence[_Ready], book: BudgetLedger, spread: timedelta, now: datetime) -> float:
    """Return the hours of retrains to start in an hour so that all that waits has started in time, evenly:
    the largest of the work until any time over the time until then; not more than a day's budget by the hour.
    """
    if not spread:
        return 0.0
    by_time = sorted((_spread_until(each, spread, now), each.state.cost.amount.hours) for each in waiting)
    rate = work = 0.0
    for until, hours in by_time:
        work += hours
        rate = max(rate, work / max(SOON, (until - now) / HOUR))
    return min(rate, book.limits(PLATFORM).day.hours / 24)


def _spread_until(each: _Ready, spread: timedelta, now: datetime) -> datetime:
    """Return when an even start of all puts this one: the later, the longer its reason may wait. If it waited
    longer (for money), it counts as if it came now.
    """
    first = each.reasons[0]
    window = spread * (PATIENCE.get(first.kind, DAY) / DAY)
    until = min(first.ready + window, first.deadline)
    return until if until > now else now + spread


def _in_turn(ready: Sequence[_Ready], book: BudgetLedger, now: datetime) -> Iterator[_Ready]:
    """Yield the most urgent first, a tenant that had much of late giving way; asked anew after each of its
    own.
    """
    queues: dict[str, list[_Ready]] = defaultdict(list)
    for each in sorted(ready, key=lambda each: (each.turn, str(each.state.key)), reverse=True):
        queues[each.state.key.tenant].append(each)
    today = book.today(now)
    before = {tenant: book.used_lately(today - DAY, tenant, 6).hours for tenant in queues}
    whole = book.used_lately(today).hours + sum(each.state.cost.amount.hours for each in ready)

    def turn(tenant: str) -> tuple[datetime, str]:
        own = before[tenant] + book.used(today, tenant).hours
        share = own / whole if whole > 0 else 0.0
        return queues[tenant][-1].turn + min(1.0, share) * GIVES_WAY, tenant

    turns = [turn(tenant) for tenant in queues]
    heapify(turns)
    while turns:
        _, tenant = turns[0]
        yield queues[tenant].pop()
        if queues[tenant]:
            heapreplace(turns, turn(tenant))
        else:
            heappop(turns)


def _retrain(each: _Ready, paid: Sequence[Charge], now: datetime) -> Retrain:
    state = each.state
    return Retrain(
        key=state.key,
        reasons=each.reasons,
        urgency=each.hours_left(now),
        attempt=each.attempt,
        cost=state.cost,
        charges=tuple(paid),
        stamp=each.stamp,
    )
