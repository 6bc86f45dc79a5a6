"""Shows the state of each variant as a row: why, what it gained and cost, and when it is trained next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from ft_dagster.fleet.due.costs import shown_hours, shown_usd
from ft_dagster.fleet.due.due import Decisions, NotDone, Retrain
from ft_dagster.fleet.refresh.freshness import RootCause, freshness
from ft_dagster.fleet.table.version import Gain, KnownVersion
from ft_dagster.lineage.serving import Standing
from ft_dagster.report.sentences.next_step import next_of_state
from ft_dagster.report.states import ORDER, VariantStatus
from ft_dagster.row_choices import SortedBy

if TYPE_CHECKING:
    from ft_dagster.fleet.table.table_rows import FleetRow

FAILING = ("parked", "failing")
NO_PASS = ("failed", "undecided")  # words of a verdict
COLUMNS = (
    *("variant", "state", "version", "over base", "over production", "age", "cost to date"),
    *("next (UTC)", "cause", "why not sooner"),
)
PAIRS = ("variant\ncause", "state\nversion", "over base\nproduction", "age\ncost", "next (UTC)\nwhy")


@dataclass(frozen=True)
class StatusRow:
    """Shows a variant's state. `cause`: of the state, in a sentence; `causes`: all why it is out of date, the
    nearest first. `version`: in production; `waiting`: one that is to be approved; `taken_back`: the newest,
    where it was rolled back. `judged`: the word of the newest verdict, `verdict`: its sentence. `age_days`:
    of what stands, since it was judged. `hours`: of all devices, `usd`: both to date. `next`: when a retrain
    is decided upon next, ISO 8601, and `why` it is not sooner. `result`: what came of the newest training, in
    a line; `next_step`: what a person does next. `unserved`: the version in production, where it may no
    longer be served.
    """

    tenant: str
    variant: str
    state: VariantStatus
    cause: str
    causes: tuple[RootCause, ...]
    version: int | None
    waiting: int | None
    taken_back: int | None
    judged: str | None
    verdict: str | None
    digest: str | None
    gain: Gain | None
    over_production: Gain | None
    age_days: float | None
    hours: float
    usd: float
    next: str | None
    why: str
    result: str
    next_step: str
    unserved: Standing | None = None

    def to_json(self) -> dict[str, object]:
        causes = [{"variant": each.variant, **each.cause._asdict()} for each in self.causes]
        gains = {name: _gain_json(getattr(self, name)) for name in ("gain", "over_production")}
        told = {name: value for name, value in vars(self).items() if name != "unserved"}
        unserved = None if self.unserved is None else self.unserved.to_json()
        return {**told, "causes": causes, **gains, "may_not_serve": unserved}

    @property
    def shown_version(self) -> str:
        """Return "v2 (v3 waits)", "v1 (v2 rolled back)"; a dash where none is in production."""
        version = "-" if self.version is None else f"v{self.version}"
        if self.waiting is not None:
            return f"{version} (v{self.waiting} waits)"
        return version if self.taken_back is None else f"{version} (v{self.taken_back} rolled back)"

    @property
    def of_causes(self) -> StatusRow:
        """Return the row with why it is out of date in place of why its run failed."""
        return replace(self, cause=_first_of(self.causes, self.variant)) if self.causes else self

    @property
    def cells(self) -> list[str]:
        """Return the cells as COLUMNS names them."""
        age = "-" if self.age_days is None else f"{self.age_days:.1f} d"
        cost = f"{shown_hours(self.hours)} h" + (f", ${shown_usd(self.usd)}" if self.usd else "")
        when = (self.next or "-")[:16].replace("T", " ")
        gains = [_gain_cell(self.gain), _gain_cell(self.over_production)]
        return [self.variant, self.state, self.shown_version, *gains, age, cost, when, self.cause, self.why]

    @property
    def pairs(self) -> list[str]:
        """Return the same cells two by two, as PAIRS names them, for a terminal."""
        variant, state, version, base, production, age, cost, when, cause, why = self.cells
        pairs = ((variant, cause), (state, version), (base, production), (age, cost), (when, why))
        return ["\n".join(filter(None, pair)) for pair in pairs]


def status_rows(rows: Sequence[FleetRow], decisions: Decisions, now: datetime) -> list[StatusRow]:
    """Return one row a variant. `decisions`: on those whose time has come."""
    causes = freshness(rows)
    decided: dict[str, Retrain | NotDone] = {str(each.key): each for each in decisions.not_done}
    decided |= {str(each.key): each for each in decisions.retrains}
    return [_row(row, causes[row.key], decided.get(row.key), now) for row in rows]


def arranged(rows: Sequence[StatusRow], by: SortedBy = "state") -> list[StatusRow]:
    """Sort by what needs a person first, by name, or by the largest: what is not known comes last."""
    if by == "state":
        return sorted(rows, key=lambda row: (ORDER.index(row.state), row.variant))
    if by == "variant":
        return sorted(rows, key=lambda row: row.variant)
    if by == "next":
        return sorted(rows, key=lambda row: (row.next is None, row.next or "", row.variant))

    def largest_first(row: StatusRow) -> tuple[bool, float, str]:
        value = _value(row, by)
        return value is None, -(value or 0.0), row.variant

    return sorted(rows, key=largest_first)


def unserved_lines(rows: Sequence[StatusRow], most: int | None = None) -> list[str]:
    """Return the versions in production that may no longer be served, a sentence each, and how many more
    there are than `most`.
    """
    found = [row.unserved.said for row in rows if row.unserved is not None]
    if most is None or len(found) <= most:
        return found
    return [*found[:most], f"{len(found) - most} more in production may no longer be served"]


def _value(row: StatusRow, by: SortedBy) -> float | None:
    if by == "gain":
        return None if row.gain is None else row.gain.better
    return row.age_days if by == "age" else row.hours


def _row(
    row: FleetRow, causes: tuple[RootCause, ...], decision: Retrain | NotDone | None, now: datetime
) -> StatusRow:
    version = row.version or KnownVersion()
    state = _state(row, causes, decision)
    following, why = _next(row, decision, now)
    return StatusRow(
        tenant=row.state.key.tenant,
        variant=row.key,
        state=state,
        cause=_cause(row, state, causes),
        causes=causes,
        version=version.version,
        waiting=version.waiting,
        taken_back=version.taken_back,
        judged=version.gate,
        verdict=version.verdict,
        digest=version.digest,
        gain=version.gain,
        over_production=version.over_production,
        age_days=None if version.made is None else round((now - version.made) / timedelta(days=1), 2),
        hours=version.spent.hours,
        usd=version.spent.usd,
        next=None if following is None else following.isoformat(timespec="seconds"),
        why=why,
        result=version.result,
        next_step=next_of_state(
            row.key,
            state,
            version.next_step,
            refused=_is_refused(row, version),
            failure=row.state.failure or "",
            unserved=version.unserved,
        ),
        unserved=_unserved(row.key, version),
    )


def _unserved(key: str, version: KnownVersion) -> Standing | None:
    if version.version is None or not version.unserved:
        return None
    return Standing(key, version.version, version.unserved, version.withheld)


def _state(row: FleetRow, causes: tuple[RootCause, ...], decision: Retrain | NotDone | None) -> VariantStatus:
    state, version = row.state, row.version
    if state.retired:
        return "retired"
    if state.broken is not None or (version is not None and version.unread):
        return "broken"
    if state.running:
        return "running"
    if state.failures >= state.retrain.max_attempts or (
        isinstance(decision, NotDone) and decision.kind == "parked"
    ):
        return "parked"
    if state.failures or state.fruitless or (version is not None and version.gate in NO_PASS):
        return "failing"
    if version is None:
        return "never trained"
    if version.waiting is not None:
        return "approval"
    if version.gate is None and version.version is None:
        return "not judged"
    return "stale" if causes else "fresh"


def _is_refused(row: FleetRow, version: KnownVersion) -> bool:
    """Say whether its verdict did not pass, and is why its newest run failed, if one did."""
    if version.gate not in NO_PASS:
        return False
    return not row.state.failures or (version.verdict or "") in (row.state.failure or "")


def _cause(row: FleetRow, state: VariantStatus, causes: tuple[RootCause, ...]) -> str:
    known, version = row.state, row.version or KnownVersion()
    if state == "broken":
        return known.broken or version.unread
    if state in FAILING:
        if known.failures:
            runs = "1 run" if known.failures == 1 else f"{known.failures} runs in a row"
            return f"{runs} failed: {known.failure}"
        return version.verdict or "" if version.gate in NO_PASS else known.failure or "its gate did not hold"
    if state == "approval":
        return f"v{version.waiting} waits for approval"
    if state == "not judged":
        return "it was trained, and no evaluation came of it"
    if state == "retired":
        return "it is declared no longer"
    if not causes:
        return f"as far as is looked at, which {version.unseen} is not" if version.unseen else ""
    return _first_of(causes, row.key)


def _first_of(causes: Sequence[RootCause], variant: str) -> str:
    more = len(causes) - 1
    return causes[0].said(variant) + (f", and {more} more" if more else "")


def _next(row: FleetRow, decision: Retrain | NotDone | None, now: datetime) -> tuple[datetime | None, str]:
    state = row.state
    if state.retired or state.broken is not None:
        return None, ""
    if isinstance(decision, Retrain):
        return now, f"due: {', '.join(cause.words for cause in decision.reasons)}"
    if decision is not None:
        return decision.again, decision.why
    if state.running:
        return None, "a run of it waits or is in progress"
    if row.next_look is not None:
        return row.next_look, "nothing asks for it before"
    return None, "no retrain configured"


def _gain_cell(gain: Gain | None) -> str:
    if gain is None:
        return "-"
    if gain.metric.endswith("loss"):
        return f"loss {gain.after - gain.before:+.3g} nats"
    if max(abs(gain.before), abs(gain.after)) > 1:
        return f"{gain.better:+.3g}"
    return f"{100 * gain.better:+.1f} points"


def _gain_json(gain: Gain | None) -> dict[str, Any] | None:
    return None if gain is None else {**gain._asdict(), "better": gain.better}
