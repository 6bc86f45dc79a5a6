"""Sums up one variant's newest state in a row, read from the store alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ft_dagster.data.mixture.mixture_figures import MixtureFigures
from ft_dagster.gate.prompted import Prompted
from ft_dagster.lineage.release import production
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.models.derived import parents_moved
from ft_dagster.report.tables.variant_row import VariantRow
from ft_dagster.spec import VariantKey
from ft_dagster.stage_entries import (
    BASE_MODEL,
    ENTRIES,
    EVALUATION,
    FINE_TUNED_MODEL,
    MODEL_EXPORT,
    TASK_DATASET,
    TRAINING_MIXTURE,
    TRAINING_PLAN,
)
from ft_dagster.stages.chain import CHAIN
from ft_dagster.store import Artifact, Store, read_head
from ft_dagster.training.training_figures import TrainingFigures
from ft_dagster.workspace.past import answers_with_examples
from ft_dagster.workspace.stage_version import is_older

STAGES = tuple(stage.name for stage in CHAIN)
Heads = Mapping[str, Artifact | None]  # of each stage


class VariantSummary(NamedTuple):
    """Holds a variant's row, the digest of each stage's newest artifact, None where there is none, and those
    artifacts that have records.
    """

    row: VariantRow
    stages: dict[str, str | None]
    holders: tuple[Artifact, ...] = ()


def variant_row(store: Store, key: VariantKey) -> VariantRow:
    """Return the variant's row."""
    return variant_summary(store, key).row


def variant_summary(store: Store, key: VariantKey) -> VariantSummary:
    """Read each head once, and return the row with the digests. Raises UserError for damage."""
    heads = {stage: read_head(store, key.prefix, stage) for stage in STAGES}
    digests = {stage: None if head is None else head.digest for stage, head in heads.items()}
    holders = tuple(head for stage, head in heads.items() if head is not None and ENTRIES[stage].has_records)
    return VariantSummary(_row(store, key, heads), digests, holders)


def with_examples_now(store: Store, key: VariantKey) -> Iterator[Prompted]:
    """Return what the variant's newest base was asked with examples of its newest rows in the prompt."""
    base, dataset = (read_head(store, key.prefix, stage.name) for stage in (BASE_MODEL, TASK_DATASET))
    if base is not None and dataset is not None:
        for each in answers_with_examples(store, key.prefix, base, dataset):
            yield Prompted.from_json(each.figures)


def _row(store: Store, key: VariantKey, heads: Heads) -> VariantRow:
    dataset, plan, judged = (
        _figures(heads[s]) for s in (TASK_DATASET.name, TRAINING_PLAN.name, EVALUATION.name)
    )
    mixed, trained = heads[TRAINING_MIXTURE.name], heads[FINE_TUNED_MODEL.name]
    export = heads[MODEL_EXPORT.name]
    mixture = None if mixed is None else MixtureFigures.of(mixed)
    tuned = None if trained is None else TrainingFigures.of(trained)
    released = production(store, key.prefix)
    return VariantRow(
        variant=str(key),
        method=plan.get("method", {}).get("name"),
        rows_kept=sum(dataset["rows"].values()) if dataset else None,
        rows_dropped=sum(dataset["dropped"].values()) if dataset else None,
        general_share=None if mixture is None else mixture.general_share.realized,
        trained_tokens=None if mixture is None else mixture.train.trained_tokens,
        validation_loss=(None, None)
        if tuned is None
        else (tuned.validation_loss_first, tuned.validation_loss_best),
        verdict=Verdict.from_json(judged["verdict"]) if "verdict" in judged else None,
        export=None if export is None else export.figures.get("format"),
        size_bytes=None if export is None else export.size,
        digest=None if export is None else export.digest,
        version=None if released is None else released.version,
        stale=_stale(store, key, heads[BASE_MODEL.name]),
        older_stages=tuple(_older_stages(heads)),
    )


def _older_stages(heads: Heads) -> Iterator[str]:
    """Return the stages whose newest artifact was made by an older version of the stage, or from one that is
    no more.

    Their releases stay released. Only a run makes them again, and somebody decides to start one.
    """
    for stage, head in heads.items():
        if head is not None and is_older(head):
            yield stage


def _stale(store: Store, key: VariantKey, base: Artifact | None) -> str | None:
    """Say why the variant's newest model is out of date by its parent's releases."""
    return next((cause.words for cause in parents_moved(store, key, base)), None)


def _figures(head: Artifact | None) -> dict[str, Any]:
    return {} if head is None else head.figures
