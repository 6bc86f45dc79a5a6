"""A fleet's page: every declared variant by the store alone, whatever is broken among them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ft_dagster.errors import UserError
from ft_dagster.lineage.release import ReleaseRequest, rollback
from ft_dagster.report.fleet import FleetVariant
from ft_dagster.settings import Settings, load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.stages.fleet_report import fleet_report, fleet_variants
from ft_dagster.stages.spent import price_of, spent
from ft_dagster.stages.summary import newest_plan
from ft_dagster.store import read_head
from ft_dagster.training.training_figures import TrainingFigures
from tests.present import present

KEPT = Path(__file__).resolve().parents[1] / "compat" / "store_0_1"
PLACES = VariantKey("acme", "places")
NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a project with the variants of a store, one that was never trained, and two that are broken."""
    shutil.copytree(KEPT, tmp_path / "project")
    tenants = tmp_path / "project" / "tenants"
    for name, content in (("acme/new", ""), ("acme/typo", "objectiv: x\n"), ("zoo/damaged", "")):
        file = tenants / f"{name}.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text((tenants / "acme" / "places.yaml").read_text("utf-8") + content, "utf-8")
    settings = load_settings(tmp_path / "project")
    settings.open_store().write("tenants/zoo/damaged/heads/evaluation.json", b"{")
    return settings


def found(settings: Settings) -> dict[str, FleetVariant]:
    return {one.variant: one for one in fleet_variants(settings, NOW)}


def test_each_variant_has_its_state_and_a_broken_one_stops_no_other(settings: Settings) -> None:
    states = {name: one.state for name, one in found(settings).items()}
    assert states == {
        "acme.colours": "in production", "acme.new": "never trained", "acme.places": "in production",
        "acme.typo": "broken", "globex.places": "in production", "globex.strict": "not released",
        "zoo.damaged": "broken",
    }  # fmt: skip
    page = fleet_report(settings)
    sentence = "7 variants: 2 broken, 1 not released, 1 never trained, 3 in production"
    for said in ("objectiv", "not a head", sentence):
        assert said in page


def test_a_version_that_was_rolled_back_is_said_to_be(settings: Settings) -> None:
    rollback(settings.open_store(), PLACES.prefix, ReleaseRequest("worse"))
    one = found(settings)["acme.places"]
    assert (one.state, one.version) == ("rolled back", 1)


def test_what_a_variant_cost_is_that_of_all_its_trainings(settings: Settings) -> None:
    store = settings.open_store()
    newest = present(read_head(store, PLACES.prefix, "fine_tuned_model"))
    hours, usd = spent(settings, PLACES)
    assert hours > 2 * TrainingFigures.of(newest).training_seconds / 3600
    assert usd is None


def test_dollars_are_those_of_a_device_and_hour_of_the_plan(settings: Settings) -> None:
    plan = present(newest_plan(settings, PLACES))
    predicted = replace(plan.predicted, layout=replace(plan.predicted.layout, gpus=2))
    for hours, usd, price in ((0.5, 3.0, 3.0), (0.5, 0.0, 0.0), (None, 3.0, None), (0.5, None, None)):
        ranking = [
            replace(row, hours=hours, cost_usd=usd) if row.method == plan.plan.name else row
            for row in plan.ranking
        ]
        assert price_of(replace(plan, predicted=predicted, ranking=tuple(ranking))) == price


def test_a_tenant_sees_no_other(settings: Settings) -> None:
    page = fleet_report(settings, "zoo")
    assert "acme" not in page
    assert "<h1>Fleet of zoo</h1>" in page
    with pytest.raises(UserError, match="no variant to report on"):
        fleet_report(settings, "nobody")


def test_it_has_no_row_of_a_tenant(settings: Settings) -> None:
    page = fleet_report(settings)
    for line in (KEPT / "data" / "places.jsonl").read_text("utf-8").splitlines():
        assert line[20:60] not in page
