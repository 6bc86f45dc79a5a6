"""What `python -m ft_dagster.export.derived RUN_DIR` is asked to do: run.json as a frozen model."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from ft_dagster.evaluation.request import BaseFiles, TunedWeights


class DerivationRequest(BaseModel):
    """One base to make. `adapter`: the payload of a parent's export; `base_digest`: how it names its base;
    `declared_in`: for errors to name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1]
    base: BaseFiles
    base_digest: str
    adapter: TunedWeights | None = None
    new_tokens: tuple[str, ...] = ()
    declared_in: str | None = None
    output: Path
