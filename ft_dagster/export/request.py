"""What `python -m ft_dagster.export RUN_DIR` is asked to do: the content of run.json as frozen models."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ft_dagster.export.card import Card

SHA256 = r"^[0-9a-f]{64}$"


class _ExportPart(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ExportBase(_ExportPart):
    """The base: its folder here, its digest, the reference it was declared by; a hub's has a revision."""

    folder: Path
    digest: str = Field(pattern=SHA256)
    reference: str
    revision: str | None = None


class ExportRequest(_ExportPart):
    """One export. `weights`: payload folder of what training made; `weights_digest`: what was judged.

    `probes`: prompts, rendered with the chat template, on which the certificate compares.
    """

    schema_version: Literal[1]
    base: ExportBase
    weights: Path
    weights_digest: str = Field(pattern=SHA256)
    format: Literal["adapter", "merged"]
    card: Card
    probes: tuple[str, ...] = Field(min_length=1)
    device: Literal["cpu", "cuda"] = "cpu"
    output: Path

    @property
    def payload(self) -> Path:
        return self.output / "payload"

    @property
    def evidence(self) -> Path:
        return self.output / "evidence"
