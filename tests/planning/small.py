"""Surveys of a model of 5M parameters on a CPU, by dry runs: no weights, and nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ft_dagster.planning.dryrun.from_figures import facts, shapes_of_configuration
from ft_dagster.planning.facts import Facts
from ft_dagster.planning.hardware.catalogue import Hardware
from ft_dagster.planning.planned_method import PlanContext
from ft_dagster.planning.survey import Survey, survey
from ft_dagster.spec import VariantSpec
from tests.planning.llama import SMALL_LLAMA, spec


def small_context(folder: Path) -> PlanContext:
    (folder / "config.json").write_text(json.dumps(SMALL_LLAMA))
    return PlanContext(folder, Hardware("cpu", 1, "CPU", 8 * 10**9, 1e12, True, 0.1))


def given(context: PlanContext, examples: int) -> Facts:
    return facts(
        shapes_of_configuration(context.architecture / "config.json"),
        examples=examples, tokens=50 * examples, max_length=256, device_kind="cpu", ranks=1,
        device_memory=8 * 10**9, bf16=True,
    )  # fmt: skip


def surveyed(context: PlanContext, examples: int, **declared: Any) -> tuple[VariantSpec, Facts, Survey]:
    known, declaration = given(context, examples), spec(**declared)
    return declaration, known, survey(declaration, known, context)
