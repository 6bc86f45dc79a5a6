"""Checks what an audit reads of the figures of manifests: fields by their types, for each stage.

Figures are in no key, so that a manifest which somebody edited may have any. An audit reads them through
`read`, and what is absent or of another type is one error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, TypeAdapter, ValidationError

from ft_dagster.audit.audit import Audit
from ft_dagster.audit.index.index import Indexed
from ft_dagster.errors import UserError
from ft_dagster.gate.verdict_words import verdict_sentence
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.provenance.manifest import RESTORE, wrong_field
from ft_dagster.stage_entries import (
    BASE_MODEL,
    BASE_TEXT,
    EVALUATION,
    FINE_TUNED_MODEL,
    GENERAL_CORPUS,
    TASK_DATASET,
    TRAINING_MIXTURE,
    TRAINING_PLAN,
)
from ft_dagster.store import Artifact
from ft_dagster.training.training_figures import TrainingFigures

_TRAINING, _VERDICT = TypeAdapter(TrainingFigures), TypeAdapter(Verdict)


def verdict_of(content: Mapping[str, Any]) -> Verdict:
    """Return the verdict that a manifest holds. Raises ValueError for what is none, UserError for a newer
    one.
    """
    try:
        found = _VERDICT.validate_python(asdict(Verdict.from_json(content)))
        verdict_sentence(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"no verdict: {type(error).__name__}: {error}") from None
    return found


def _is_verdict(content: dict[str, object]) -> dict[str, object]:
    verdict_of(content)
    return content


class _Figures(BaseModel):
    """Checks the fields that are read, and leaves what else there is as it is."""

    model_config = ConfigDict(strict=True, extra="ignore", defer_build=True)


class _Dataset(_Figures):
    sources: dict[str, dict[str, int]]


class _Corpus(_Figures):
    sources: dict[str, int]


class _BaseText(_Figures):
    texts: int


class _Tokens(_Figures):
    trained_tokens: int


class _Split(_Tokens):
    by_source: dict[str, _Tokens]


class _Splits(_Figures):
    train: _Split


class _Share(_Figures):
    asked: float
    realized: float


class _Mixture(_Figures):
    splits: _Splits
    general_share: _Share
    dropped: dict[str, int]
    seed: int


class _Parent(_Figures):
    variant: str
    version: int
    mode: str


class _Base(_Figures):
    parent: _Parent | None = None


class _Method(_Figures):
    name: str


class _Plan(_Figures):
    method: _Method | None = None
    training: dict[str, object] = {}
    on: str | None = None


class _Model(_Figures):
    steps: int
    flops: float | None = None
    flops_estimate: float | None = None
    measured_on: dict[str, str] = {}


class _Score(_Figures):
    task: str
    metric: str
    value: float | None


class _Evaluation(_Figures):
    questions: int | None = None
    scores: list[_Score] = []
    verdict: Annotated[dict[str, object], AfterValidator(_is_verdict)]


READ: Mapping[str, type[_Figures]] = {
    TASK_DATASET.name: _Dataset,
    GENERAL_CORPUS.name: _Corpus,
    BASE_TEXT.name: _BaseText,
    TRAINING_MIXTURE.name: _Mixture,
    BASE_MODEL.name: _Base,
    TRAINING_PLAN.name: _Plan,
    FINE_TUNED_MODEL.name: _Model,
    EVALUATION.name: _Evaluation,
}


def read(audit: Audit, indexed: Indexed) -> Artifact:
    """Return what a manifest says, with the figures that are read of its stage. Raises UserError."""
    artifact = audit.artifact(indexed)
    fields = READ.get(indexed.place.stage)
    if fields is not None:
        try:
            fields.model_validate(artifact.figures)
        except ValidationError as error:
            raise wrong_field(error, audit.store.uri(artifact.manifest_path), "figures") from None
    return artifact


def training_figures(audit: Audit, model: Indexed) -> TrainingFigures:
    """Return all figures of a training. Raises UserError."""
    artifact = read(audit, model)
    where = audit.store.uri(artifact.manifest_path)
    try:
        return _TRAINING.validate_python(asdict(TrainingFigures.of(artifact)))
    except ValidationError as error:
        raise wrong_field(error, where, "figures") from None
    except TypeError as error:  # a field is absent
        raise UserError(f"no figures of a training: {error}", file=where, fix=RESTORE) from None
