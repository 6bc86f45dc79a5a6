"""Tells what came of a variant's weights, as sentences of report, pages and commands need it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ft_dagster.errors import UserError
from ft_dagster.lineage.entry import ReleaseEntry
from ft_dagster.lineage.release import history
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.lineage.version_status import status_of, status_of_weights
from ft_dagster.report.changed_answers import ChangedAnswers, changed_in
from ft_dagster.report.sentences.next_step import Result
from ft_dagster.schema_version import stored_as
from ft_dagster.settings import Settings
from ft_dagster.spec import VariantKey, VariantSpec
from ft_dagster.stage_entries import (
    BASE_EVALUATION,
    DECLARATION,
    EVALUATION,
    FINE_TUNED_MODEL,
    TRAINING_MIXTURE,
)
from ft_dagster.stages import declaration
from ft_dagster.store import Artifact, Store, read_head
from ft_dagster.versions.version_artifacts import newest_artifacts


def result_of(
    settings: Settings,
    key: VariantKey,
    judged: Artifact | None,
    past: Sequence[ReleaseEntry],
    spec: VariantSpec | None,
    *,
    entry: ReleaseEntry | None = None,
) -> Result:
    """Return what came of an evaluation (None: there is none). `spec`: the declaration, which says who
    approves; `entry`: the release, where one of several of the same weights is meant.
    """
    verdict = judged.figures.get("verdict") if judged else None
    weights = judged.inputs.get(FINE_TUNED_MODEL.name) if judged else None
    return Result(
        str(key),
        Verdict.from_json(verdict) if verdict else None,
        None if spec is None else spec.evaluation.limit,
        status_of_weights(past, str(weights)) if entry is None else status_of(past, entry),
        None if spec is None else settings.policies().of(key.tenant).approvers_of(spec),
    )


def newest_result(settings: Settings, key: VariantKey) -> Result | None:
    """Return what came of a variant's newest evaluation; None where there is none."""
    store = settings.open_store()
    judged = read_head(store, key.prefix, EVALUATION.name)
    if judged is None:
        return None
    return result_of(settings, key, judged, history(store, key.prefix), frozen_spec(store, key))


def frozen_spec(store: Store, key: VariantKey) -> VariantSpec:
    """Return the declaration as the variant froze it last. Raises UserError where there is none."""
    frozen = read_head(store, key.prefix, DECLARATION.name)
    if frozen is None:
        raise UserError(f"{key} has no declaration in the store", fix="Materialize declaration")
    content = json.loads(frozen.read(store, f"payload/{declaration.FILE}"))
    return stored_as(VariantSpec, content["spec"], file=declaration.FILE)


def rows_may_be_shown(made_of: Mapping[str, Artifact], spec: VariantSpec) -> bool:
    """Say whether the declaration lets a tenant's rows be shown, and did when its mixture was made.
    `made_of`: the artifacts of a version, by stage.
    """
    mixture = made_of.get(TRAINING_MIXTURE.name)
    data = {} if mixture is None else mixture.spec.get("spec", {}).get("data", {})
    return spec.data.samples == "metadata" == data.get("samples")


def shown_answers(
    store: Store, cache: Path, made_of: Mapping[str, Artifact], spec: VariantSpec
) -> ChangedAnswers | None:
    """Return a few answers of base and tuned model; None where no task of its own was judged, or the base's
    answers are gone.
    """
    if any(stage.name not in made_of for stage in (BASE_EVALUATION, EVALUATION)):
        return None
    base, tuned = (made_of[stage.name] for stage in (BASE_EVALUATION, EVALUATION))
    folders = [each.folder(store, cache) for each in (base, tuned)]
    return changed_in(
        tuned.figures,
        [(folder / "payload", folder / "evidence") for folder in folders],
        own_rows=rows_may_be_shown(made_of, spec),
    )


def newest_answers(settings: Settings, key: VariantKey) -> ChangedAnswers | None:
    """Return a few answers of the variant's newest evaluation."""
    store = settings.open_store()
    made_of = newest_artifacts(store, key.prefix, EVALUATION.name).artifacts
    if not made_of:
        return None
    return shown_answers(store, settings.cache_folder, made_of, frozen_spec(store, key))
