"""A probe through the chain: short trainings decide the plan, once, and what was tried is kept."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ft_dagster.fleet.refresh.from_store import planned_cost
from ft_dagster.launch.local import ProgramFailed
from ft_dagster.planning.context import hardware_of
from ft_dagster.planning.hardware.catalogue import Hardware
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.stages import probe, training_plan
from ft_dagster.stages.chain import run_chain, up_to
from ft_dagster.store import Artifact
from ft_dagster.versions.preview import plan_variant
from ft_dagster.workspace.build_context import BuildContext
from ft_dagster.workspace.workspace import RunOf, Workspace
from tests.e2e.project import write_project
from tests.present import present

pytestmark = pytest.mark.slow
KEY = VariantKey("acme", "places")
PLANNED = up_to("training_plan")


def declare(folder: Path, **changed: Any) -> None:
    file = folder / "tenants" / "acme" / "places.yaml"
    content = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**content, **changed}))


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    folder = write_project(tmp_path_factory.mktemp("probed") / "project", tiny_model_folder)
    declare(
        folder,
        method="lora",
        training={"num_train_epochs": 4, "max_length": 64, "per_device_train_batch_size": 1},
        plan={"probe": {"steps": 2, "share": 0.1}},
    )
    return folder


def planned(folder: Path, key: VariantKey = KEY) -> tuple[Workspace, list[str], dict[str, Artifact]]:
    lines: list[str] = []
    workspace = Workspace(load_settings(folder), key, RunOf("test", "test", lines.append))
    outcome = run_chain(workspace, PLANNED)
    assert outcome.error is None, outcome.error
    return workspace, lines, outcome.made


@pytest.fixture(scope="module")
def first(probed: Path) -> tuple[Workspace, list[str], dict[str, Artifact]]:
    return planned(probed)


def found_in(workspace: Workspace, made: dict[str, Artifact]) -> tuple[Artifact, dict[str, Any]]:
    tried = workspace.make(probe.STAGE)
    assert made["training_plan"].inputs["probe"] == tried.digest
    return tried, json.loads((workspace.payload(tried) / "probe.json").read_text())


def spent_of(tried: Artifact) -> tuple[int, int]:
    """What it took and what was announced, in percent of the training's FLOPs."""
    said = re.search(
        r"took (\d+)% of the training's FLOPs, where (\d+)% were announced", tried.figures["sentence"]
    )
    took, announced = present(said).groups()
    return int(took), int(announced)


@pytest.mark.long
def test_the_plan_has_what_was_best_when_it_was_tried(
    first: tuple[Workspace, list[str], dict[str, Artifact]],
) -> None:
    workspace, lines, made = first
    tried, content = found_in(workspace, made)
    arms, last = content["rounds"]
    assert [arm["learning_rate"] for arm in arms] == [4e-4, 1e-3, 1e-4]
    assert len(last) == 2
    assert {arm["steps"] for arm in last} == {2 * arm["steps"] for arm in arms}
    best = min(last, key=lambda arm: max(arm["validation"].items(), key=lambda pair: int(pair[0]))[1])
    assert made["training_plan"].figures["training"]["learning_rate"] == best["learning_rate"]
    assert any(line.startswith("probe: 3 short trainings of") for line in lines)
    estimate = training_plan.estimate_of(workspace, made["training_plan"])
    (reason,) = (r for r in estimate.plan.reasons if r.field == "training.learning_rate")
    assert (reason.origin, reason.reason) == ("measured", tried.figures["sentence"])
    assert (tried.figures["seconds"] > 0, tried.figures["devices"]) == (True, 1)
    assert len({json.dumps([tokens for _, tokens in arm["examples"]]) for arm in (*arms, *last)}) == 1
    assert "nats a token (95% interval " in tried.figures["sentence"]
    took, announced = spent_of(tried)
    assert 0 < took <= announced
    files = {file.name for file in workspace.folder(tried).rglob("*") if file.is_file()}
    assert "log.jsonl" in files
    assert not [name for name in files if name.endswith(".safetensors")]  # no model is left


def test_a_plan_before_the_next_run_is_by_what_was_found(
    probed: Path, first: tuple[Workspace, list[str], dict[str, Artifact]]
) -> None:
    workspace, _, made = first
    foreseen = plan_variant(workspace.settings, KEY).estimate
    assert foreseen.plan.training == made["training_plan"].figures["training"]
    assert foreseen.plan.reasons == training_plan.estimate_of(workspace, made["training_plan"]).plan.reasons
    assert not [line for line in foreseen.warnings if "probe" in line]

    def is_foreseen_to_be_tried(hardware: Hardware | None = None) -> bool:
        lines = plan_variant(workspace.settings, KEY, hardware).estimate.warnings
        return any("probe, before this plan is final" in line for line in lines)

    file = probed / "tenants" / "acme" / "places.yaml"
    declared = file.read_text("utf-8")
    declare(probed, plan={"probe": {"steps": 3, "share": 0.1}})
    assert is_foreseen_to_be_tried()
    file.write_text(declared, "utf-8")
    assert not is_foreseen_to_be_tried()
    assert is_foreseen_to_be_tried(Hardware("gpu", 1, "A card", 16 * 10**9, 1e14, True, 1.0))


@pytest.mark.long
def test_a_probe_that_costs_more_with_its_training_than_the_policy_allows_does_not_begin(
    probed: Path, first: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a price of a CPU that it has for this test alone; refused before anything is leased."""
    project = shutil.copytree(probed, tmp_path / "project")
    declare(project, plan={"probe": {"steps": 3, "share": 0.1}}, resources={"budget_usd": 1.0})
    policy = yaml.safe_load((project / "policy.yaml").read_text())

    def chain(budget: float) -> tuple[str, list[str]]:
        (project / "policy.yaml").write_text(yaml.safe_dump({**policy, "budget_usd": budget}))
        lines: list[str] = []
        workspace = Workspace(load_settings(project), KEY, RunOf("test", "test", lines.append))
        return str(run_chain(workspace, PLANNED).error or ""), lines

    monkeypatch.setattr(probe, "hardware_of", lambda *_: replace(hardware_of(*_), usd_per_hour=1e9))
    error, lines = chain(1.0)
    assert re.search(r"by its plan it costs \$[\d,.]+, \$[\d,.]+ of it for what is tried before", error)
    assert "policy.yaml: budget_usd" in error
    assert "plan.probe.share" in error
    assert not [line for line in lines if "leased" in line]
    error, lines = chain(1e9)
    assert not error
    assert [line for line in lines if "leased" in line]


def test_what_a_probe_took_is_part_of_what_its_plan_foretells_of_the_next_retrain(
    first: tuple[Workspace, list[str], dict[str, Artifact]],
) -> None:
    workspace, _, made = first
    tried, _ = found_in(workspace, made)
    estimate = training_plan.estimate_of(workspace, made["training_plan"])
    probed = estimate.predicted.probe_hours
    assert probed == tried.figures["seconds"] / 3600
    foretold = present(planned_cost(workspace.store, KEY))
    assert foretold.hours == pytest.approx(present(estimate.planned_row.hours) + present(probed))


def test_asked_again_nothing_is_trained(
    probed: Path, first: tuple[Workspace, list[str], dict[str, Artifact]]
) -> None:
    _, _, before = first
    _, lines, again = planned(probed)
    assert all(artifact.reused for artifact in again.values())
    assert again["training_plan"].digest == before["training_plan"].digest
    assert not [line for line in lines if "leased" in line]


def test_a_change_of_the_gate_that_does_not_limit_what_is_forgotten_tries_nothing_again(
    probed: Path, first: tuple[Workspace, list[str], dict[str, Artifact]]
) -> None:
    workspace, _, _ = first
    before = workspace.recipe(probe.STAGE)[0].place
    other = Workspace(workspace.settings, KEY)
    gates = workspace.spec.gates.model_copy(update={"task_margin": 0.9})
    other.__dict__.update(frozen=workspace.frozen, spec=workspace.spec.model_copy(update={"gates": gates}))
    assert other.recipe(probe.STAGE)[0].place == before
    stricter = workspace.spec.gates.model_copy(update={"general_loss_margin": 0.01})
    other.__dict__.update(spec=workspace.spec.model_copy(update={"gates": stricter}))
    assert other.recipe(probe.STAGE)[0].place != before


def test_what_is_declared_for_a_bad_rate_tries_nothing_again(
    first: tuple[Workspace, list[str], dict[str, Artifact]],
) -> None:
    workspace, _, _ = first
    other = Workspace(workspace.settings, KEY)
    training = workspace.spec.training.model_copy(update={"on_bad_rate": "lower"})
    spec = workspace.spec.model_copy(update={"training": training})
    other.__dict__.update(frozen=workspace.frozen, spec=spec)
    assert other.recipe(probe.STAGE)[0].place == workspace.recipe(probe.STAGE)[0].place


@pytest.mark.long
def test_an_interrupted_probe_goes_on_with_what_was_tried(
    tmp_path: Path, tiny_model_folder: Path, probed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_project(tmp_path / "project", tiny_model_folder)
    own = folder / "tenants" / "acme" / "places.yaml"
    own.write_text((probed / "tenants" / "acme" / "places.yaml").read_text())
    run, tried = BuildContext.run, 0

    def interrupted(self: BuildContext, *arguments: Any, **more: Any) -> dict[str, Any]:
        nonlocal tried
        if tried == 2:
            raise KeyboardInterrupt
        tried += arguments[0] == "training"
        return run(self, *arguments, **more)

    monkeypatch.setattr(BuildContext, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        planned(folder)
    monkeypatch.setattr(BuildContext, "run", run)
    workspace, _, made = planned(folder)
    _, content = found_in(workspace, made)
    whole, _, known = planned(probed)
    assert content == found_in(whole, known)[1]


def test_what_can_be_mended_by_trying_again_is_no_answer(
    tmp_path: Path, tiny_model_folder: Path, probed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_project(tmp_path / "project", tiny_model_folder)
    own = folder / "tenants" / "acme" / "places.yaml"
    own.write_text((probed / "tenants" / "acme" / "places.yaml").read_text())
    run, mendable = BuildContext.run, False

    def preempted(self: BuildContext, program: str, *arguments: Any, **more: Any) -> dict[str, Any]:
        if program == "training":
            raise ProgramFailed("preempted", "Run it again", mendable=mendable)
        return run(self, program, *arguments, **more)

    monkeypatch.setattr(BuildContext, "run", preempted)
    workspace = Workspace(load_settings(folder), KEY, RunOf("test", "test", lambda line: None))
    outcome = run_chain(workspace, PLANNED)
    assert outcome.error is not None
    assert "every method and rate that was tried failed" in outcome.error
    mendable = True
    with pytest.raises(ProgramFailed, match="preempted"):
        workspace.make(probe.STAGE)


SHORT = {"num_train_epochs": 4, "max_length": 64, "per_device_train_batch_size": 1}


def copied(probed: Path, tmp_path: Path, tiny_model_folder: Path) -> Path:
    """A project of its own with that declaration."""
    folder = write_project(tmp_path / "project", tiny_model_folder)
    own = "tenants/acme/places.yaml"
    (folder / own).write_text((probed / own).read_text())
    return folder


def test_nothing_is_tried_without_validation_rows_and_the_plan_says_so_before(
    tmp_path: Path, tiny_model_folder: Path, probed: Path
) -> None:
    folder = copied(probed, tmp_path, tiny_model_folder)
    data = yaml.safe_load((folder / "tenants/acme/places.yaml").read_text())["data"]
    declare(folder, data={**data, "splits": {**data.get("splits", {}), "validation": 0}})
    said = "nothing is tried: there is no validation split to compare on"
    settings = load_settings(folder)
    assert any(said in line for line in plan_variant(settings, KEY).estimate.warnings)  # from the sources
    workspace, _, made = planned(folder)
    tried, content = found_in(workspace, made)
    assert (tried.figures["sentence"], content["rounds"]) == (said, [])
    assert any(said in line for line in plan_variant(settings, KEY).estimate.warnings)


@pytest.mark.long
def test_a_share_that_pays_for_them_is_spent_on_whole_trainings_of_which_the_best_is_taken(
    tmp_path: Path, tiny_model_folder: Path, probed: Path
) -> None:
    folder = copied(probed, tmp_path, tiny_model_folder)
    declare(folder, plan={"probe": {"share": 5}})
    workspace, lines, made = planned(folder)
    tried, content = found_in(workspace, made)
    (arms,) = content["rounds"]
    assert [arm["learning_rate"] for arm in arms] == [4e-4, 2e-3, 1e-3]
    trained = run_chain(workspace, up_to("fine_tuned_model")).made["fine_tuned_model"]
    assert {arm["steps"] for arm in arms} == {trained.figures["steps"]}
    best = min(arms, key=lambda arm: max(arm["validation"].items(), key=lambda pair: int(pair[0]))[1])
    assert made["training_plan"].figures["training"]["learning_rate"] == best["learning_rate"]
    assert tried.figures["sentence"].startswith("trained wholly, in ")
    assert any(line.startswith("probe: 3 whole trainings of ") for line in lines)
    took, announced = spent_of(tried)
    assert 0 < took <= announced <= 500


@pytest.mark.long
def test_an_arm_that_forgets_past_the_declared_limit_ranks_last_and_is_not_lost(
    tmp_path: Path, tiny_model_folder: Path, probed: Path
) -> None:
    folder = copied(probed, tmp_path, tiny_model_folder)
    watch = {"general_loss_limit": 0.001}
    declare(folder, method="auto", training={**SHORT, "learning_rate": 0.3, "watch": watch})
    workspace, _, made = planned(folder)
    _, content = found_in(workspace, made)
    over = [arm for tried in content["rounds"] for arm in tried if arm["general_rise"] > 0.001]
    assert over
    assert {arm["failed"] for arm in over} == {None}
    assert all(arm["validation"] for arm in over)
