"""Holds what another model judged of the answers to refuse beside what the matcher says, where such a file is
declared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ft_dagster.gate.refusals.judgements import agreements, judgements_file
from ft_dagster.gate.refusals.refusals import FILE, KINDS, Terms, read_pairs
from ft_dagster.report.figures import percent
from ft_dagster.settings import Settings
from ft_dagster.spec import VariantKey, VariantSpec
from ft_dagster.stage_entries import FINE_TUNED_MODEL
from ft_dagster.store import Artifact


def judged_rows(
    settings: Settings, key: VariantKey, spec: VariantSpec, evaluation: Artifact, payload: Path
) -> list[list[Any]]:
    """Return a row for `report.tables.refusals.JUDGED` of each judge and kind; none without a file. Raises
    UserError for one that cannot be read.
    """
    declared = spec.gates.refusals
    if declared is None or declared.judgements is None or not (payload / FILE).is_file():
        return []
    file = judgements_file(declared.judgements, settings.project, key, settings.roots(key.tenant))
    terms, weights = Terms.from_json(evaluation.spec.get("refused")), evaluation.inputs[FINE_TUNED_MODEL.name]
    return [
        [each.judge, KINDS[each.kind], each.judged, percent(each.agreed / each.judged), *each.refused]
        for each in agreements(file, weights, read_pairs(payload), terms.phrases)
    ]
