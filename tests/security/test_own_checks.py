"""A tenant's own check is nobody else's benchmark, whatever it calls itself and wherever its file lies."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.assets.evaluation import describe_base, describe_evaluation
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.settings import load_settings
from ft_dagster.stages import base_evaluation, evaluation
from ft_dagster.stages.chain import CHAIN, run_chain
from ft_dagster.stages.release import release
from ft_dagster.versions.version_files import open_version
from ft_dagster.versions.version_report import _before_and_after, _rules, _skills
from ft_dagster.workspace.policy import own_entries
from ft_dagster.workspace.workspace import Workspace
from tests.e2e.project import POLICY, TASK, edit, questions, write_lines, write_project, write_yaml
from tests.security.pretend import KEY, Pretend, desk
from tests.security.projects import declare, mistakes, two_tenants

CYRILLIC = "arc_eаsy"  # codespell:ignore  # its second a is not Latin


def a_check(file: Path, name: str) -> None:
    """A YAML of multiple-choice questions that calls itself so."""
    write_lines(file.with_suffix(".jsonl"), questions(5))
    data = {"data_files": {"test": f"{file.stem}.jsonl"}}
    write_yaml(file, {**TASK, "task": name, "dataset_kwargs": data})


def test_own_is_every_folder_that_a_tenant_may_write(tmp_path: Path) -> None:
    project, outside = two_tenants(tmp_path), tmp_path / "outside"
    settings = project / "ft_dagster.yaml"
    edit(
        settings,
        lambda content: content.setdefault("sources", {}).update(
            allow=[".", str(tmp_path / "shared")], per_tenant={"acme": [str(outside)]}
        ),
    )
    for place in ("tasks/acme/easy.yaml", "tasks/official.yaml", "acme/easy.yaml"):
        a_check(project / place, "easy")
    for folder in (outside, tmp_path / "shared"):
        a_check(folder / "easy.yaml", "easy")
    (project / "tasks/linked.yaml").symlink_to("acme/easy.yaml")
    (project / "tasks/acme/link.yaml").symlink_to("../official.yaml")
    own = [
        *("tasks/acme/easy.yaml", "tasks/acme/link.yaml", "tasks/linked.yaml", "acme/easy.yaml"),
        *("tasks/globex/../acme/easy.yaml", str(outside / "easy.yaml")),
    ]
    others = ["tasks/official.yaml", str(tmp_path / "shared" / "easy.yaml"), "arc_easy"]
    assert list(own_entries(load_settings(project).roots("acme"), [*own, *others])) == own
    assert own_entries(load_settings(project).roots("globex"), own) == ()


@pytest.mark.parametrize("entry", ["{outside}/easy.yaml", "tasks/linked.yaml"])
def test_a_general_benchmark_that_a_tenant_may_write_is_none(tmp_path: Path, entry: str) -> None:
    project, outside = two_tenants(tmp_path), tmp_path / "outside"
    for folder in (outside, project / "tasks/acme"):
        a_check(folder / "easy.yaml", "easy")
    (project / "tasks/linked.yaml").symlink_to("acme/easy.yaml")
    write_yaml(project / "ft_dagster.yaml", {"sources": {"per_tenant": {"acme": [str(outside)]}}})
    named = entry.format(outside=outside)
    asked = {"general": [named], "limit": 400}
    declare(project, data={"sources": ["data/acme/rows.jsonl"]}, evaluation=asked)
    assert "not the tenant's own" in str([error.problem for error in mistakes(project)])
    declare(
        project,
        data={"sources": ["data/acme/rows.jsonl"]},
        evaluation={**asked, "general": [named, "arc_easy"]},
    )
    assert "not the tenant's own" not in str([error.problem for error in mistakes(project)])


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Workspace:
    """By a check of its own that calls itself a benchmark, and by one of the platform's."""
    project = write_project(tmp_path_factory.mktemp("own") / "project", tiny_model_folder)
    a_check(project / "tasks/acme/arc.yaml", "arc_easy")
    a_check(project / "tasks/acme/alike.yaml", CYRILLIC)

    def adjust(content: dict[str, Any]) -> None:
        own = ["tasks/acme/arc.yaml", "tasks/acme/alike.yaml"]
        content["evaluation"].update(general=[*own, "tasks/sea_quiz.yaml"], limit=200)
        content["gates"] = {
            "general_margin": 0.1,
            "general_loss_margin": 0.3,
            "loss_tail": 0.5,
            "alpha": 0.05,
        }
        content["data"]["decontaminate"] = {"enabled": False}
        content["gates"] |= {"regression_margin": 0.1, "regression_loss_margin": 1.0}
        content["gates"]["metrics"] = {"arc_easy": "acc"}  # by its own name

    edit(project / f"tenants/{KEY.tenant}/{KEY.variant}.yaml", adjust)
    write_yaml(project / "policy.yaml", POLICY)
    workspace = desk(project, Pretend())
    outcome = run_chain(workspace, CHAIN)
    assert outcome.error is None, outcome.error
    return workspace


CALLED = {"acme/arc_easy", f"acme/{CYRILLIC}", "sea_quiz", "test_split_task"}


@pytest.mark.slow
def test_a_check_of_the_tenants_own_is_prefixed_wherever_it_is_shown(judged: Workspace) -> None:
    verdict = Verdict.from_json(judged.upstream("evaluation").figures["verdict"])
    assert {rule.task for rule in verdict.rules} == CALLED
    for rule in verdict.rules:
        assert f" {rule.task} (" in rule.sentence
        assert rule.what.endswith(f" {rule.task}")
    released = release(judged)
    assert {rule.task for rule in released.verdict.rules} == CALLED
    stored = open_version(judged.settings, KEY)
    pages = {
        "report": str(
            [_rules(verdict, ""), *_skills(stored, judged.spec), *_before_and_after(stored, judged.spec)]
        ),
        "page": str(describe_evaluation(judged, judged.upstream("evaluation"))),
        "base": str(describe_base(judged, judged.upstream("base_evaluation"))),
    }
    for name, page in pages.items():
        text = page.replace("\u200b", "").replace("&#8203;", "")
        for own in ("arc_easy", CYRILLIC):
            assert f"acme/{own}" in text, name
            assert own not in text.replace(f"acme/{own}", ""), name


@pytest.mark.slow
def test_what_a_check_is_called_moves_no_key_and_asks_nothing_again(
    judged: Workspace, tmp_path: Path
) -> None:
    """Where a platform has given a tenant the folder of its checks since."""
    project = shutil.copytree(judged.project, tmp_path / "project")
    edit(
        project / "ft_dagster.yaml",
        lambda content: content["sources"].update(per_tenant={"acme": [str(project / "tasks")]}),
    )
    pretend = Pretend()
    workspace = desk(project, pretend)
    for_base, for_weights = workspace.make(base_evaluation.STAGE), workspace.make(evaluation.STAGE)
    assert for_base.place == judged.upstream("base_evaluation").place
    assert for_weights.place == judged.upstream("evaluation").place
    assert pretend.ran == []
    called = {rule.task for rule in release(workspace).verdict.rules}
    assert called == {*CALLED, "acme/sea_quiz"} - {"sea_quiz"}
