"""Writes a file of an artifact's evidence over, under an amendment that says so before it happens."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from ft_dagster.audit.audit import Audit
from ft_dagster.store import Artifact
from ft_dagster.store.amendments import Amendment, Change, Kind, amend, amendments


def write_over(audit: Audit, artifact: Artifact, name: str, content: Path, kind: Kind) -> None:
    """Write the amendment, unless it stands, then the file. `name`: below the attempt's folder. Raises
    UserError where amendments need a signature, and this process has no key for them.
    """
    store, file = audit.store, audit.stored.file(artifact, name)
    written = content.read_bytes()
    change = Change(
        name,
        hashlib.sha256(file.read_bytes()).hexdigest(),
        hashlib.sha256(written).hexdigest(),
        len(written),
    )
    there = amendments(store, artifact.place.prefix, artifact.place.path).values()
    if not any(change in one.changes and one.manifest == artifact.manifest for one in there):
        at = datetime.now(UTC).isoformat(timespec="seconds")
        amendment = Amendment(kind, artifact.manifest, at, (change,))
        amend(store, artifact.place.prefix, artifact.place.path, amendment)
    store.upload(content, f"{artifact.path}/{name}")
    if store.remote:  # the copy in this host's cache has what was taken out
        with suppress(FileNotFoundError):
            file.unlink()
    audit.stored.amended_anew(artifact)
