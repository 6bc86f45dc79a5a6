"""Parses what `python -m ft_dagster.export.derived RUN_DIR` is asked to do: run.json as a frozen model."""

from __future__ import annotations

from typing import Literal

from ft_dagster.evaluation.request import BaseFiles, TunedWeights
from ft_dagster.program import ProgramRequest


class DerivationRequest(ProgramRequest):
    """Names one base to make. `adapter`: the payload of a parent's export; `base_digest`: how it names its
    base; `declared_in`: for errors to name.
    """

    schema_version: Literal[1]
    base: BaseFiles
    base_digest: str
    adapter: TunedWeights | None = None
    new_tokens: tuple[str, ...] = ()
    declared_in: str | None = None
