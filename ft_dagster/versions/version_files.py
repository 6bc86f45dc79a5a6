"""Opens a version with all that made it, where a report reads it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.lineage.entry import RELEASE, ReleaseEntry
from ft_dagster.lineage.release import export_of, history
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.settings import Settings
from ft_dagster.spec import Declarations, VariantKey
from ft_dagster.stage_entries import EVALUATION, FINE_TUNED_MODEL
from ft_dagster.stages.judging.export_lineage import MadeOf, made_of
from ft_dagster.store import Artifact, Store, read_head, unreachable

UNREADABLE = (UserError, OSError, KeyError, ValueError)  # what reading for a report may end in
NUMBER = re.compile(r"[0-9]{1,9}")


class NamedVersion(NamedTuple):
    """Names a version of a variant; None: the newest."""

    key: VariantKey
    version: int | None = None

    @classmethod
    def parse(cls, text: str, of: VariantKey) -> NamedVersion:
        """Read `2`, a version of the variant `of`; `acme.support`; `acme.support@2`. Raises UserError."""
        variant, at, version = text.partition("@")
        if not at and NUMBER.fullmatch(text):
            return cls(of, int(text))
        key = VariantKey.parse(variant)
        if not at:
            return cls(key)
        if not NUMBER.fullmatch(version):
            raise UserError("not a version", value=text, fix=f"Name it as {key}@2, or {key} for its newest")
        return cls(key, int(version))


class VersionFiles(NamedTuple):
    """Holds a version and its artifacts. `past`: the release log of its variant; `entry`: its release, None
    of what was not released.
    """

    key: VariantKey
    store: Store
    cache: Path
    made: MadeOf
    past: Sequence[ReleaseEntry]
    entry: ReleaseEntry | None

    @property
    def name(self) -> str:
        return str(self.key) if self.entry is None else f"{self.key} version {self.entry.version}"

    @property
    def short_name(self) -> str:
        """Return the version's name among versions of its variant."""
        return "not released" if self.entry is None else f"version {self.entry.version}"

    @property
    def verdict(self) -> Verdict:
        return Verdict.from_json(self.figures(EVALUATION.name)["verdict"])

    def artifact(self, stage: str) -> Artifact:
        """Raises UserError where it is gone."""
        if stage not in self.made.artifacts:
            raise UserError(f"the {stage} that it was made from is gone", fix="Restore it from a backup")
        return self.made.artifacts[stage]

    def figures(self, stage: str) -> dict[str, Any]:
        return self.artifact(stage).figures

    def payload(self, stage: str) -> Path:
        return self.artifact(stage).folder(self.store, self.cache) / "payload"

    def evidence(self, stage: str) -> Path:
        return self.artifact(stage).folder(self.store, self.cache) / "evidence"

    def has(self, stage: str) -> bool:
        return stage in self.made.artifacts

    def training_log(self) -> list[dict[str, Any]]:
        """Return the lines of log.jsonl."""
        lines = (self.evidence(FINE_TUNED_MODEL.name) / "log.jsonl").read_text("utf-8").splitlines()
        return [json.loads(line) for line in lines]


def open_version(settings: Settings, key: VariantKey, version: int | None = None) -> VersionFiles:
    """Open a version (None: the newest; of a variant without any, its newest evaluation). Raises UserError
    where there is none.
    """
    store, prefix, cache = settings.open_store(), key.prefix, settings.cache_folder
    past = history(store, prefix)
    if past or version is not None:
        export = export_of(store, prefix, version, cache)
        entry = _entry(past, export.digest, version)
        return VersionFiles(key, store, cache, made_of(store, prefix, export, entry), past, entry)
    judged = read_head(store, prefix, EVALUATION.name)
    if judged is None:
        Declarations(settings.project).file(key)  # raises where it is not declared either
        raise UserError(
            f"{key} has neither a version nor an evaluation", fix=f"`ft-dagster run {key}` makes them"
        )
    return VersionFiles(key, store, cache, made_of(store, prefix, judged), past, None)


def why_not(error: Exception) -> str:
    """Return what a page says in place of what could not be made of the store; see `told`."""
    return f"could not be made: {told(error)}"


def told(error: Exception) -> str:
    """Return a line that names the damage. Raises the error again where the storage is out of reach."""
    if unreachable(error):
        raise error
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def _entry(past: Sequence[ReleaseEntry], export: str, version: int | None) -> ReleaseEntry:
    """Return the release of a version (None: the newest) with this export, which others may have too."""
    found = [e for e in past if e.export == export and e.action == RELEASE and version in (None, e.version)]
    return found[-1]
