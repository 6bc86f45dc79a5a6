"""A platform's policy where a run meets it: before anything is made, and again at each judgement."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ft_dagster.errors import UserError, all_of
from ft_dagster.lineage.release import history
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.planning.cost.learned import Predicted
from ft_dagster.planning.hardware.catalogue import Hardware
from ft_dagster.settings import load_settings
from ft_dagster.spec import load_variant
from ft_dagster.spec.policy import Policy
from ft_dagster.stages import declaration, evaluation, fine_tuned_model, model_export, training_plan
from ft_dagster.stages.chain import run_chain
from ft_dagster.stages.release import release
from ft_dagster.store import Artifact
from ft_dagster.versions.preview import plan_variant
from ft_dagster.workspace import policy
from ft_dagster.workspace.policy import problems, refuse_frozen, unknown_targets
from ft_dagster.workspace.workspace import Workspace
from tests.e2e.project import POLICY, edit, write_yaml
from tests.present import present
from tests.security.pretend import Pretend
from tests.security.projects import KEY, QUIZ, declare, mistakes, two_tenants

pytestmark = pytest.mark.slow

DECLARED = "tenants/acme/support.yaml"
FLOOR = "not as the policy demands"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return two_tenants(tmp_path)


@pytest.fixture
def stricter(chained: Workspace) -> Iterator[Workspace]:
    """A whole chain whose platform takes back what it allowed."""
    file = chained.project / "policy.yaml"
    write_yaml(file, {**POLICY, "evaluation": {"questions": 13, "general": "none"}})
    yield Workspace(chained.settings, chained.key, chained.run)
    write_yaml(file, POLICY)


def lax(project: Path) -> None:
    declare(project, gates={"alpha": 0.499}, evaluation={"general": [], "task": ["tasks/quiz.yaml"]})


def test_check_plan_and_a_run_say_the_rule_and_who_set_it(project: Path) -> None:
    lax(project)
    (error,) = mistakes(project)
    assert error.field == "gates.alpha"
    assert error.problem == f"{FLOOR}: at most 0.1 (built in: gates.alpha)"
    assert error.file == str(project / "tenants/acme/support.yaml")
    settings = load_settings(project)
    for refused in (
        lambda: plan_variant(settings, KEY),
        lambda: Workspace(settings, KEY).make(declaration.STAGE),
    ):
        with pytest.raises(UserError, match=FLOOR):
            refused()


def test_a_value_of_the_defaults_is_blamed_on_them(project: Path) -> None:
    declare(project)
    write_yaml(project / "tenants/defaults.yaml", {"gates": {"undecided": "measured"}})
    (error,) = mistakes(project)
    assert error.file == str(project / "tenants/defaults.yaml")


LISTED = {"general": ["tasks/quiz.yaml"], "task": []}


def test_a_benchmark_of_the_platforms_own_is_judged_by_its_main_metric(project: Path) -> None:
    """`gates.metrics` names it as its YAML does, the policy by the file."""
    declare(project, evaluation=LISTED, gates={"metrics": {"quiz": "acc_norm"}})
    settings = load_settings(project)
    assert mistakes(project) == []
    before = Workspace(settings, KEY)
    frozen = before.declared().spec
    write_yaml(project / "policy.yaml", {"evaluation": {"general": ["tasks/quiz.yaml"]}})
    (error,) = mistakes(project)
    assert (error.field, error.value) == ("gates.metrics.quiz", "acc_norm")
    assert error.problem == f"{FLOOR}: its main metric (policy.yaml: evaluation.general)"
    for refused in (
        lambda: Workspace(settings, KEY).make(declaration.STAGE),
        lambda: refuse_frozen(Workspace(settings, KEY), frozen),
    ):
        with pytest.raises(UserError, match="its main metric"):
            refused()
    declare(project, evaluation={**LISTED, "task": ["tasks/mine.yaml"]}, gates={"metrics": {"mine": "acc"}})
    write_yaml(project / "tasks/mine.yaml", {**QUIZ, "task": "mine"})
    assert mistakes(project) == []


def test_a_benchmark_that_cannot_be_read_is_said_once_beside_what_else_is_wrong(project: Path) -> None:
    write_yaml(project / "policy.yaml", {"evaluation": {"general": ["tasks/quiz.yaml"]}})
    declare(project, evaluation=LISTED, gates={"alpha": 0.499, "metrics": {"quiz": "acc_norm"}})
    write_yaml(project / "tasks/quiz.yaml", {"group": "quiz"})
    found = [(error.file, error.field) for error in mistakes(project)]
    assert found == [(str(project / "tasks/quiz.yaml"), None), (str(project / DECLARED), "gates.alpha")]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"objective": "domain_knowledge", "evaluation": {"general": []}}, "evaluation.task"),
        (
            {
                "gates": {"general_margin": 0.01, "loss_tail": 0.1},
                "evaluation": {"general": ["arc_easy"], "limit": 100},
            },
            "gates.general_margin",
        ),
        (
            {
                "gates": {"max_regurgitation": 0.1},
                "evaluation": {"general": [], "task": ["tasks/quiz.yaml"], "probed_rows": 0},
            },
            "gates.max_regurgitation",
        ),
    ],
)
def test_a_gate_that_cannot_hold_is_said_before_hours_are_spent(
    project: Path, changes: dict[str, Any], field: str
) -> None:
    declare(project, **changes)
    settings = load_settings(project)
    assert [error.field for error in mistakes(project)] == [field]
    for refused in (
        lambda: plan_variant(settings, KEY),
        lambda: Workspace(settings, KEY).make(declaration.STAGE),
    ):
        with pytest.raises(UserError) as caught:
            refused()
        assert [error.field for error in all_of(caught.value)] == [field]


def test_a_margin_on_general_text_is_no_gate_where_there_is_none(project: Path) -> None:
    task = {"general": ["arc_easy"], "task": ["tasks/quiz.yaml"]}
    strict = {"gates": {"general_loss_margin": 0.001}, "evaluation": task}
    declare(project, **strict)
    assert [error.field for error in mistakes(project)] == ["gates.general_loss_margin"]
    declare(project, **strict, data={"sources": ["data/acme/rows.jsonl"]})
    assert mistakes(project) == []


def test_a_benchmark_with_too_few_questions_for_its_rule_is_refused_before_the_training(
    chained: Workspace, tmp_path: Path
) -> None:
    """30 questions, whatever `evaluation.limit` asks; the plan and the weights of the same data stand."""
    project = shutil.copytree(chained.project, tmp_path / "project")
    wide = {"alpha": 0.4, "regression_margin": None, "loss_tail": 1.0}
    gates = {"undecided": "fail", "general_margin": 0.05, **wide}

    def change(content: dict[str, Any]) -> None:
        content["gates"].update(gates)
        content["evaluation"]["limit"] = 400

    edit(project / "tenants/acme/places.yaml", change)
    workspace = Workspace(load_settings(project), chained.key, chained.run)
    outcome = run_chain(workspace)
    assert set(outcome.made) == {"declaration", "base_model", "task_dataset", "training_mixture"}
    error = present(outcome.error)
    assert "gates.general_margin" in error
    assert "of the 30 questions that tasks/sea_quiz.yaml has even a model of which no answer changed" in error
    assert "from 32 on it can (got 0.05)" in error
    edit(project / "tenants/acme/places.yaml", lambda content: content["gates"].update(general_margin=0.06))
    workspace.make(declaration.STAGE)
    workspace.make(training_plan.STAGE)


def test_the_verdict_says_by_which_policy(chained: Workspace) -> None:
    artifact = chained.upstream("evaluation")
    policy = chained.settings.policies().of("acme")
    assert Verdict.from_json(artifact.figures["verdict"]).policy == policy.digest
    kept = (chained.evidence(artifact) / "policy.json").read_text()
    assert Policy.model_validate_json(kept) == policy


def test_what_was_frozen_before_the_policy_got_stricter_is_not_judged_exported_or_released(
    stricter: Workspace,
) -> None:
    before = history(stricter.store, stricter.prefix)
    for refused in (
        lambda: stricter.make(evaluation.STAGE),
        lambda: stricter.make(model_export.STAGE),
        lambda: release(stricter),
    ):
        with pytest.raises(UserError, match="at least 13 questions"):
            refused()
    assert history(stricter.store, stricter.prefix) == before


def test_a_target_that_the_platform_does_not_know_is_said_by_check_and_refuses_no_run(project: Path) -> None:
    settings = project / "ft_dagster.yaml"
    known = yaml.safe_load(settings.read_text("utf-8")) if settings.exists() else {}
    targets = {"ops": {"webhook": "https://hooks.example.com/ft"}, "log": {"file": "events.jsonl"}}
    write_yaml(settings, {**known, "notifications": {"targets": targets}})
    declare(project, notify=["ops", "opps"])
    (error,) = mistakes(project)
    assert (error.field, error.value, error.fix) == ("notify", "opps", "Did you mean ops?")
    assert error.file == str(project / "tenants/acme/support.yaml")
    declared = load_variant(project, KEY)
    assert [each.value for each in unknown_targets(load_settings(project), declared)] == ["opps"]
    assert problems(load_settings(project), declared) == []
    declare(project)
    write_yaml(project / "tenants/defaults.yaml", {"notify": ["nobody"]})
    (error,) = mistakes(project)
    assert (error.file, error.fix) == (str(project / "tenants/defaults.yaml"), "Known: log, ops")


def test_a_training_that_costs_more_than_the_policy_allows_does_not_begin(
    chained: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is declared: the number in the declaration is the tenant's, the plan's is not. At the price of
    today, since no plan is made anew for another one. A model that stands costs nothing more.
    """
    plan, project = chained.make(training_plan.STAGE), shutil.copytree(chained.project, tmp_path / "project")
    write_yaml(project / "policy.yaml", {**POLICY, "per_tenant": {"acme": {"budget_usd": 12.0}}})
    hours = Predicted.from_json(plan.figures["predicted"]).hours
    assert hours
    run = Workspace(load_settings(project), chained.key, chained.run, launcher=Pretend())
    host = Hardware("cpu", 1, "CPU")

    def make_at(usd: float | None) -> Artifact:
        price = None if usd is None else usd / hours
        monkeypatch.setattr(policy, "hardware_of", lambda *_: replace(host, usd_per_hour=price))
        assert run.make(training_plan.STAGE).digest == plan.digest
        return run.make(fine_tuned_model.STAGE)

    assert make_at(12.5).reused
    (trained,) = (project / ".ft_dagster/store").glob("**/acme/places/fine_tuned_model")
    shutil.rmtree(trained)
    with pytest.raises(UserError, match=r"costs \$12.50, and the policy allows \$12.00") as caught:
        make_at(12.5)
    assert "per_tenant.acme.budget_usd" in caught.value.problem
    for allowed in (11.5, None):
        assert not make_at(allowed).reused
        shutil.rmtree(trained)


def test_a_declaration_that_is_put_back_costs_nothing_more(
    chained: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its model stands, and is the newest no more: no run is refused for its price, and no plan says so."""
    project = shutil.copytree(chained.project, tmp_path / "project")
    declared = project / "tenants/acme/places.yaml"
    edit(declared, lambda content: content["resources"].update(budget_usd=12.0))
    first = declared.read_text("utf-8")
    run = Workspace(load_settings(project), chained.key, chained.run, launcher=Pretend())
    edit(declared, lambda content: content["training"].update(learning_rate=0.0021))
    run.make(declaration.STAGE)
    run.make(training_plan.STAGE)
    other = run.make(fine_tuned_model.STAGE)
    declared.write_text(first, "utf-8")
    write_yaml(project / "policy.yaml", {**POLICY, "budget_usd": 12.0})
    run = Workspace(load_settings(project), chained.key, chained.run)

    def refusals() -> list[str]:
        return [said for said in plan_variant(run.settings, run.key).warnings if "refused" in said]

    monkeypatch.setattr(Predicted, "usd", lambda *_: 12.5)
    run.make(declaration.STAGE)
    assert refusals() == []
    run.make(training_plan.STAGE)
    assert run.make(fine_tuned_model.STAGE).reused
    assert other.digest != run.upstream("fine_tuned_model").digest
    edit(declared, lambda content: content["training"].update(learning_rate=0.0022))
    assert len(refusals()) == 1


@pytest.mark.parametrize(("budget", "refused"), [(1.0, True), (1e6, False)])
def test_a_plan_says_that_a_run_will_be_refused_for_its_price(
    chained: Workspace, tmp_path: Path, budget: float, refused: bool
) -> None:
    card = Hardware("gpu", 1, "A dear card", 16 * 10**9, 1e12, True, usd_per_hour=1e6)
    project = shutil.copytree(chained.project, tmp_path / "project")
    write_yaml(project / "policy.yaml", {**POLICY, "budget_usd": budget})
    edit(project / "tenants/acme/places.yaml", lambda content: content["resources"].update(budget_usd=1.0))
    made = plan_variant(load_settings(project), chained.key, card)
    usd = made.estimate.predicted.usd(card.usd_per_hour)
    assert usd == pytest.approx(made.estimate.planned_row.cost_usd, rel=1e-3)
    assert made.warnings[0].startswith("a run will be refused: by its plan it costs $") is refused
