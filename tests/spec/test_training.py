"""The settings of a training are defined once: what may be declared is bounded, what was planned is read."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from ft_dagster.spec.training import (
    Deepspeed,
    DeepspeedSpec,
    TrainingSettings,
    TrainingSpec,
    WatchSettings,
    WatchSpec,
)

PLANNED: dict[str, Any] = {
    "learning_rate": 2e-4, "num_train_epochs": 3.0, "per_device_train_batch_size": 1, "max_length": 1024,
}  # fmt: skip
BEYOND = {"keep_best": 5000, "weight_decay": 11.0, "evaluations": 500, "max_steps": 10**9}
ONLY_DECLARED = {"report_to", "checkpoint_minutes"}  # of the run, and no part of a plan


def test_what_may_be_declared_is_what_is_planned() -> None:
    assert set(TrainingSpec.model_fields) - ONLY_DECLARED == set(TrainingSettings.model_fields)
    assert set(WatchSpec.model_fields) == set(WatchSettings.model_fields)
    assert set(DeepspeedSpec.model_fields) - {"bucket_mb"} == set(Deepspeed.model_fields) - {"bucket_bytes"}


@pytest.mark.parametrize("name", BEYOND)
def test_a_plan_is_read_with_values_that_may_no_longer_be_declared(name: str) -> None:
    with pytest.raises(ValidationError, match="less than or equal"):
        TrainingSpec.model_validate({name: BEYOND[name]})
    assert getattr(TrainingSettings.model_validate({**PLANNED, name: BEYOND[name]}), name) == BEYOND[name]


def test_a_plan_of_forgetting_is_read_so_too() -> None:
    content = {"questions": 5000, "general_loss_limit": 200.0}
    with pytest.raises(ValidationError, match="less than or equal"):
        WatchSpec.model_validate(content)
    assert WatchSettings.model_validate(content).questions == 5000


@pytest.mark.parametrize("kind", [TrainingSettings, WatchSettings, Deepspeed])
def test_a_plan_has_no_setting_that_would_not_act(kind: type[BaseModel]) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        kind.model_validate({**(PLANNED if kind is TrainingSettings else {}), "keep": 3})


@pytest.mark.parametrize(
    "name", ["learning_rate", "num_train_epochs", "per_device_train_batch_size", "max_length"]
)
def test_a_plan_leaves_nothing_open(name: str) -> None:
    assert getattr(TrainingSpec(), name) is None
    with pytest.raises(ValidationError, match="valid"):
        TrainingSettings.model_validate({**PLANNED, name: None})


def test_what_was_added_later_is_in_no_plan_unless_it_is_declared() -> None:
    usual = TrainingSettings.model_validate(PLANNED).model_dump(mode="json")
    assert not set(TrainingSettings.unsaid) & set(usual)
    assert not set(WatchSettings.unsaid) & set(usual["watch"])
    assert set(TrainingSpec.added) <= set(TrainingSettings.unsaid)
    assert set(WatchSpec.added) <= set(WatchSettings.unsaid)
    said = {"on_bad_rate": "warn", "deterministic": False, "watch": {"budget": None, "past_limit": "go_on"}}
    planned = TrainingSettings.model_validate({**PLANNED, **said}).model_dump(mode="json")
    assert {name: planned[name] for name in ("on_bad_rate", "deterministic")} == {
        "on_bad_rate": "warn", "deterministic": False,
    }  # fmt: skip
    assert planned["watch"] == {**usual["watch"], "budget": None, "past_limit": "go_on"}
