"""Gives a stage's `build` what it works with: folders and programs, and nothing of the declaration or of the
store.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from ft_dagster.lineage.graph import StoredGraph, input_of
from ft_dagster.lineage.reserves import Reserve, reserve_of
from ft_dagster.lineage.tries import record_try
from ft_dagster.models.derived import (
    added_token_ids,
    added_tokens,
    new_token_ids_of,
    parent_artifact,
    started_from,
)
from ft_dagster.program import TRAINING
from ft_dagster.records.record_keys import SHARED_OWNER, EvidenceKeys, OwnerKeys, keys_of
from ft_dagster.records.refusals import refused_of
from ft_dagster.roots import Roots
from ft_dagster.spec import VariantKey
from ft_dagster.stage_entries import GENERAL_CORPUS, MODEL_EXPORT
from ft_dagster.store import SHARED, Artifact, Attempt
from ft_dagster.store.training_claim import TrainingClaim
from ft_dagster.training.contract import ParentAdapter
from ft_dagster.workspace.judged_once import judged_by
from ft_dagster.workspace.past import Past

if TYPE_CHECKING:
    from ft_dagster.workspace.workspace import Workspace


class BuildContext:
    """Gives a stage's `build` folders, files of artifacts and programs, and what was made before. `asks`: the
    questions that it may put to the past; None: all of them.
    """

    def __init__(self, workspace: Workspace, asks: tuple[str, ...] | None = None) -> None:
        self._workspace = workspace
        self._asks = asks
        # Folders of programs, and what they left in the store, until what they made is committed.
        self.finished: dict[Path, str] = {}
        self.claim: TrainingClaim | None = None  # of who trains

    @property
    def key(self) -> VariantKey:
        return self._workspace.key

    @property
    def variant(self) -> str:
        return str(self.key)

    @property
    def past(self) -> Past:
        """Return what was made before. A question that the stage does not list raises UnlistedQuestion."""
        return Past(self._workspace.store, self.key, self.cache, self.declared_in, self._asks)

    @property
    def project(self) -> Path:
        """Return the folder that paths of the declaration are relative to."""
        return self._workspace.project

    @property
    def cache(self) -> Path:
        return self._workspace.cache

    @property
    def bases_kept_in(self) -> Path:
        """Return where trainings keep quantized bases."""
        return self._workspace.bases_kept_in

    @property
    def declared_in(self) -> Path:
        """Return the variant's file, for errors to name."""
        return self._workspace.declared_in

    @property
    def roots(self) -> Roots:
        """Return what the declaration may reach."""
        return self._workspace.roots

    @property
    def resume_points(self) -> int:
        """Return how many states of a training's first pass are kept with its model."""
        return self._workspace.settings.retention.of(self.key.tenant).resume_points

    @property
    def erased(self) -> Callable[[bytes], str | None]:
        """Return what says when the erasure of one of the tenant's records was asked for; None of others."""
        keys = self._workspace.settings.keys_folder
        return refused_of(self._workspace.store, keys, self.key.tenant).since

    @property
    def record_keys(self) -> EvidenceKeys:
        """Return the keys by which the tenant's record evidence is written, made on first use."""
        return EvidenceKeys(self.keys_of_tenant.current, self.shared_keys.own)

    @property
    def shared_keys(self) -> EvidenceKeys:
        """Return the same, of what all tenants share."""
        key = keys_of(self._workspace.settings.keys_folder, SHARED_OWNER).current
        return EvidenceKeys(key, key)

    @property
    def keys_of_tenant(self) -> OwnerKeys:
        """Return all keys of the tenant's record trees."""
        return keys_of(self._workspace.settings.keys_folder, self._workspace.key.tenant)

    @property
    def run_id(self) -> str:
        return self._workspace.run.id

    def say(self, line: str) -> None:
        self._workspace.run.say(line)

    def payload(self, artifact: Artifact) -> Path:
        return self._workspace.payload(artifact)

    def evidence(self, artifact: Artifact) -> Path:
        return self._workspace.evidence(artifact)

    def corpus_of(self, mixture: Artifact) -> Artifact | None:
        """Return the general corpus that a mixture was made of; None where it is gone."""
        return input_of(StoredGraph(self._workspace.store), mixture, GENERAL_CORPUS.name)

    def verify(self, artifact: Artifact) -> None:
        """Hash all files of an artifact again. Raises UserError."""
        self._workspace.verify(artifact)

    def base_folder(self, base: Artifact) -> Path:
        return self._workspace.base_folder(base)

    def base_files(self, base: Artifact) -> dict[str, str]:
        """Return the sha256 of each file of the base that loading reads, by its path below `base_folder`."""
        return self._workspace.base_files(base)

    def new_token_ids(self, base: Artifact) -> list[int]:
        """Return the rows of the base's vocabulary that were added for this variant, and are to be
        trained.
        """
        return new_token_ids_of(self._workspace.store, base, self.cache)

    def added_token_ids(self, base: Artifact) -> list[int]:
        """Return these rows, and those that were added for the variants whose releases it starts from."""
        return added_token_ids(self._workspace.store, base, self.cache)

    def added_tokens(self, base: Artifact) -> list[str]:
        """Return the tokens added to the base, for this variant or for those whose releases it starts from:
        none to one that all tenants share.
        """
        return [] if base.place.prefix == SHARED else added_tokens(self._workspace.store, base)

    def parent_adapter(self, base: Artifact) -> ParentAdapter | None:
        """Return the adapter that stays frozen beneath the one to be trained; None for a base without one.
        Raises UserError where it is gone.
        """
        parent = started_from(base)
        if parent is None or parent["mode"] != "stack":
            return None
        export = parent_artifact(self._workspace.store, base, MODEL_EXPORT.name)
        return ParentAdapter(adapter=self.payload(export), digest=export.digest)

    def record_try(
        self,
        weights: Artifact,
        questions: str,
        ordinal: int,
        judged: Mapping[str, str],
        sets: int | None = None,
    ) -> Reserve | None:
        """Record that the weights are put to questions (by their digest), before they are. `judged`: see
        `tries.try_of`. Return the set of the test split that is asked, where that is dealt into `sets`.
        """
        store, prefix = self._workspace.store, self._workspace.prefix
        reserve, by = None, judged_by(store, prefix, judged)
        if sets is not None:
            reserve = reserve_of(store, prefix, weights.digest, sets, lambda _: questions, judged=by)
        dealt = None if reserve is None else reserve.dealt
        record_try(store, prefix, weights.digest, questions, ordinal, dealt, by)
        return reserve

    def run(
        self,
        program: str,
        attempt: Attempt,
        request: Callable[[Path], BaseModel],
        *,
        leased: bool = True,
        into: Path | None = None,
    ) -> dict[str, object]:
        """Run a program of this package and take over what it wrote; returns its figures.

        `request(output)` gives what it is asked, to be answered in the folder `output`. The run folder stays
        until the artifact is committed, so that a training goes on from its checkpoints; on several nodes
        each try has an output folder of its own. `into`: what takes payload and evidence instead of the
        attempt's own folder.
        """
        part = "" if into is None else f".{into.name}"
        run_dir, left_at = (
            self._workspace.run_dir(attempt, part),
            self._workspace.left_by_nodes(attempt, part),
        )
        output = run_dir / "output"
        if not output.exists():
            output.unlink(missing_ok=True)  # a link to a try, of which somebody removed that alone
            output.mkdir(parents=True)
        if program == TRAINING:
            self._workspace.recall(run_dir, left_at, request(output))
        if leased:
            output = self._workspace.output_of_try(run_dir)
        result = self._workspace.run_program(
            program, run_dir, request(output), leased=leased, left_at=left_at, claim=self.claim
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
        self.finished[run_dir] = left_at if program == TRAINING else ""
        return result["figures"]
