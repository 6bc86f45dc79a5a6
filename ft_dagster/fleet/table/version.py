"""Holds what is known of the version of a variant that stands, and what it cost to get there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ft_dagster.fleet.due.retrain_cost import NOTHING, Amount
from ft_dagster.lineage.serving import Finding
from ft_dagster.lineage.stale import StaleCause

TIMES = ("made", "logged")


class Gain(NamedTuple):
    """Measures how much better a version is at its task: `after` - `before` in the metric's own unit, more is
    better unless `lower` is.
    """

    task: str
    metric: str
    before: float
    after: float
    lower: bool = False

    @property
    def better(self) -> float:
        return self.before - self.after if self.lower else self.after - self.before


@dataclass(frozen=True)
class KnownVersion:
    """Holds what is known of a version. `version`: in production; `waiting`: a newer one that somebody is to
    approve; `taken_back`: the newest, where it was rolled back; `made`: when what stands was judged or
    trained, `logged`: when a run last released a version, both in UTC. `digest`: of the newest export.
    `gate`: the word of the newest verdict, `verdict`: its sentence, `result`: what came of its weights in
    a line, `next_step`: what a person does next. `gain`: of the newest evaluation over the base;
    `over_production`: of the newest version over the one that was served before it, each on its own
    questions. `causes`: why what stands is out of date. `unread`: why the store could not be read, where
    it could not: nothing else is known then. `unseen`: a source or base that nobody looks at. `shown`: so
    many entries of its release log Dagster shows, as a tick found. `unserved`: why the version in
    production may no longer be served; `withheld`: the policy has it refused then.

    `spent`: of all trainings, preparations, evaluations and exports that are or were in the store;
    `retrain_hours`: by the clock, of the newest training and what was made for it; `counted`: digest of their
    keys and of prices.
    """

    version: int | None = None
    waiting: int | None = None
    made: datetime | None = None
    digest: str | None = None
    gate: str | None = None
    gain: Gain | None = None
    over_production: Gain | None = None
    causes: tuple[StaleCause, ...] = ()
    unread: str = ""
    unseen: str = ""
    spent: Amount = NOTHING
    retrain_hours: float = 0.0
    counted: str = ""
    taken_back: int | None = None
    verdict: str | None = None
    shown: int = 0
    result: str = ""
    next_step: str = ""
    unserved: tuple[Finding, ...] = ()
    withheld: bool = False
    logged: datetime | None = None

    def to_json(self) -> dict[str, object]:
        times = {name: getattr(self, name) for name in TIMES}
        return {**asdict(self), **{name: at and at.timestamp() for name, at in times.items()}}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> KnownVersion:
        times, gains = {name: content.get(name) for name in TIMES}, ("gain", "over_production")
        read = {
            **{name: None if at is None else datetime.fromtimestamp(at, UTC) for name, at in times.items()},
            "causes": tuple(StaleCause(*cause) for cause in content["causes"]),
            "unserved": tuple(Finding(*each) for each in content.get("unserved", ())),
            "spent": Amount(*content["spent"]),
            **{name: None if content[name] is None else Gain(*content[name]) for name in gains},
        }
        return cls(**{**content, **read})
