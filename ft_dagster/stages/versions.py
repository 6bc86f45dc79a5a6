"""By which version of its stage an artifact was made, and what was usual then."""

from __future__ import annotations

from ft_dagster.provenance.stage_versions import STAGE_VERSIONS
from ft_dagster.spec.variant import ShareOf
from ft_dagster.store import Artifact


def is_of_now(artifact: Artifact) -> bool:
    """Whether a stage would make it as it did."""
    return bool(artifact.predicate["stage_version"] == STAGE_VERSIONS[artifact.place.stage])


def usual_share_of(mixture: Artifact) -> ShareOf:
    """What `data.general.share_of` was by default when a training_mixture was made."""
    return "trained" if mixture.predicate["stage_version"] <= 3 else "processed"
