"""Shows what is due as rows: what is started next, what is not and why not."""

from __future__ import annotations

from dataclasses import dataclass

from ft_dagster.fleet.due.due import Decisions, NotDone, Retrain

COLUMNS = (
    "variant",
    "state",
    "reasons",
    "starts within",
    "hours",
    "USD",
    "why not, or since what",
    "again (UTC)",
)


@dataclass(frozen=True)
class DueRow:
    """Shows one due variant. `state`: due, or the kind of what holds it up. `urgency`: hours until it is to
    have started. `hours`: of all its devices; `cost`: what these rest on; `again`: when to look again, in ISO
    8601.
    """

    tenant: str
    variant: str
    state: str
    reasons: tuple[str, ...]
    urgency: float | None
    hours: float | None
    usd: float | None
    cost: str
    why: str
    again: str | None = None

    @property
    def cells(self) -> list[str]:
        urgency = "" if self.urgency is None else f"{self.urgency:.1f} h"
        hours, usd = ("" if value is None else f"{value:.2f}" for value in (self.hours, self.usd or None))
        again = (self.again or "")[:16].replace("T", " ")
        return [self.variant, self.state, ", ".join(self.reasons), urgency, hours, usd, self.why, again]


def due_rows(decisions: Decisions) -> list[DueRow]:
    """Return the rows in the order in which they are started, then what is not."""
    return [*map(_started, decisions.retrains), *map(_waiting, decisions.not_done)]


def _started(retrain: Retrain) -> DueRow:
    return _row(retrain, "due", f"due since {retrain.reasons[0].since:%Y-%m-%d %H:%M} UTC")


def _waiting(waits: NotDone) -> DueRow:
    again = None if waits.again is None else waits.again.isoformat(timespec="seconds")
    return _row(waits, waits.kind, waits.why, again)


def _row(each: Retrain | NotDone, state: str, why: str, again: str | None = None) -> DueRow:
    hours, usd = (None, None) if each.cost is None else each.cost.amount
    return DueRow(
        tenant=each.key.tenant,
        variant=str(each.key),
        state=state,
        reasons=tuple(cause.words for cause in each.reasons),
        urgency=None if each.urgency is None else round(each.urgency, 2),
        hours=hours,
        usd=usd,
        cost="" if each.cost is None else each.cost.origin,
        why=why,
        again=again,
    )
