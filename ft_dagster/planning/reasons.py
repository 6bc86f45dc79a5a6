"""Records every value that a plan settles, with where it came from and why."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NamedTuple

Origin = Literal["declaration", "built-in", "host", "measured"]
DECLARED: Final = "declaration"  # who said a value
AS_DECLARED = "as declared"


class Default(NamedTuple):
    """Holds a value that stands unless another is declared, and why."""

    value: Any
    reason: str


@dataclass(frozen=True)
class Reason:
    """Holds a field of the declaration, its value as plain JSON, where that came from, and why."""

    field: str
    value: Any
    origin: Origin
    reason: str


class Reasons:
    """Holds the reasons of a plan, one for each field, in the order in which they were settled."""

    def __init__(self) -> None:
        self.rows: list[Reason] = []

    def settle(self, field: str, declared: Any, default: Default) -> Any:
        """Return the declared value, or the default where nothing is declared (None)."""
        if declared is None:
            return self.put(field, default.value, "built-in", default.reason)
        return self.put(field, declared, DECLARED, AS_DECLARED)

    def put(self, field: str, value: Any, origin: Origin, reason: str) -> Any:
        """Record a value settled already."""
        shown = list(value) if isinstance(value, tuple) else value
        self.rows.append(Reason(field, shown, origin, reason))
        return shown

    def add(self, reason: Reason) -> Any:
        """Add a reason that is known whole; return its value."""
        self.rows.append(reason)
        return reason.value

    def revise(self, field: str, value: Any, reason: str) -> None:
        """Put another value for a field that was settled, with the reason before it kept."""
        before = self.of(field)
        said = f"{reason}; else {before.value} ({before.reason})"
        self._put_in_place(replace(before, value=value, reason=said))

    def explain(self, field: str, origin: Origin, reason: str) -> None:
        """Put another origin and reason for a field that was settled."""
        self._put_in_place(replace(self.of(field), origin=origin, reason=reason))

    def of(self, field: str) -> Reason:
        return next(row for row in self.rows if row.field == field)

    def _put_in_place(self, changed: Reason) -> None:
        self.rows = [changed if row.field == changed.field else row for row in self.rows]
