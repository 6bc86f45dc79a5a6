"""A fleet's page: every variant in the words of `status`, whatever is broken among them."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ft_dagster.errors import UserError
from ft_dagster.fleet.due.costs import cost_row, read_costs
from ft_dagster.fleet.page import fleet_report, fleet_variants
from ft_dagster.fleet.picture import FleetPicture, look_at
from ft_dagster.gate.verdict_words import verdict_sentence
from ft_dagster.lineage.release import ReleaseRequest, promote, rollback
from ft_dagster.planning.hardware.catalogue import load_catalogue
from ft_dagster.report.pages.fleet import FleetVariant
from ft_dagster.report.states import states_sentence
from ft_dagster.settings import Settings, load_settings
from ft_dagster.spec import Declarations, VariantKey
from tests.kept_project import OLD_PROJECT
from tests.present import present

pytestmark = pytest.mark.slow

PLACES = VariantKey("acme", "places")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a project with the variants of a store, one that was never trained, and two that are broken."""
    shutil.copytree(OLD_PROJECT, tmp_path / "project")
    tenants = tmp_path / "project" / "tenants"
    for name, content in (("acme/new", ""), ("acme/typo", "objectiv: x\n"), ("zoo/damaged", "")):
        file = tenants / f"{name}.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text((tenants / "acme" / "places.yaml").read_text("utf-8") + content, "utf-8")
    settings = load_settings(tmp_path / "project")
    settings.open_store().write("tenants/zoo/damaged/heads/evaluation.json", b"{")
    return settings


def picture(settings: Settings) -> FleetPicture:
    declarations = Declarations(settings.project)
    return look_at(declarations, list(declarations), None, settings, datetime.now(UTC))


def found(settings: Settings) -> dict[str, FleetVariant]:
    return {one.variant: one for one in fleet_variants(settings, picture(settings))}


def test_each_variant_has_the_state_and_cause_of_status_and_a_broken_one_stops_no_other(
    settings: Settings,
) -> None:
    seen = picture(settings)
    states = {name: one.state for name, one in found(settings).items()}
    assert states == {row.variant: row.state for row in seen.rows}
    assert {states[name] for name in ("acme.typo", "zoo.damaged")} == {"broken"}
    assert (states["acme.new"], states["globex.strict"]) == ("never trained", "failing")
    strict = found(settings)["globex.strict"]
    assert strict.cause == verdict_sentence(present(strict.verdict))
    page = fleet_report(settings, seen)
    for said in ("objectiv", "not a head", strict.cause, states_sentence(list(states.values()))):
        assert said in page


def test_a_version_that_was_rolled_back_is_said_to_be(settings: Settings) -> None:
    rollback(settings.open_store(), PLACES.prefix, ReleaseRequest("worse"))
    assert found(settings)["acme.places"].version == "v1 (v3 rolled back)"


def test_a_version_that_an_older_one_replaced_waits_for_nobody(settings: Settings) -> None:
    request = ReleaseRequest("cheaper", by="ann")
    promote(settings.open_store(), PLACES.prefix, 1, request, force=True)
    assert found(settings)["acme.places"].version == "v1"


def test_what_a_variant_cost_is_what_the_command_says_of_it(settings: Settings) -> None:
    items = read_costs(settings.open_store(), load_catalogue(settings.project)).items
    row = cost_row("acme.places", [item for item in items if item.variant == "acme.places"])
    shown = found(settings)["acme.places"]
    assert shown.hours == row.hours > row.training_hours > 0
    assert (shown.usd is None) == (row.unpriced_hours > 0)
    assert found(settings)["acme.new"].hours == 0


def test_a_tenant_sees_no_other(settings: Settings) -> None:
    page = fleet_report(settings, picture(settings), "zoo")
    assert "acme" not in page
    assert "<h1>Fleet of zoo</h1>" in page
    with pytest.raises(UserError, match="no variant to report on"):
        fleet_report(settings, picture(settings), "nobody")


def test_it_has_no_row_of_a_tenant(settings: Settings) -> None:
    page = fleet_report(settings, picture(settings))
    for line in (OLD_PROJECT / "data" / "places.jsonl").read_text("utf-8").splitlines():
        assert line[20:60] not in page
