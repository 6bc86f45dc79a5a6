"""Which plans say that a variant was planned without what another one found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.spec import VariantSpec
from ft_dagster.stages.prior import is_without
from ft_dagster.store import Artifact, Place
from tests.planning.llama import spec

OLD = Path(__file__).parents[1] / "compat/store_0_1/store/tenants/acme/colours/training_plan"


def plan(manifest: Path, **changed: Any) -> Artifact:
    predicate = json.loads(manifest.read_text("utf-8"))["predicate"]
    return Artifact(
        Place("tenants/acme/colours", "training_plan", "k" * 64), {**predicate, **changed}, reused=True
    )


def asked(declared: VariantSpec, made: Artifact) -> bool:
    base, mixture = (made.inputs[name] for name in ("base_model", "training_mixture"))
    return is_without(made, declared, mixture, base)


def with_rate(made: Artifact, rate: float | None) -> dict[str, Any]:
    part = dict(made.spec)
    return {**part, "training": {**part["training"], "learning_rate": rate}}


@pytest.fixture
def manifest() -> Path:
    return sorted(OLD.glob("*/manifest.json"))[0]


def test_a_plan_of_0_1_is_read(manifest: Path) -> None:
    declared = spec(method={"name": "lora"})
    assert not asked(declared, plan(manifest))  # its rate was declared
    left_open = plan(manifest, spec=with_rate(plan(manifest), None))
    assert asked(declared, left_open)
    assert not asked(spec(method={"name": "full"}, export="merged"), left_open)
    assert not is_without(left_open, declared, "m" * 64, left_open.inputs["base_model"])


@pytest.mark.parametrize("taken", ["prior", "probe"])
def test_a_plan_that_was_made_by_trial_is_not_without(manifest: Path, taken: str) -> None:
    left_open = plan(manifest, spec={"spec": with_rate(plan(manifest), None)})
    assert asked(spec(method={"name": "lora"}), left_open)
    by_trial = plan(manifest, spec=left_open.spec, inputs={**left_open.inputs, taken: "t" * 64})
    assert not asked(spec(method={"name": "lora"}), by_trial)
