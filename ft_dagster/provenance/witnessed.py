"""Says what a witness of release logs is asked and told; `store.witness` has those of a project."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

Logs = Mapping[str, tuple[Sequence[str], str]]  # by prefix: the sha256 of each entry, and the log's place


class Seen(NamedTuple):
    """Is how far a witness knows a release log: its number of entries, and the sha256 of the newest."""

    entries: int
    sha256: str


class Position(NamedTuple):
    """Names a checkpoint of a witness: its number there, and the sha256 of the statement in it."""

    number: int
    sha256: str


class Listed(NamedTuple):
    """Describes a checkpoint. `witness`: its address; `at`, `by`: when, and by which key, it says that it was
    signed; `logs`: how many it knows.
    """

    witness: str
    position: Position
    at: datetime
    by: str
    logs: int


class LogWitness(Protocol):
    """Knows, outside the store, how far each release log is."""

    def name_of(self, prefix: str) -> str:
        """Return the name under which witnesses know a log."""
        ...

    def seen_at(self, position: Position) -> Mapping[str, Seen]:
        """Return how far each log was at a checkpoint, by its name; nothing where no witness has that."""
        ...

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

    def checkpoints(self, last: int) -> Iterator[Listed]:
        """Yield the newest checkpoints of each witness, the last first."""
        ...

    def faults(self, logs: Logs, unread: Iterable[str] = ()) -> list[str]:
        """Return what does not hold of the logs, a line each; of those `unread`, that they are there."""
        ...
