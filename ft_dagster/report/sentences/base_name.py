"""Names the base that a model was trained on, as pages and commands say it."""

from __future__ import annotations

from pathlib import PurePath

from ft_dagster.models.base_record import BaseRecord
from ft_dagster.models.derived import started_from
from ft_dagster.store import Artifact, Store


def base_name(store: Store, base: Artifact) -> str:
    """Return the name of a base_model artifact: "SmolLM2-135M-Instruct"; "acme.support v2" of a parent's
    release.
    """
    parent = started_from(base)
    if parent is not None:
        return f"{parent['variant']} v{parent['version']}"
    return PurePath(BaseRecord.stored(store, base).reference).name
