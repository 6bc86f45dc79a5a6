"""Parses what `python -m ft_dagster.export RUN_DIR` is asked to do: the content of run.json as frozen
models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ft_dagster.evaluation.request import BaseFiles, Sha256
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.program import ProgramRequest
from ft_dagster.training.training_figures import TrainingFigures

LONGEST = 512  # tokens of a probe, counted from its end
GREEDY = 16  # tokens written after each probe


class _ExportPart(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class ExportBase(BaseFiles):
    """Names the base: its folder here, the sha256 of each file that loading reads, its digest, the reference
    it was declared by; a hub's has a revision.
    """

    digest: Sha256
    reference: str
    revision: str | None = None


class Source(_ExportPart):
    """Names one source of the tenant's rows, as declared."""

    path: str
    licence: str | None = None


class MadeFrom(_ExportPart):
    """Names what made the weights: digests of data set, mixture, plan and the general text, the rows of each
    split, the run of the export, the digest of the package's source, the day (UTC).
    """

    dataset: str
    rows: dict[str, int]
    mixture: str
    plan: str
    corpus: str | None = None
    run: str
    code: str
    day: str


class Card(_ExportPart):
    """Holds what the card says of the variant. `verdict`: of the gate; `weights` and `evaluation`: digests;
    `general`: name of the corpus mixed in; `base_model`: the declared reference;
    `with_examples`: what the base reaches with examples in its prompt; `memorization`: what the model kept of
    single rows; `ancestors`: what of the questions the models beneath it were trained on.
    """

    variant: str
    description: str
    owners: tuple[str, ...]
    base_model: str
    objective: str
    method: dict[str, object]
    training: dict[str, object]
    figures: TrainingFigures | None = None
    verdict: Verdict
    sources: tuple[Source, ...]
    general: str | None = None
    licence: str | None = None
    weights: str
    evaluation: str
    made: MadeFrom | None = None
    with_examples: tuple[str, ...] = ()
    memorization: tuple[str, ...] = ()
    ancestors: tuple[str, ...] = ()

    @field_validator("verdict", mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        return Verdict.from_json(given) if isinstance(given, dict) else given

    @field_validator("figures", mode="before")
    @classmethod
    def _read_figures(cls, given: Any) -> Any:
        return TrainingFigures.from_json(given) if isinstance(given, dict) else given


class ExportRequest(ProgramRequest):
    """Describes one export. `weights`: payload folder of what training made; `weights_digest`: what was
    judged.

    `probes`: prompts, rendered with the chat template, on which the certificate compares.
    """

    schema_version: Literal[1]
    base: ExportBase
    weights: Path
    weights_digest: Sha256
    format: Literal["adapter", "merged"]
    card: Card
    probes: tuple[str, ...] = Field(min_length=1)
    device: Literal["cpu", "cuda"] = "cpu"

    @property
    def payload(self) -> Path:
        return self.output / "payload"

    @property
    def evidence(self) -> Path:
        return self.output / "evidence"
