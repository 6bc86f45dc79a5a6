"""Tells by which version of its stage an artifact was made, and what was usual then."""

from __future__ import annotations

from ft_dagster.spec.data import ShareOf
from ft_dagster.stage_entries import FORMER_STAGES, version_of
from ft_dagster.store import Artifact


def is_of_now(artifact: Artifact) -> bool:
    """Say whether a stage would make it as it did: it keeps its version, and reads no other stages."""
    same_version = artifact.predicate["stage_version"] == version_of(artifact.place.stage)
    return bool(same_version) and former_input(artifact) is None


def is_older(artifact: Artifact) -> bool:
    """Say whether an older project made it: by an earlier version of its stage, or from one that is no
    more.
    """
    earlier = artifact.predicate["stage_version"] < version_of(artifact.place.stage)
    return bool(earlier) or former_input(artifact) is not None


def former_input(artifact: Artifact) -> str | None:
    """Return the stage that is no more from which it was made, if there is one."""
    return next((stage for stage in FORMER_STAGES if stage in artifact.inputs), None)


def usual_share_of(mixture: Artifact) -> ShareOf:
    """Return what `data.general.share_of` was by default when a training_mixture was made."""
    return "trained" if mixture.predicate["stage_version"] <= 3 else "processed"
