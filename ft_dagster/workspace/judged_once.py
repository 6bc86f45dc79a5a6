"""Says by what the answers of a try were judged whose record does not say it: an older version wrote none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ft_dagster.gate.judged_by import scores_digest
from ft_dagster.lineage.graph import made_in
from ft_dagster.lineage.tries import Judged, Try
from ft_dagster.spec.variant import GatesSpec
from ft_dagster.stage_entries import EVALUATION, FINE_TUNED_MODEL
from ft_dagster.store import Artifact, Store

SCORES = "scores"


def judged_by(store: Store, prefix: str, judged: Mapping[str, str]) -> Judged:
    """Return by what answers are judged now, beside what the stored evaluations say of earlier tries."""

    def once(one: Try) -> Mapping[str, str]:
        made = made_in(store, prefix, EVALUATION.name, {FINE_TUNED_MODEL.name: one.weights})
        of_it = [each for each in made if each.spec.get("tries") == one.ordinal]
        first = min(of_it, key=lambda each: str(each.predicate["created"]), default=None)
        if first is None or any(_asked(each) != _asked(first) for each in of_it):
            return {}  # tries of several counts have one name
        return _scores_of(first)

    return Judged(judged, once)


def _asked(evaluation: Artifact) -> dict[str, Any]:
    """Return what its key says of the questions."""
    key = {**evaluation.inputs, **evaluation.spec}
    return {name: value for name, value in key.items() if name.startswith(("task.", "general."))}


def _scores_of(evaluation: Artifact) -> dict[str, str]:
    try:
        gates = GatesSpec.model_validate(evaluation.spec["spec"]["gates"])
        return {SCORES: scores_digest(gates, evaluation.figures["scores"])}
    except (KeyError, TypeError, ValidationError):  # of a version whose gates were others
        return {}
