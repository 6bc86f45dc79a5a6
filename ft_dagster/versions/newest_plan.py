"""Reads the newest plan of a variant from the store."""

from __future__ import annotations

import json

from ft_dagster.errors import UserError
from ft_dagster.planning.estimate import Estimate
from ft_dagster.spec import VariantKey
from ft_dagster.stage_entries import TRAINING_PLAN
from ft_dagster.store import Store, read_head

ESTIMATE = "evidence/estimate.json"  # of a plan


def newest_plan(store: Store, key: VariantKey) -> Estimate | None:
    """Return the estimate of the newest plan: values with their reasons, memory, cost, the ranking. Raises
    UserError for one that cannot be read.
    """
    head = read_head(store, key.prefix, TRAINING_PLAN.name)
    if head is None:
        return None
    if ESTIMATE not in head.files:  # of an earlier version
        return None
    content, file = head.read(store, ESTIMATE), store.uri(f"{head.path}/{ESTIMATE}")
    try:
        return Estimate.from_json(json.loads(content), file=file)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        fix = "Restore it from a backup, or delete the manifest.json above it: the stage is then made again"
        raise UserError(f"not an estimate: {error!r}", file=file, fix=fix) from None
