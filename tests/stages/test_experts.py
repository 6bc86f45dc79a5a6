"""All linear layers of a base of experts have the experts among them: in plan, key and training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.stages import probe, training_plan
from ft_dagster.stages.chain import run_chain, up_to
from ft_dagster.versions.look import FoundNow
from ft_dagster.versions.now import difference
from ft_dagster.versions.version_artifacts import VersionArtifacts, version_artifacts
from ft_dagster.workspace.workspace import RunOf, Workspace
from tests.e2e.project import write_project
from tests.stages.changed import changed
from tests.tiny_classes import make_tiny

pytestmark = pytest.mark.slow
KEY = VariantKey("acme", "places")
OPEN: dict[str, Any] = {"method.rank": None, "plan.probe": {"share": 0.5, "steps": 2}}
EXPERTS = ["experts.down_proj", "experts.gate_up_proj"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Through the training, of a base of experts."""
    base = make_tiny("granitemoe", tmp_path_factory.mktemp("granite") / "base")
    folder = write_project(tmp_path_factory.mktemp("experts") / "project", base)
    workspace = Workspace(load_settings(folder), KEY, RunOf("test", "test", lambda line: None))
    outcome = run_chain(workspace, up_to("fine_tuned_model"))
    assert outcome.error is None, outcome.error
    return workspace


@pytest.mark.long
def test_the_experts_are_planned_and_trained(trained: Workspace) -> None:
    plan, model = trained.upstream("training_plan"), trained.upstream("fine_tuned_model")
    assert plan.figures["method"]["target_parameters"] == EXPERTS
    assert plan.spec["experts"] is True
    assert 0 < model.figures["expert_matrices_moved"] <= model.figures["expert_matrices"] == 16


@pytest.mark.long
def test_what_cannot_be_done_is_refused_before_a_run(trained: Workspace) -> None:
    workspace = changed(trained, {"method.dropout": 0.1})
    with pytest.raises(UserError, match=r"experts\.down_proj") as caught:
        workspace.make(training_plan.STAGE)
    assert (caught.value.field, caught.value.value) == ("method.dropout", 0.1)


@pytest.mark.parametrize("stage", [training_plan.STAGE, probe.STAGE], ids=lambda stage: stage.name)
@pytest.mark.parametrize(
    ("declared", "experts"),
    [
        ({}, True),
        ({"method.name": "auto"}, True),
        ({"method.target_modules": ["q_proj"]}, None),
        ({"method.name": "prompt_tuning"}, None),
        ({"method.name": "full", "export.format": "merged"}, None),
    ],
)
@pytest.mark.long
def test_the_key_says_so_where_the_experts_are_among_all_layers_and_nowhere_else(
    trained: Workspace, stage: Any, declared: dict[str, Any], experts: bool | None
) -> None:
    if stage is probe.STAGE:
        declared = {**OPEN, **declared}
    recipe, _ = changed(trained, {"method.rank": None, **declared}).recipe(stage)
    assert recipe.spec.get("experts") is experts


@pytest.mark.parametrize("stage", [training_plan.STAGE, probe.STAGE], ids=lambda stage: stage.name)
@pytest.mark.parametrize("method", ["lora", "auto"])
def test_the_key_of_a_dense_base_has_no_word_of_it(chained: Workspace, stage: Any, method: str) -> None:
    declared = {"method.rank": None, "method.name": method, "export.format": "merged"}
    recipe, _ = changed(chained, declared if stage is training_plan.STAGE else {**OPEN, **declared}).recipe(
        stage
    )
    assert "experts" not in recipe.spec


@pytest.mark.long
def test_a_version_whose_experts_were_not_trained_is_out_of_date(trained: Workspace) -> None:
    version = version_artifacts(trained.store, trained.prefix)
    plan = version.artifacts["training_plan"]

    def causes(of: VersionArtifacts) -> list[str]:
        return [each.what for each in difference(trained, trained.declared(), of, FoundNow(None))]

    trained.recipe(training_plan.STAGE)  # its shapes are read on this host
    assert causes(version) == []
    spec = {name: value for name, value in plan.spec.items() if name != "experts"}
    of_older_code = replace(plan, predicate={**plan.predicate, "spec": spec})
    untrained = version._replace(artifacts={**version.artifacts, "training_plan": of_older_code})
    assert causes(untrained) == ["training_plan"]
