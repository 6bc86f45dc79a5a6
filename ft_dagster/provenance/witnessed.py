"""Says what a witness of release logs is asked and told; `store.witness` has those of a project."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

Logs = Mapping[str, tuple[Sequence[str], str]]  # by prefix: the sha256 of each entry, and the log's place


class Seen(NamedTuple):
    """Is how far a witness knows a release log: its number of entries, and the sha256 of the newest."""

    entries: int
    sha256: str


class LogWitness(Protocol):
    """Knows, outside the store, how far each release log is."""

    def refuse_behind(self, logs: Logs, *, begins: bool = False) -> None:
        """Raises UserError for a log that has less than was told, or another; and where nothing was told yet,
        unless it `begins` now.
        """

    def tell(self, logs: Mapping[str, Seen]) -> dict[str, bool]:
        """Tell how far logs are now, by prefix; return which witness was reached, by its address."""
        ...

    def proofs(self, prefix: str) -> dict[str, dict[str, Any]]:
        """Return by witness what proves how far it knows a log."""
        ...

    def faults(self, logs: Logs) -> list[str]:
        """Return what does not hold of the logs, a line each."""
        ...
