"""A month of a fleet on a generated trace of changes, through the very decision that the sensor calls.

    .venv/bin/python benchmarks/fleet_month.py [--variants 500] [--days 30] [--seeds 5] [--plot FILE]

Tenants with one variant stand beside one with a fifth of all. Two fifths have a daily cron, all at 3:00, a
fifth a weekly one, the rest is retrained when its data changes, which happens by day; each second has a
greatest age, each 21st needs four devices. In the middle a base changes for 60 variants, and the platform
orders all of one tenant within two days. A training takes about what was foretold (a fifth either way), 3 of
100 fail. The budget is a fifth above what such a month needs, in two more seeds seven tenths of it: once with
starts that are spread, once without, where the budget alone holds. Exits with 1 where a promise is broken.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from heapq import heappop, heappush
from pathlib import Path
from typing import Literal, NamedTuple

from ft_dagster.fleet.due.budget_ledger import BudgetLedger, Charge, beyond, settled
from ft_dagster.fleet.due.due import EVEN_START, FleetState, NotDone, Pace, Retrain, due
from ft_dagster.fleet.due.reasons import News, VariantState, next_look
from ft_dagster.fleet.due.retrain_cost import Amount, RetrainCost
from ft_dagster.fleet_settings import BudgetSettings, FleetSettings, PlatformOrder
from ft_dagster.spec import VariantKey
from ft_dagster.spec.variant import RetrainSpec

START = datetime(2026, 3, 2, tzinfo=UTC)  # a Monday; the clocks change within the month
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
TICK = timedelta(minutes=15)
ZONE = "Europe/Madrid"
OFF, FAILS = 0.2, 0.03  # how far a training is from what was foretold, and how often it fails
SLACK, SCARCE = 1.2, 0.7  # the budget, over what the month needs on average
SPREAD = 24.0  # hours
HERD, WAIT = 1.5, 7 * DAY


class Change(NamedTuple):
    at: datetime
    key: str
    kind: str


@dataclass
class Month:
    """What happened. `load`: hour -> device hours of trainings that could wait."""

    settings: FleetSettings
    charges: list[Charge] = field(default_factory=list)
    load: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    hours: float = 0.0
    runs: int = 0
    late: list[str] = field(default_factory=list)  # past a greatest age while there was budget
    starved: list[str] = field(default_factory=list)
    longest_wait: timedelta = timedelta(0)
    cron_alone: float = 0.0


def fleet(dice: random.Random, count: int) -> dict[str, VariantState]:
    """Variants as they are when the month begins: served within the week before."""
    found = {}
    for number in range(count):
        tenant = "large" if number < count // 5 else f"t{dice.randrange(count // 4)}"
        key = VariantKey(tenant, f"v{number}")
        kind = number % 5
        cron = "0 3 * * *" if kind < 2 else f"0 3 * * {dice.randrange(7)}" if kind == 2 else None
        retrain = RetrainSpec(
            cron=cron,
            timezone=ZONE,
            on_new_data=cron is None,
            on_new_base=number < 60,
            max_age_days=14 if number % 2 else None,
        )
        hours, devices = min(8.0, dice.lognormvariate(-0.5, 0.7)), 1 if number % 21 else 4
        cost = RetrainCost(Amount(hours * devices, 2 * hours * devices), hours, "as generated")
        served = START - dice.uniform(0.05, 1 if kind < 2 else 7) * DAY
        found[str(key)] = VariantState(key, retrain, cost, served - DAY, served=served, renewed=served)
    return found


def changes(dice: random.Random, variants: dict[str, VariantState], days: int) -> list[Change]:
    """Of data, every three days on average and by day; of one base, in the middle."""
    trace = []
    for key, state in variants.items():
        at = START + dice.expovariate(1 / 3) * DAY
        while state.retrain.on_new_data and at < START + days * DAY:
            trace.append(Change(at.replace(hour=8 + dice.randrange(10)), key, "data"))
            at += dice.expovariate(1 / 3) * DAY
        if state.retrain.on_new_base:
            trace.append(Change(START + days / 2 * DAY, key, "base"))
    return sorted(trace)


def needed(variants: Iterable[VariantState]) -> float:
    """Device hours a day, about: data that changes each third day is trained on after it stood still."""
    return sum(state.cost.amount.hours / (days_apart(state) or 3.0) for state in variants)


def days_apart(state: VariantState) -> float | None:
    """Of its cron."""
    cron = state.retrain.cron
    return None if cron is None else 1.0 if cron.endswith("*") else 7.0


def cron_alone(variants: Iterable[VariantState], days: int) -> float:
    """Device hours, had each a cron that keeps it as fresh: where data may change any day, a daily one."""
    return sum(state.cost.amount.hours * days / (days_apart(state) or 1.0) for state in variants)


class Simulation:
    """One seed. `slack`: the budget over what is needed; `spread_hours`: 0 lets the budget alone hold."""

    def __init__(self, seed: int, count: int, days: int, slack: float, spread_hours: float) -> None:
        self.dice = random.Random(seed)
        self.days = days
        self.variants = fleet(self.dice, count)
        self.trace = changes(self.dice, self.variants, days)
        order = PlatformOrder(
            name="erasure",
            reason="a person is erased",
            given=START + days / 3 * DAY,
            deadline=START + (days / 3 + 2) * DAY,
            variants=(f"{next(reversed(self.variants)).split('.')[0]}.*",),
        )
        self.month = Month(
            FleetSettings(
                timezone=ZONE,
                budget=BudgetSettings(hours_per_day=slack * needed(self.variants.values())),
                spread_hours=spread_hours,
                orders=(order,),
            )
        )
        self.month.cron_alone = cron_alone(self.variants.values(), days)
        self.ends: list[tuple[datetime, int, Retrain, float]] = []
        self.charges: dict[int, list[Charge]] = {}  # of trainings in progress
        self.settled: dict[tuple[date, str], Amount] = defaultdict(Amount)
        self.pace: Pace = EVEN_START
        self.since: dict[str, datetime] = {}
        self.looks = {key: self._next(key, START) for key in self.variants}

    def run(self) -> Month:
        at, trace = START, iter([*self.trace, Change(datetime.max.replace(tzinfo=UTC), "", "")])
        change = next(trace)
        while at < START + self.days * DAY:
            while change.at <= at:
                self._changed(change)
                change = next(trace)
            while self.ends and self.ends[0][0] <= at:
                self._ended(*heappop(self.ends))
            self._tick(at)
            at += TICK
        self.month.charges = self._charges(START)
        return self.month

    def _charges(self, since: datetime) -> list[Charge]:
        """Of the days from eight before `since` on, as the table gives them."""
        first = (since - 8 * DAY).date()
        known = [Charge(day, tenant, spent) for (day, tenant), spent in self.settled.items() if day >= first]
        return known + [charge for charges in self.charges.values() for charge in charges]

    def _busy(self) -> float:
        return sum(retrain.cost.devices for _, _, retrain, _ in self.ends)

    def _next(self, key: str, now: datetime) -> datetime | None:
        return next_look(self.variants[key], self.month.settings.orders, now)

    def _changed(self, change: Change) -> None:
        state = self.variants[change.key]
        before = next((news for news in state.news if news.kind == change.kind), None)
        since = change.at if before is None else before.since
        kind: Literal["data", "base"] = "data" if change.kind == "data" else "base"
        news = News(kind, f"{kind}-{change.at}", since, change.at, "")
        others = tuple(each for each in state.news if each.kind != change.kind)
        self.variants[change.key] = replace(state, news=(*others, news))
        self.looks[change.key] = self._next(change.key, change.at)

    def _tick(self, now: datetime) -> None:
        states = [self.variants[key] for key, look in self.looks.items() if look is not None and look <= now]
        state = FleetState(states, self._charges(now), self.pace, busy=self._busy())
        decisions = due(state, self.month.settings, now)
        self.pace = decisions.pace
        started = {str(retrain.key): retrain.reasons[0].deadline for retrain in decisions.retrains}
        for waits in decisions.not_done:
            self._waits(waits, now, max(started.values(), default=now))
        for retrain in decisions.retrains:
            self._started(retrain, now)

    def _waits(self, waits: NotDone, now: datetime, latest: datetime) -> None:
        if waits.kind not in ("budget", "spread") or not waits.reasons:
            return
        first = self.since.setdefault(str(waits.key), now)
        if now - first > WAIT and latest > waits.reasons[0].deadline:
            self.month.starved.append(f"{waits.key} at {now:%d %H:%M}")
        too_old = [cause for cause in waits.reasons if cause.kind == "age" and cause.deadline < now]
        if too_old and waits.kind != "budget":
            self.month.late.append(f"{waits.key} at {now:%d %H:%M}")

    def _started(self, retrain: Retrain, now: datetime) -> None:
        key = str(retrain.key)
        waited = now - self.since.pop(key, now)
        self.month.longest_wait = max(self.month.longest_wait, waited)
        hours = retrain.cost.hours * self.dice.uniform(1 - OFF, 1 + OFF)
        number = self.month.runs
        self.month.runs += 1
        self.charges[number] = list(retrain.charges)
        heappush(self.ends, (now + hours * HOUR, number, retrain, hours))
        pressing = any(cause.kind in ("age", "order") for cause in retrain.reasons)
        self.month.hours += hours * retrain.cost.devices
        self.variants[key] = replace(self.variants[key], running=True)
        self.looks[key] = None
        if not pressing:
            _spread_over(self.month.load, (now - START) / HOUR, hours, retrain.cost.devices)

    def _ended(self, at: datetime, number: int, retrain: Retrain, hours: float) -> None:
        key, foretold = str(retrain.key), retrain.cost.amount
        real = foretold.times(hours / retrain.cost.hours)
        charges = settled(self.charges.pop(number), foretold, real)
        more = beyond(foretold, real)
        if more.hours > 0:
            book = BudgetLedger(self.month.settings, [*self._charges(at), *charges])
            charges += book.overrun(retrain.key.tenant, more, at)
        for charge in charges:
            place = charge.day, charge.tenant
            self.settled[place] = self.settled[place].plus(charge.amount)
        state = replace(self.variants[key], running=False)
        if self.dice.random() < FAILS:
            state = replace(state, failures=state.failures + 1, failed_at=at, failure="as generated")
        else:
            began = at - hours * HOUR
            news = tuple(each for each in state.news if each.moved > began)
            news = tuple(each._replace(since=max(each.since, each.moved)) for each in news)
            state = replace(state, served=began, renewed=began, failures=0, failed_at=None, news=news)
        self.variants[key] = state
        self.looks[key] = self._next(key, at)


def _spread_over(load: dict[int, float], start: float, hours: float, devices: float) -> None:
    """Add a training to the hours that it runs in."""
    at, end = start, start + hours
    while at < end:
        until = min(end, float(int(at) + 1))
        load[int(at)] += (until - at) * devices
        at = until


def broken_promises(month: Month, days: int) -> list[str]:
    book = BudgetLedger(month.settings, month.charges)
    most = month.settings.budget.hours_per_day or 0.0
    over = [
        f"{day}: {used.hours:.2f} h of {most:.2f}"
        for day in sorted({charge.day for charge in month.charges})
        if (used := book.used(day)).hours > most + 1e-6
    ]
    said = [f"over budget on {day}" for day in over]
    if month.late:
        said.append(f"a greatest age was missed {len(month.late)} times: {month.late[0]}")
    if month.starved:
        said.append(f"{len(month.starved)} waited for more than a week: {month.starved[0]}")
    if month.settings.spread_hours and herd(month, days) > HERD:
        said.append(f"{herd(month, days):.2f} times the mean load in an hour")
    return said


def herd(month: Month, days: int) -> float:
    """The busiest hour's load over the mean, after the first day and before the last."""
    loads = [month.load[hour] for hour in range(24, (days - 1) * 24)]
    return max(loads) / (sum(loads) / len(loads))


def plot(months: list[Month], days: int, file: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg" if file.suffix == ".svg" else "agg")
    from matplotlib import pyplot as plt

    figure, (top, below) = plt.subplots(2, 1, figsize=(9, 5.5), constrained_layout=True)
    for month in months:
        hours = range(days * 24 if month.settings.spread_hours else 0)
        top.plot([hour / 24 for hour in hours], [month.load[hour] for hour in hours], lw=0.7)
        book = BudgetLedger(month.settings, month.charges)
        first = START.date()
        used = [book.used(first + timedelta(days=day)).hours for day in range(days)]
        most = month.settings.budget.hours_per_day or 1.0
        below.plot(range(days), [each / most for each in used], marker=".", lw=0.7)
    top.set(
        ylabel="device hours an hour",
        title="Load of retrains that may wait a day, of months that spread starts",
    )
    below.axhline(1.0, color="black", lw=0.8)
    below.set(xlabel="day", ylabel="of the day's budget", ylim=(0, 1.1), title="Charged")
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", type=int, default=500)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    months, broken = [], []
    print(
        "seed  budget  spread  runs  device hours  cron alone  busiest/mean hour  longest wait  fullest day"
    )
    kinds = [(SLACK, SPREAD)] * given.seeds + [(SCARCE, SPREAD), (SCARCE, 0.0)]
    for seed, (slack, spread) in enumerate(kinds):
        month = Simulation(seed, given.variants, given.days, slack, spread).run()
        months.append(month)
        book = BudgetLedger(month.settings, month.charges)
        most = month.settings.budget.hours_per_day or 1.0
        fullest = max(book.used(charge.day).hours for charge in month.charges) / most
        print(
            f"{seed:4d} {slack:7.1f} {spread:5.0f} h {month.runs:5d} {month.hours:13.0f} "
            f"{month.cron_alone:11.0f} {herd(month, given.days):18.2f} "
            f"{month.longest_wait / HOUR:11.1f} h {fullest:12.1%}",
            flush=True,
        )
        broken += [f"seed {seed}: {promise}" for promise in broken_promises(month, given.days)]
    if given.plot is not None:
        plot(months, given.days, given.plot)
    for promise in broken:
        print(promise)
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
