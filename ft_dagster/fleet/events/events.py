"""Makes the events that are told of a variant, each with an id by which repeats are dropped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal

from ft_dagster.lineage.entry import PROMOTE, RELEASE, ReleaseEntry
from ft_dagster.provenance.digest import sha256_json
from ft_dagster.spec import VariantKey
from ft_dagster.strict_json import dumps

SCHEMA_VERSION = 1
EventKind = Literal[
    "released",
    "approval_waiting",
    "rolled_back",
    "gate_failed",
    "undecided",
    "run_failed",
    "parked",
    "declaration_broken",
    "erasure_due",
]


@dataclass(frozen=True)
class FleetEvent:
    """Tells what happened to a variant. `at`: when it happened, ISO 8601 in UTC. `happened`: what tells it
    from others of its kind and variant: an entry of the release log, a run. `sentence`: never holds a
    tenant's rows. `link`: to its run, where the UI's address is known.
    """

    kind: EventKind
    variant: str
    at: str
    happened: str
    sentence: str
    version: int | None = None
    link: str | None = None

    @property
    def id(self) -> str:
        """Return the id, the same for what is told again."""
        return sha256_json([self.kind, self.variant, self.happened])[:32]

    @property
    def tenant(self) -> str:
        return VariantKey.parse(self.variant).tenant

    def to_json(self) -> dict[str, object]:
        content = {name: value for name, value in asdict(self).items() if name != "happened"}
        return {"schema_version": SCHEMA_VERSION, "id": self.id, "tenant": self.tenant, **content}

    @property
    def body(self) -> bytes:
        """Return what targets get, byte for byte the same each time."""
        return dumps(self.to_json(), sort_keys=True).encode()


def released_events(entries: Sequence[ReleaseEntry], ui: str | None) -> Iterator[FleetEvent]:
    """Yield the events of entries of a release log."""
    for entry in entries:
        yield FleetEvent(
            kind=_kind(entry),
            variant=entry.variant,
            at=entry.at,
            happened=entry.entry or sha256_json(entry.to_json()),
            sentence=_sentence(entry),
            version=entry.version,
            link=run_link(ui, entry.run_id),
        )


def _kind(entry: ReleaseEntry) -> EventKind:
    if entry.action == RELEASE:
        return "released" if entry.production == entry.version else "approval_waiting"
    return "released" if entry.action == PROMOTE else "rolled_back"


def _sentence(entry: ReleaseEntry) -> str:
    if entry.action == RELEASE:
        if entry.production == entry.version:
            return f"version {entry.version} passed its gate and is in production"
        served = "none is" if entry.production is None else f"version {entry.production} is"
        return f"version {entry.version} passed its gate and waits for approval; {served} in production"
    if entry.action == PROMOTE:
        return f"version {entry.version} was put into production by {entry.by}"
    if entry.production is None:
        return f"version {entry.version} was taken out of production by {entry.by}; none is served"
    return f"version {entry.version} is in production again, in place of version {entry.from_version}"


def run_link(ui: str | None, run_id: str | None) -> str | None:
    """Return where a run is shown; None where the UI's address is not known."""
    return None if ui is None or run_id is None else f"{ui.rstrip('/')}/runs/{run_id}"


def moment_of(time: datetime) -> str:
    """Return a moment as an event says it."""
    return time.astimezone(UTC).isoformat(timespec="seconds")
