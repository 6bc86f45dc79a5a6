"""A base whose packed examples reach each other is planned, probed and trained with one example a row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ft_dagster.provenance.digest import stage_key
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.stage_entries import version_of
from ft_dagster.stages import probe, training_plan
from ft_dagster.stages.chain import run_chain, up_to
from ft_dagster.training.batches import apart
from ft_dagster.versions.look import FoundNow
from ft_dagster.versions.now import difference
from ft_dagster.versions.preview import plan_variant
from ft_dagster.versions.version_artifacts import VersionArtifacts, version_artifacts
from ft_dagster.workspace.workspace import RunOf, Workspace
from tests.e2e.project import write_project
from tests.stages.changed import changed
from tests.tiny_classes import make_tiny

pytestmark = pytest.mark.slow
KEY = VariantKey("acme", "places")
OPEN: dict[str, Any] = {"method.rank": None, "plan.probe": {"share": 0.5, "steps": 2}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Through the training, of a base whose layers have a state."""
    base = make_tiny("bamba", tmp_path_factory.mktemp("bamba") / "base")
    folder = write_project(tmp_path_factory.mktemp("unpacked") / "project", base)
    workspace = Workspace(load_settings(folder), KEY, RunOf("test", "test", lambda line: None))
    outcome = run_chain(workspace, up_to("fine_tuned_model"))
    assert outcome.error is None, outcome.error
    return workspace


@pytest.mark.long
def test_it_is_trained_unpacked_and_the_plan_says_why_and_what_that_costs(trained: Workspace) -> None:
    plan = trained.upstream("training_plan")
    assert plan.figures["training"]["packing"] is False
    assert plan.spec["leaks"] is True
    (said,) = (line for line in plan.figures["warnings"] if line.startswith("not packed"))
    assert "the logits of the second moved by" in said
    assert "times the positions" in said
    assert trained.upstream("fine_tuned_model").inputs["training_plan"] == plan.digest


@pytest.mark.long
def test_a_plan_ahead_of_a_run_says_so_too(trained: Workspace) -> None:
    preview = plan_variant(trained.settings, KEY)
    assert preview.estimate.plan.training["packing"] is False
    assert any(line.startswith("not packed") for line in preview.warnings)


@pytest.mark.parametrize("stage", [training_plan.STAGE, probe.STAGE], ids=lambda stage: stage.name)
@pytest.mark.parametrize(
    ("declared", "leaks"),
    [
        ({}, True),
        ({"method.name": "auto"}, True),
        ({"training.packing": False}, None),
        ({"method.name": "prompt_tuning"}, None),
    ],
)
@pytest.mark.long
def test_the_key_says_so_where_examples_would_be_packed_and_nowhere_else(
    trained: Workspace, stage: Any, declared: dict[str, Any], leaks: bool | None
) -> None:
    if stage is probe.STAGE:
        declared = {**OPEN, **declared}
    recipe, _ = changed(trained, {"method.rank": None, **declared}).recipe(stage)
    assert recipe.spec.get("leaks") is leaks


@pytest.mark.parametrize("stage", [training_plan.STAGE, probe.STAGE], ids=lambda stage: stage.name)
@pytest.mark.parametrize("method", ["lora", "auto", "full", "prompt_tuning"])
def test_the_key_of_a_base_that_keeps_examples_apart_has_no_word_of_it(
    chained: Workspace, stage: Any, method: str
) -> None:
    declared = {"method.rank": None, "method.name": method, "export.format": "merged"}
    if method == "prompt_tuning":
        declared["export.format"] = "adapter"
    recipe, _ = changed(chained, declared if stage is training_plan.STAGE else {**OPEN, **declared}).recipe(
        stage
    )
    assert "leaks" not in recipe.spec


@pytest.mark.long
def test_how_much_it_moved_is_in_no_key(trained: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    before = trained.recipe(training_plan.STAGE)[0].place
    (trained.cache / "findings.sqlite").unlink()
    monkeypatch.setattr(apart, "measured_leak", lambda config: "it moved by another number")
    recipe, inputs = trained.recipe(training_plan.STAGE)
    assert (recipe.place, inputs.leak) == (before, "it moved by another number")
    (trained.cache / "findings.sqlite").unlink()


@pytest.mark.long
def test_a_plan_of_before_that_packs_is_not_taken_for_todays(trained: Workspace) -> None:
    """Its key had no word of it: the variant is planned and trained anew, and no other is."""
    recipe, _ = trained.recipe(training_plan.STAGE)
    of_before = {name: value for name, value in recipe.spec.items() if name != "leaks"}
    version = version_of("training_plan")
    assert stage_key("training_plan", version, recipe.inputs, recipe.spec) == recipe.place.key
    assert stage_key("training_plan", version, recipe.inputs, of_before) != recipe.place.key


@pytest.mark.long
def test_a_version_that_was_packed_though_its_base_leaks_is_out_of_date(trained: Workspace) -> None:
    version = version_artifacts(trained.store, trained.prefix)
    plan = version.artifacts["training_plan"]

    def causes(of: VersionArtifacts) -> list[str]:
        return [each.what for each in difference(trained, trained.declared(), of, FoundNow(None))]

    trained.recipe(training_plan.STAGE)  # it is measured on this host
    assert causes(version) == []
    spec = {name: value for name, value in plan.spec.items() if name != "leaks"}
    figures = {**plan.figures, "training": {**plan.figures["training"], "packing": True}}
    of_older_code = replace(plan, predicate={**plan.predicate, "spec": spec, "figures": figures})
    packed = version._replace(artifacts={**version.artifacts, "training_plan": of_older_code})
    assert causes(packed) == ["training_plan"]
