"""plan.json keeps its bytes: its digest is in the keys of all trainings that a store holds.

So does the estimate beside it, which scripts read.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.planning.dryrun.from_figures import facts, shapes_of_configuration
from ft_dagster.planning.estimate import Estimate
from ft_dagster.planning.hardware.catalogue import Hardware
from ft_dagster.planning.plan import PlanAndEstimate, make_plan
from ft_dagster.planning.planned_method import PlanContext
from ft_dagster.training.contract import Plan
from tests.long import mostly_long
from tests.planning.llama import SMALL_LLAMA, spec

pytestmark = pytest.mark.slow

# Written by version 0.1, before a plan was typed; renewed when plans came to fill GPUs, when the
# number of evaluations came to depend on their budget, when a step with a frozen head came to hold less, and
# when rates came to depend on a base's width.
STORED = json.loads(Path(__file__).with_name("stored_plans.json").read_text("utf-8"))
# Written before an estimate was typed, renewed when its hours came to hold what measuring may take, when it
# came to warn of an adapter's capacity, when the logits of a frozen head came to be kept in the type of the
# product, when hours came to go by max_steps, when a reason came to be its field's description, and when it
# came to warn of measuring above its budget, and when a reason came to name what it compares with; its bytes
# of a device are those of the pinned libraries.
ESTIMATES = json.loads(Path(__file__).with_name("stored_estimates.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], PlanAndEstimate]:
    """The plan and the estimate of a stored one's declaration; each is made once, all on one base."""
    folder = tmp_path_factory.mktemp("planned")
    return cache(lambda name: plan_of(STORED[name], folder))


@pytest.mark.parametrize("name", mostly_long(STORED, [*ESTIMATES, *list(STORED)[::3]]))
def test_a_plan_has_the_bytes_that_an_older_version_stored(
    name: str, planned: Callable[[str], PlanAndEstimate]
) -> None:
    case = STORED[name]
    assert json.dumps(planned(name).content.to_json(), indent=1, sort_keys=True) == case["plan"]


@pytest.mark.parametrize("name", STORED)
def test_a_stored_plan_is_read_to_the_same_bytes(name: str) -> None:
    read = Plan.model_validate_json(STORED[name]["plan"])
    assert json.dumps(read.to_json(), indent=1, sort_keys=True) == STORED[name]["plan"]


@pytest.mark.parametrize("name", ESTIMATES)
def test_an_estimate_has_the_bytes_that_it_had_before_it_was_typed(
    name: str, planned: Callable[[str], PlanAndEstimate]
) -> None:
    made = planned(name).estimate
    assert json.dumps(made.to_json(), indent=1, sort_keys=True) == ESTIMATES[name]
    assert Estimate.from_json(json.loads(ESTIMATES[name])) == made


def plan_of(case: dict[str, Any], folder: Path) -> PlanAndEstimate:
    (folder / "config.json").write_text(json.dumps(SMALL_LLAMA))
    given = facts(
        shapes_of_configuration(folder / "config.json"), examples=case["examples"], tokens=100_000,
        max_length=256, device_kind="cuda" if case["kind"] == "gpu" else "cpu", ranks=case["count"],
        device_memory=case["memory"], bf16=case["bf16"],
    )  # fmt: skip
    hardware = Hardware(case["kind"], case["count"], "T4-like", case["memory"], 1e13, case["bf16"], 1.0)
    declared = {"evaluation": {"limit": 100}, **case["declared"]}  # the default then
    return make_plan(spec(**declared), given, PlanContext(folder, hardware, base="b" * 64))
