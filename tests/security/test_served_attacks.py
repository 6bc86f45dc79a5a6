"""Today's policy, and the releases beneath a version, are asked whenever somebody would serve it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ft_dagster.cli import app
from ft_dagster.errors import UserError, all_of
from ft_dagster.lineage.release import history, production
from ft_dagster.lineage.served import aliases
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.stages.chain import CHAIN, run_chain
from ft_dagster.stages.release import Released, release
from ft_dagster.workspace.workspace import Workspace
from tests.e2e.project import POLICY, edit, write_project, write_yaml
from tests.present import present
from tests.security.pretend import KEY, Pretend, desk

pytestmark = pytest.mark.slow
CHILD = VariantKey("acme", "colours")
GATES = {
    "general_margin": 0.1,
    "general_loss_margin": 0.3,
    "loss_tail": 0.5,
    "alpha": 0.05,
    "regression_margin": 0.1,
    "regression_loss_margin": 1.0,
}
RIGHT = {"base": 0.0, **dict.fromkeys(("first", "second", "third", "child", "other"), 1.0)}


def file_of(project: Path, key: VariantKey = KEY) -> Path:
    return project / f"tenants/{key.tenant}/{key.variant}.yaml"


def trained(project: Path, name: str, key: VariantKey = KEY, **changes: Any) -> Workspace:
    """The desk of a variant whose newest weights have this name, judged and exported."""

    def change(content: dict[str, Any]) -> None:
        content["training"]["seed"] = list(RIGHT).index(name)
        for part, fields in changes.items():
            content.setdefault(part, {}).update(fields)

    edit(file_of(project, key), change)
    workspace = desk(project, Pretend(name, RIGHT), key)
    outcome = run_chain(workspace, CHAIN)
    assert outcome.error is None, outcome.error
    return workspace


def released(project: Path, name: str, key: VariantKey = KEY, **changes: Any) -> Released:
    return release(trained(project, name, key, **changes))


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """Version 1 was judged by laxer gates; 2 is in production; 3 waits for ann."""
    project = write_project(tmp_path_factory.mktemp("served") / "project", tiny_model_folder)

    def adjust(content: dict[str, Any]) -> None:
        content["gates"] = GATES
        content["evaluation"].update(limit=200)
        content["data"]["decontaminate"] = {"enabled": False}

    edit(file_of(project), adjust)
    released(project, "first")
    released(project, "second", gates={"general_margin": 0.05})
    released(project, "third", release={"approvers": ["ann"]})
    return project


@pytest.fixture
def project(story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = shutil.copytree(story, tmp_path / "project")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FT_DAGSTER_PROJECT", str(folder))  # which opening the instance sets
    return folder


def served(project: Path, key: VariantKey = KEY) -> dict[str, int | None]:
    return aliases(history(load_settings(project).open_store(), key.prefix))


def typed(project: Path, *words: str) -> Any:
    done = CliRunner().invoke(app, ["--project", str(project), *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


PROMOTE = ("release", str(KEY), "--by", "ann")
ROLLBACK = ("rollback", str(KEY), "--reason", "worse")
PUBLISH = ("publish", str(KEY), "--version", "1", "--folder")


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        ({"methods": ["full"]}, "method.name"),
        ({"bases": ["theirs/*"]}, "base_model.source"),
        ({"exports": ["merged"]}, "export.format"),
        ({"gates": {**POLICY["gates"], "general_margin": 0.01}}, "gates.general_margin"),
        ({"evaluation": {**POLICY["evaluation"], "questions": 201}}, "evaluation.limit"),
        (
            {"evaluation": {**POLICY["evaluation"], "decontaminate": "required"}},
            "data.decontaminate.enabled",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_promotion_rollback_and_publishing_ask_the_policy_of_today(
    project: Path, tmp_path: Path, policy: dict[str, Any], field: str
) -> None:
    assert served(project) == {"production": 2, "candidate": 3}
    write_yaml(project / "policy.yaml", {**POLICY, **policy})
    for words in (PROMOTE, ROLLBACK, (*PUBLISH, str(tmp_path / "out"))):
        with pytest.raises(UserError, match="is not as the policy demands") as refused:
            typed(project, *words)
        assert [error.field for error in all_of(refused.value)] == [field]
        assert "policy.yaml: " in str(refused.value)
    assert served(project) == {"production": 2, "candidate": 3}
    write_yaml(project / "policy.yaml", POLICY)
    typed(project, *PUBLISH, str(tmp_path / "out"))
    typed(project, *PROMOTE)
    assert served(project)["production"] == 3
    typed(project, *ROLLBACK)
    assert served(project)["production"] == 2


def test_a_version_is_held_to_the_policy_by_the_gates_that_it_was_judged_by(project: Path) -> None:
    """Version 1 was judged by wider margins than are declared, and than the policy allows, today."""
    tighter = {**POLICY["gates"], "general_margin": 0.05}
    write_yaml(project / "policy.yaml", {**POLICY, "gates": tighter})
    with pytest.raises(
        UserError, match=r"version 1 of acme\.places is not as the policy demands: at most 0\.05"
    ):
        typed(project, *ROLLBACK)
    typed(project, *PROMOTE)
    edit(file_of(project), lambda content: content["gates"].update(general_margin=0.1))
    typed(project, *ROLLBACK)  # to version 2, whatever is declared by now
    assert served(project)["production"] == 2


def test_a_rollback_asks_the_policy_where_the_declaration_is_gone(project: Path) -> None:
    file_of(project).unlink()
    write_yaml(project / "policy.yaml", {**POLICY, "methods": ["full"]})
    with pytest.raises(UserError, match=r"version 1 of acme\.places is not as the policy demands: full"):
        typed(project, *ROLLBACK)
    write_yaml(project / "policy.yaml", {**POLICY, "budget_usd": 1.0, "approvers": ["eve"]})
    typed(project, *ROLLBACK)  # what it cost, and who may approve others, is past
    assert served(project)["production"] == 1


def test_what_was_rolled_back_is_not_published(project: Path, tmp_path: Path) -> None:
    typed(project, *ROLLBACK)
    with pytest.raises(UserError, match="version 2 was rolled back: worse"):
        typed(project, "publish", str(KEY), "--version", "2", "--folder", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def child_of(project: Path, **more: Any) -> None:
    """Declare a variant that starts from the parent's release."""
    shutil.copyfile(file_of(project), file_of(project, CHILD))

    def start(content: dict[str, Any]) -> None:
        content["base_model"] = {"variant": str(KEY), "parent_adapter": "stack"}
        content.pop("release", None)
        content.update(more)

    edit(file_of(project, CHILD), start)


def test_a_version_made_on_a_parent_that_was_rolled_back_is_not_released_without_a_named_approver(
    project: Path,
) -> None:
    child_of(project)
    workspace = trained(project, "child", CHILD)
    typed(project, *ROLLBACK)
    said = "acme.places v2, which it was made on, was rolled back: worse"
    with pytest.raises(UserError, match=said) as refused:
        release(workspace)
    assert "release.approvers" in refused.value.fix
    assert history(workspace.store, CHILD.prefix) == []
    child_of(project, release={"approvers": ["ann"]})
    done = release(desk(project, Pretend("child", RIGHT), CHILD))
    assert f"Version 1 waits for ann ({said})" in done.next
    assert production(workspace.store, CHILD.prefix) is None
    with pytest.raises(UserError, match="eve may not approve"):
        typed(project, "release", str(CHILD), "--by", "eve")
    typed(project, "release", str(CHILD), "--by", "ann", "--reason", "read its answers")
    assert present(production(workspace.store, CHILD.prefix)).version == 1


def test_a_promotion_and_a_rollback_to_what_stands_on_a_rolled_back_parent_need_an_approver(
    project: Path, tmp_path: Path
) -> None:
    child_of(project)
    released(project, "child", CHILD)
    released(project, "other", CHILD)
    typed(project, *ROLLBACK)
    back = ("rollback", str(CHILD), "--reason", "worse", "--by", "ann")
    publish = ("publish", str(CHILD), "--version", "1", "--folder", str(tmp_path / "out"))
    for words in (back, ("release", str(CHILD), "--version", "1"), publish):
        with pytest.raises(UserError, match=r"acme\.places v2, which it was made on, was rolled back"):
            typed(project, *words)
    write_yaml(project / "policy.yaml", {**POLICY, "approvers": ["ann"]})
    with pytest.raises(UserError, match="eve may not approve"):
        typed(project, "rollback", str(CHILD), "--reason", "worse", "--by", "eve")
    typed(project, *back)
    assert served(project, CHILD)["production"] == 1
    forced = ("--version", "2", "--force", "--reason", "it was not")
    typed(project, "release", str(KEY), *forced, "--by", "ann")
    write_yaml(project / "policy.yaml", POLICY)
    typed(project, "release", str(CHILD), *forced)  # the parent is served again: anyone may
    assert served(project, CHILD)["production"] == 2


def test_status_names_children_in_production_on_a_parent_that_was_rolled_back(project: Path) -> None:
    child_of(project)
    released(project, "child", CHILD)
    assert "rolled back" not in typed(project, "status")
    typed(project, *ROLLBACK)
    said = "acme.places v2, which it was made on, was rolled back"
    assert f"{CHILD} v1 is in production: {said}" in typed(project, "status")
    rows = {row["variant"]: row for row in json.loads(typed(project, "status", "--json"))["variants"]}
    (cause,) = [each for each in rows[str(CHILD)]["causes"] if each["kind"] == "rolled_back"]
    assert (cause["what"], cause["words"]) == (str(KEY), said)
    assert rows[str(CHILD)]["stale"] == said
    assert rows[str(CHILD)]["version"] == 1
