"""Every value that a plan settles, with where it came from and why."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

Origin = Literal["declaration", "built-in", "host"]
AS_DECLARED = "as declared"


class Default(NamedTuple):
    """A value that holds unless another is declared, and why."""

    value: Any
    reason: str


class Reasons:
    """The rows of plan.json's `reasons`: field, value, origin, reason."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def settle(self, field: str, declared: Any, default: Default) -> Any:
        """The declared value, or the default where nothing is declared (None)."""
        if declared is None:
            return self.put(field, default.value, "built-in", default.reason)
        return self.put(field, declared, "declaration", AS_DECLARED)

    def put(self, field: str, value: Any, origin: Origin, reason: str) -> Any:
        """A value settled already."""
        shown = list(value) if isinstance(value, tuple) else value
        self.rows.append({"field": field, "value": shown, "origin": origin, "reason": reason})
        return shown

    def revise(self, field: str, value: Any, reason: str) -> None:
        """Another value for a field that was settled, with the reason before it kept."""
        row = next(row for row in self.rows if row["field"] == field)
        row.update(value=value, reason=f"{reason}; else {row['value']} ({row['reason']})")
