"""What a stage's `build` works with: folders and programs, and nothing of the declaration."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from ft_dagster.errors import UserError
from ft_dagster.lineage.tries import record_try
from ft_dagster.provenance.record_keys import SHARED_OWNER, RecordKey, keys_of
from ft_dagster.roots import Roots
from ft_dagster.stages.versions import is_of_now
from ft_dagster.store import Artifact, Attempt, Place, find_artifact
from ft_dagster.store.committed import all_committed
from ft_dagster.store.removal import keep

if TYPE_CHECKING:
    from ft_dagster.stages.workspace import Workspace


@dataclass(frozen=True)
class Hands:
    """What a stage's `build` works with: folders and programs, and nothing of the declaration."""

    _workspace: Workspace
    # Folders of programs, and what they left in the store, until what they made is committed.
    finished: dict[Path, str] = field(default_factory=dict)

    @property
    def variant(self) -> str:
        return str(self._workspace.key)

    @property
    def project(self) -> Path:
        """Where paths of the declaration are relative to."""
        return self._workspace.project

    @property
    def cache(self) -> Path:
        return self._workspace.cache

    @property
    def declared_in(self) -> Path:
        """The variant's file, for errors to name."""
        return self._workspace.declared_in

    @property
    def roots(self) -> Roots:
        """What the declaration may reach."""
        return self._workspace.roots

    @property
    def record_key(self) -> RecordKey:
        """The tenant's key of record trees, made on first use."""
        return keys_of(self._workspace.settings.keys_folder, self._workspace.key.tenant).current

    @property
    def shared_key(self) -> RecordKey:
        """The key of record trees of what all tenants share."""
        return keys_of(self._workspace.settings.keys_folder, SHARED_OWNER).current

    @property
    def run_id(self) -> str:
        return self._workspace.run.id

    def say(self, line: str) -> None:
        self._workspace.run.say(line)

    def payload(self, artifact: Artifact) -> Path:
        return self._workspace.payload(artifact)

    def evidence(self, artifact: Artifact) -> Path:
        return self._workspace.evidence(artifact)

    def base_folder(self, base: Artifact) -> Path:
        return self._workspace.base_folder(base)

    def base_files(self, base: Artifact) -> dict[str, str]:
        """sha256 of each file of the base that loading reads, by its path below `base_folder`."""
        return self._workspace.base_files(base)

    def stored(self, stage: str, wanted: Callable[[Artifact], bool]) -> Iterator[Artifact]:
        """What stands of a stage of this variant's, as it is made today, and is `wanted`, the newest first.
        Each is kept from retention and its bytes are hashed again; what is damaged is left out.
        """
        store, prefix = self._workspace.store, self._workspace.prefix
        places = [Place(prefix, stage, key) for key in store.names(f"{prefix}/{stage}")]
        known = [one for one in all_committed(store, places) if isinstance(one, Artifact) and is_of_now(one)]
        for each in sorted(known, key=lambda one: str(one.predicate["created"]), reverse=True):
            with suppress(UserError):
                found = find_artifact(store, each.place) if wanted(each) else None
                if found is not None and keep(store, found):
                    self._workspace.verify(found)
                    yield found

    def record_try(self, weights: Artifact, questions: str, ordinal: int) -> None:
        """Record that the weights are put to questions (by their digest), before they are."""
        record_try(self._workspace.store, self._workspace.prefix, weights.digest, questions, ordinal)

    def run(
        self,
        program: str,
        attempt: Attempt,
        request: Callable[[Path], BaseModel],
        *,
        leased: bool = True,
        into: Path | None = None,
    ) -> dict[str, Any]:
        """Run a program of this package and take over what it wrote; returns its figures.

        `request(output)` gives what it is asked, to be answered in the folder `output`. The run folder stays
        until the artifact is committed, so that a training goes on from its checkpoints. `into`: what
        takes payload and evidence instead of the attempt's own folder.
        """
        part = "" if into is None else f".{into.name}"
        run_dir, left_at = (
            self._workspace.run_dir(attempt, part),
            self._workspace.left_by_nodes(attempt, part),
        )
        output = run_dir / "output"
        output.mkdir(parents=True, exist_ok=True)
        self._workspace.recall(program, run_dir, left_at)
        result = self._workspace.run_program(
            program, run_dir, request(output), leased=leased, left_at=left_at
        )
        (output / "result.json").unlink(missing_ok=True)  # what is taken here is not there a second time
        for part in ("payload", "evidence"):
            target = (into or attempt.folder) / part
            target.mkdir(parents=True, exist_ok=True)
            for file in (output / part).glob("*"):
                if part == "payload":  # made again from a checkpoint; a log is not
                    shutil.move(file, target / file.name)
                else:
                    (shutil.copytree if file.is_dir() else shutil.copy2)(file, target / file.name)
        self.finished[run_dir] = left_at
        figures: dict[str, Any] = result["figures"]
        return figures
