"""Today's policy, and the releases beneath a version, are asked whenever somebody would serve it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError, all_of
from ft_dagster.lineage.release import history, production
from ft_dagster.settings import load_settings
from ft_dagster.stages.release import release
from tests.e2e.project import POLICY, edit, write_yaml
from tests.long import mostly_long
from tests.present import present
from tests.security.pretend import KEY, Pretend, desk
from tests.security.served_story import (
    CHILD,
    PROMOTE,
    PUBLISH,
    RIGHT,
    ROLLBACK,
    child_of,
    file_of,
    out,
    project,
    released,
    served,
    story,
    trained,
    typed,
)

__all__ = ["project", "story"]
pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("policy", "field"),
    mostly_long(
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
        every=3,
    ),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_promotion_and_publishing_ask_the_policy_of_today(
    project: Path, tmp_path: Path, policy: dict[str, Any], field: str
) -> None:
    assert served(project) == {"production": 2, "candidate": 3}
    write_yaml(project / "policy.yaml", {**POLICY, **policy})
    for words in (PROMOTE, (*PUBLISH, str(tmp_path / "out")), (*PUBLISH[:2], *out(tmp_path))):
        with pytest.raises(UserError, match="is not as the policy demands") as refused:
            typed(project, *words)
        assert [error.field for error in all_of(refused.value)] == [field]
        assert "policy.yaml: " in str(refused.value)
    assert served(project) == {"production": 2, "candidate": 3}
    assert not (tmp_path / "out").exists()
    write_yaml(project / "policy.yaml", POLICY)
    typed(project, *PROMOTE)
    typed(project, *PUBLISH[:2], *out(tmp_path))
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
    with pytest.raises(UserError, match=r"version 1 of acme\.places is not as the policy demands") as refused:
        typed(project, *ROLLBACK, "--to", "1", "--force")  # the policy names nobody who may
    assert "have an approver whom policy.yaml names go back to it by --force" in refused.value.fix
    edit(file_of(project), lambda content: content["gates"].update(general_margin=0.1))
    typed(project, *ROLLBACK)  # to version 2, whatever is declared by now
    assert served(project)["production"] == 2


def test_at_night_a_rollback_is_kept_from_nothing_that_production_breaks_too(project: Path) -> None:
    """A base that nobody may use any more: what is served stands on it, and so does the version before."""
    write_yaml(project / "policy.yaml", {**POLICY, "bases": ["theirs/*"], "approvers": ["eve"]})
    said = typed(project, *ROLLBACK, "--by", "whoever is awake")
    assert served(project)["production"] == 1
    assert "acme.places v1 is in production and may no longer be served (policy, approval): " in said


def test_an_approver_of_the_policy_goes_back_to_what_it_does_not_allow(project: Path) -> None:
    tighter = {**POLICY["gates"], "general_margin": 0.05}
    write_yaml(project / "policy.yaml", {**POLICY, "gates": tighter, "approvers": ["eve"]})
    edit(file_of(project), lambda content: content.update(release={"approvers": ["ann", "eve"]}))
    for words in ((*ROLLBACK, "--by", "eve"), (*ROLLBACK, "--by", "ann", "--force")):
        with pytest.raises(UserError, match=r"version 1 of acme\.places is not as the policy demands"):
            typed(project, *words)
    typed(project, *ROLLBACK, "--by", "eve", "--force")
    newest = history(load_settings(project).open_store(), KEY.prefix)[-1]
    assert (newest.action, newest.production, newest.forced) == ("rollback", 1, True)


def test_a_rollback_asks_the_policy_where_the_declaration_is_gone(project: Path) -> None:
    file_of(project).unlink()
    tighter = {**POLICY["gates"], "general_margin": 0.05}
    write_yaml(project / "policy.yaml", {**POLICY, "gates": tighter})
    with pytest.raises(UserError, match=r"version 1 of acme\.places is not as the policy demands: at most"):
        typed(project, *ROLLBACK)
    write_yaml(project / "policy.yaml", {**POLICY, "budget_usd": 1.0, "approvers": ["eve"]})
    typed(project, *ROLLBACK)  # what it cost, and who may approve others, is past
    assert served(project)["production"] == 1


def test_what_was_rolled_back_is_not_published(project: Path, tmp_path: Path) -> None:
    typed(project, *ROLLBACK)
    with pytest.raises(UserError, match="version 2 was rolled back: worse"):
        typed(project, "publish", str(KEY), "--version", "2", "--folder", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.long
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
    forced = ("--force", "--reason", "read its answers")
    with pytest.raises(UserError, match="eve may not approve"):
        typed(project, "release", str(CHILD), "--by", "eve", *forced)
    with pytest.raises(UserError, match=said):
        typed(project, "release", str(CHILD), "--by", "ann", "--reason", "read its answers")
    typed(project, "release", str(CHILD), "--by", "ann", *forced)
    assert present(production(workspace.store, CHILD.prefix)).version == 1
    status = typed(project, "status", str(CHILD))
    assert "may no longer be served" not in status  # an approver decided on it


@pytest.mark.long
def test_a_promotion_and_a_rollback_to_what_stands_on_a_rolled_back_parent_need_an_approver(
    project: Path, tmp_path: Path
) -> None:
    child_of(project)
    released(project, "child", CHILD)
    typed(project, *ROLLBACK)
    typed(project, "release", str(KEY), "--version", "3", "--by", "ann")
    released(project, "other", CHILD)  # on version 3 of its parent
    back = ("rollback", str(CHILD), "--reason", "worse", "--by", "ann")
    forced = ("--version", "1", "--force", "--reason", "read its answers")
    publish = ("publish", str(CHILD), "--version", "1", *out(tmp_path))
    promote = ("release", str(CHILD), "--version", "1")
    for words in (back, promote, ("release", str(CHILD), *forced), publish):
        with pytest.raises(UserError, match=r"acme\.places v2, which it was made on, was rolled back"):
            typed(project, *words)
    write_yaml(project / "policy.yaml", {**POLICY, "approvers": ["ann"]})
    for words in ((*back[:-1], "eve"), (*promote, "--by", "ann")):
        with pytest.raises(UserError, match=r"acme\.places v2, which it was made on, was rolled back"):
            typed(project, *words)
    typed(project, "release", str(CHILD), *forced, "--by", "ann")
    typed(project, *publish)
    typed(project, "release", str(CHILD), "--version", "2", "--by", "ann")
    typed(project, *back)  # as she accepted it before
    assert served(project, CHILD)["production"] == 1
    edit(file_of(project, CHILD), lambda content: content.update(release={"approvers": ["bob"]}))
    write_yaml(project / "policy.yaml", {**POLICY, "approvers": ["bob"]})
    assert "acme.colours v1 is in production and may no longer be served (parent, approval)" in typed(
        project, "status"
    )
    write_yaml(project / "policy.yaml", {**POLICY, "approvers": ["ann", "bob"]})
    edit(file_of(project, CHILD), lambda content: content.pop("release"))
    typed(project, "release", str(KEY), "--version", "2", *forced[2:], "--by", "ann")
    assert "may no longer be served" not in typed(project, "status", str(CHILD))


@pytest.mark.long
def test_status_names_children_in_production_on_a_parent_that_was_rolled_back(project: Path) -> None:
    child_of(project)
    released(project, "child", CHILD)
    assert "rolled back" not in typed(project, "status")
    typed(project, *ROLLBACK)
    said = "acme.places v2, which it was made on, was rolled back"
    line = f"{CHILD} v1 is in production and may no longer be served (parent): {said}: worse"
    assert line in typed(project, "status")
    rows = {row["variant"]: row for row in json.loads(typed(project, "status", "--json"))["variants"]}
    (cause,) = [each for each in rows[str(CHILD)]["causes"] if each["kind"] == "rolled_back"]
    assert (cause["what"], cause["words"]) == (str(KEY), said)
    assert rows[str(CHILD)]["stale"] == said
    assert rows[str(CHILD)]["version"] == 1
    ((alone, *_),) = [each.values() for each in rows[str(KEY)]["may_not_serve"]["findings"]]
    assert alone == "approval"  # which a rollback needs none of
    unserved = rows[str(CHILD)]["may_not_serve"]
    assert (unserved["version"], unserved["withheld"]) == (1, False)
    assert [(each["rule"], each["words"]) for each in unserved["findings"]] == [("parent", f"{said}: worse")]
