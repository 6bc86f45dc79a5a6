"""A new version is held against the one in production, when it is released."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ft_dagster.automation.jobs import CHAIN
from ft_dagster.lineage.release import history, production
from ft_dagster.stage_entries import ENTRIES
from ft_dagster.store import read_head
from tests.e2e.project import UP_TO_PLAN, command_environment, edit
from tests.e2e.workshop import Workshop
from tests.leased import LeasedSeconds
from tests.present import present

pytestmark = pytest.mark.slow
PREFIX = "tenants/acme/places"
DECLARATION = f"{PREFIX}.yaml"
BEFORE = (*UP_TO_PLAN, "fine_tuned_model", "base_evaluation", "evaluation", "model_export")
WIDE = {"regression_margin": 1.0, "regression_loss_margin": 1.0, "undecided": "measured"}
JUDGED = ("declaration", "base_evaluation", "evaluation", "model_export", "release_evaluation", "release")


@pytest.fixture
def second(released: Workshop) -> Workshop:
    """A project with a version in production, whose next one has learned far less of the task."""
    assert released.materialize("acme.places").success
    less = {"num_train_epochs": 1, "learning_rate": 2e-3}
    edit(released.folder / DECLARATION, lambda content: content["training"].update(less))
    return released


@pytest.mark.long
def test_a_version_better_than_the_base_and_worse_than_production_is_not_released(second: Workshop) -> None:
    result = second.materialize("acme.places", raises=False)
    assert not result.success
    checks = {each.check_name: each for each in result.get_asset_check_evaluations()}
    assert checks["gate"].passed
    assert not checks["regression"].passed
    assert "against version 1 in production, the task test_split_task" in present(
        checks["regression"].description
    )
    assert "release" not in {event.step_key for event in result.all_events if event.is_step_start}
    assert len(history(second.store, PREFIX)) == 1

    result = second.materialize("acme.places", "release", raises=False)
    assert "against version 1 in production" in second.failure(result)

    edit(second.folder / DECLARATION, lambda content: content["gates"].update(regression_margin=None))
    assert second.materialize("acme.places", *JUDGED).success
    released = present(production(second.store, PREFIX))
    assert released.version == 2
    assert released.weights == present(read_head(second.store, PREFIX, "fine_tuned_model")).digest


@pytest.mark.long
def test_a_version_that_fell_from_the_reference_alone_is_refused_by_dagster_and_by_the_command_line(
    second: Workshop,
) -> None:
    """Against production all may fall that is measured; against the first version, which it is, little."""
    gates = {**WIDE, "reference_loss_margin": 0.05}
    edit(second.folder / DECLARATION, lambda content: content["gates"].update(gates))
    result = second.materialize("acme.places", raises=False)
    assert not result.success
    checks = {each.check_name: each for each in result.get_asset_check_evaluations()}
    assert (checks["gate"].passed, checks["regression"].passed) == (True, False)
    said = "against version 1, the reference (release 1 after it), the task test_split_task"
    assert said in present(checks["regression"].description)
    command = Path(sys.executable).with_name("ft-dagster")
    done = subprocess.run(
        [str(command), "--project", str(second.folder), "run", "acme.places"],
        env=command_environment(second.folder),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert said in done.stdout + done.stderr
    assert len(history(second.store, PREFIX)) == 1


def shown(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    (event,) = result.asset_materializations_for_node(asset)
    return {name: value.value for name, value in event.metadata.items()}


@pytest.mark.long
def test_what_a_release_needs_judged_is_asked_and_shown_by_its_own_asset(
    released: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same weights in other bytes, and questions that production was not asked."""
    edit(released.folder / DECLARATION, lambda content: content["training"].update(seed=7))
    edit(released.folder / DECLARATION, lambda content: content["evaluation"].update(seed=5))
    edit(released.folder / DECLARATION, lambda content: content["gates"].update(WIDE))
    assert released.materialize("acme.places", *BEFORE).success
    leased = LeasedSeconds(monkeypatch)
    refused = released.materialize("acme.places", "release", raises=False)
    assert "Materialize release_evaluation, then release" in released.failure(refused)
    assert (leased.count, len(history(released.store, PREFIX))) == (0, 1)

    page = shown(released.materialize("acme.places", "release_evaluation"), "release_evaluation")
    assert leased.count == 1
    assert (page["held_against"], page["reused"]) == ("version 1", False)
    assert 0 < page["device_seconds"] <= leased.seconds
    assert "was held against version 1, which is in production" in page["summary"]
    (row,) = [record.data for record in page["answers"].records]
    said = {name: str(value).replace("\u200b", "") for name, value in row.items()}
    assert (said["made by"], said["how"]) == ("production_evaluation", "asked now")

    page = shown(released.materialize("acme.places", "release_evaluation"), "release_evaluation")
    assert (page["reused"], page["device_seconds"]) == (True, 0)
    assert shown(released.materialize("acme.places", "release"), "release")["version"] == 2
    assert leased.count == 1
    page = shown(released.materialize("acme.places", "release_evaluation"), "release_evaluation")
    assert "these weights are in production, as version 2" in page["summary"]
    assert (leased.count, page["held_against"]) == (1, "nothing")


def test_in_the_graph_a_release_stands_behind_its_evaluation_and_nothing_else() -> None:
    above = {asset.key.path[-1]: {key.path[-1] for key in asset.asset_deps[asset.key]} for asset in CHAIN}
    assert (above["release"], above["release_evaluation"]) == ({"release_evaluation"}, {"model_export"})


def test_every_stage_that_is_not_made_on_demand_is_an_asset() -> None:
    assets = {asset.key.path[-1] for asset in CHAIN}
    assert assets == {name for name, entry in ENTRIES.items() if not entry.on_demand}
