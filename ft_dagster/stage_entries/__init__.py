"""Holds one entry for each stage, in the order in which they are made; other lists derive from these."""

from __future__ import annotations

from collections.abc import Callable

from ft_dagster.stage_entries.entry import DeviceUse, Judged, StageEntry

__all__ = [
    "ANCESTOR_OVERLAP",
    "ANSWERS_OF",
    "BASE_EVALUATION",
    "BASE_MODEL",
    "BASE_REFUSALS",
    "BASE_TEXT",
    "CANDIDATE_EVALUATION",
    "DECLARATION",
    "ENTRIES",
    "EVALUATION",
    "EVALUATION_TEXTS",
    "FINE_TUNED_MODEL",
    "FORMER_STAGES",
    "GENERAL_CORPUS",
    "GENERAL_SCORES",
    "MODEL_EXPORT",
    "PROBE",
    "PRODUCTION_EVALUATION",
    "PROMPTED_BASE",
    "REFUSALS",
    "RELEASE",
    "RELEASE_EVALUATION",
    "TASK_DATASET",
    "TRAINING_MIXTURE",
    "TRAINING_PLAN",
    "UNSAID_TOKENS",
    "DeviceUse",
    "Judged",
    "StageEntry",
    "made_before",
    "names_of",
    "version_of",
]

ANSWERS_OF = "answers_of"  # a figure: the key of the evaluation whose answers were judged again
DECLARATION = StageEntry("declaration", 1, reads_sources=True, outlives="payload/declaration.json")
BASE_MODEL = StageEntry(
    "base_model",
    1,
    shared=True,
    outlives="payload/base.json",
    shown=("{parameters:,} weights",),
    counted=("parameters", "weight"),
)
GENERAL_CORPUS = StageEntry(
    "general_corpus",
    3,
    shared=True,
    reads_sources=True,
    has_records=True,
    shown=("{documents[train]:,} texts",),
)
BASE_TEXT = StageEntry(
    "base_text",
    1,
    on_demand=True,
    shared=True,
    has_records=True,
    device_use="preparation",
    given_as="general_corpus",
)
EVALUATION_TEXTS = StageEntry("evaluation_texts", 3, on_demand=True, shared=True)
UNSAID_TOKENS = StageEntry("unsaid_tokens", 2, on_demand=True)
TASK_DATASET = StageEntry(
    "task_dataset",
    4,
    has_records=True,
    shown=("{rows[train]:,} train", "{rows[validation]:,} validation", "{rows[test]:,} test"),
    counted=("rows", "row"),
)
TRAINING_MIXTURE = StageEntry(
    "training_mixture",
    5,
    has_records=True,
    asks_for_devices=True,  # where the base writes what is mixed in
    shown=("{splits[train][examples]:,} examples", "{splits[train][trained_tokens]:,} tokens trained on"),
    counted=("splits[train][examples]", "example"),
)
ANCESTOR_OVERLAP = StageEntry(
    "ancestor_overlap", 1, on_demand=True, shown=("{left_out[own]:,} test rows left out",)
)
PROMPTED_BASE = StageEntry(
    "prompted_base", 1, on_demand=True, device_use="evaluation", judges="base", shown=("{asked:,} questions",)
)
PROBE = StageEntry("probe", 5, on_demand=True, device_use="preparation")
TRAINING_PLAN = StageEntry(
    "training_plan", 10, asks_for_devices=True, shown=("{method[name]}", "{steps:,} steps estimated")
)
FINE_TUNED_MODEL = StageEntry(
    "fine_tuned_model",
    3,
    device_use="training",
    shown=("{steps:,} steps in {training_seconds:duration}",),
    counted=("steps", "step"),
)
GENERAL_SCORES = StageEntry(
    "general_scores", 7, on_demand=True, shared=True, device_use="evaluation", judges="base"
)
BASE_EVALUATION = StageEntry(
    "base_evaluation", 8, device_use="evaluation", judges="base", shown=("{questions:,} questions",)
)
BASE_REFUSALS = StageEntry(
    "base_refusal_answers", 1, on_demand=True, shared=True, device_use="evaluation", judges="base"
)
REFUSALS = StageEntry("refusal_answers", 1, on_demand=True, device_use="evaluation", judges="model")
EVALUATION = StageEntry(
    "evaluation",
    8,
    device_use="evaluation",
    judges="model",
    shown=("{questions:,} questions",),
    counted=("questions", "question"),
)
PRODUCTION_EVALUATION = StageEntry(
    "production_evaluation", 5, on_demand=True, device_use="evaluation", judges="production"
)
CANDIDATE_EVALUATION = StageEntry(
    "candidate_evaluation", 4, on_demand=True, device_use="evaluation", judges="production"
)
MODEL_EXPORT = StageEntry("model_export", 4, device_use="export", shown=("{format}",), counted=("format", ""))
RELEASE_EVALUATION = StageEntry("release_evaluation", 1, asks_for_devices=True)
RELEASE = StageEntry("release", 1)

ENTRIES = {
    entry.name: entry
    for entry in (
        *(DECLARATION, BASE_MODEL, GENERAL_CORPUS, BASE_TEXT, EVALUATION_TEXTS, UNSAID_TOKENS),
        *(TASK_DATASET, TRAINING_MIXTURE, ANCESTOR_OVERLAP, PROMPTED_BASE, PROBE),
        *(TRAINING_PLAN, FINE_TUNED_MODEL),
        *(GENERAL_SCORES, BASE_EVALUATION, BASE_REFUSALS, REFUSALS, EVALUATION),
        *(PRODUCTION_EVALUATION, CANDIDATE_EVALUATION),
        *(MODEL_EXPORT, RELEASE_EVALUATION, RELEASE),
    )
}
FORMER_STAGES = ("prior", "version_before")  # which stores may hold, and nothing reads any more


def version_of(stage: str) -> int:
    """Return the version of a stage's meaning as it is now."""
    return ENTRIES[stage].version


def names_of(condition: Callable[[StageEntry], bool]) -> tuple[str, ...]:
    """Return the names of the stages that the condition holds for, in their order."""
    return tuple(entry.name for entry in ENTRIES.values() if condition(entry))


def made_before(stage: StageEntry) -> tuple[StageEntry, ...]:
    """Return the stages that are made before this one, in their order."""
    entries = tuple(ENTRIES.values())
    return entries[: entries.index(stage)]
