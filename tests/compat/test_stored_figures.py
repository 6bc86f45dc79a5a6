"""Figures that version 0.1 stored are read into their types, and written again as they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.data.mixture.mixture_figures import MixtureFigures
from ft_dagster.data.mixture.mixture_io import read_mixture
from ft_dagster.errors import UserError
from ft_dagster.planning.cost.learned import Predicted
from ft_dagster.planning.estimate import Estimate
from ft_dagster.training.training_figures import TrainingFigures

TENANTS = Path(__file__).with_name("store_0_1") / "store" / "tenants"


def manifests(stage: str) -> list[Path]:
    return sorted(TENANTS.glob(f"*/*/{stage}/*/manifest.json"))


def variant(manifest: Path) -> str:
    return "/".join(manifest.parts[-5:-3])


def figures(manifest: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(manifest.read_text("utf-8"))["predicate"]["figures"]
    return found


@pytest.mark.parametrize("manifest", manifests("training_mixture"), ids=variant)
def test_a_mixtures_figures_are_read_and_written_as_they_were(manifest: Path) -> None:
    stored = figures(manifest)
    read = MixtureFigures.from_json(stored)
    assert json.dumps(read.to_json(), sort_keys=True) == json.dumps(stored, sort_keys=True)
    assert read.train.examples == sum(part.examples for part in read.train.by_source.values()) > 0

    (file,) = manifest.parent.glob("*/payload/mixture.json")
    assert json.dumps(read.file_json(), indent=1, sort_keys=True) + "\n" == file.read_text("utf-8")
    assert read_mixture(file.parent).file_json() == read.file_json()


@pytest.mark.parametrize("manifest", manifests("fine_tuned_model"), ids=variant)
def test_a_trainings_figures_are_read_and_written_under_todays_names(manifest: Path) -> None:
    stored = figures(manifest)
    read = TrainingFigures.from_json(stored)
    foretold = stored.pop("foretold")
    assert json.dumps(read.to_json()) == json.dumps({**stored, "predicted": foretold}, sort_keys=True)
    assert Predicted.from_json(foretold).to_json() == read.predicted


@pytest.mark.parametrize("manifest", manifests("training_plan"), ids=variant)
def test_a_plans_document_is_read_and_written_under_todays_names(manifest: Path) -> None:
    (file,) = manifest.parent.glob("*/evidence/estimate.json")
    stored = json.loads(file.read_text("utf-8"))
    read = Estimate.from_json(stored, file=file)
    stored["predicted"] = stored.pop("foretold")
    assert json.dumps(read.to_json(), sort_keys=True) == json.dumps(stored, sort_keys=True)
    assert read.planned_row.method == read.plan.name == figures(manifest)["method"]["name"]


def test_a_document_of_a_newer_schema_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="newer ft-dagster") as error:
        Estimate.from_json({"schema_version": 2}, file=tmp_path / "estimate.json")
    assert error.value.file == str(tmp_path / "estimate.json")
