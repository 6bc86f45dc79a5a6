"""What erodes release after release is refused once it fell from the reference, whatever its tenant does."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ft_dagster.cli import app
from ft_dagster.errors import UserError
from ft_dagster.lineage.garbage_collection import collect
from ft_dagster.lineage.graph import find_digest
from ft_dagster.lineage.reachable import unreached
from ft_dagster.lineage.release import ReleaseRequest, history, promote, rollback
from ft_dagster.lineage.retention import Rules
from ft_dagster.lineage.verdict import Rule, Verdict
from ft_dagster.planning.looks_left import look_lines
from ft_dagster.settings import Retention
from ft_dagster.spec import VariantKey, load_variant
from ft_dagster.stages import declaration
from ft_dagster.stages.chain import CHAIN, run_chain
from ft_dagster.stages.release import Released, release
from ft_dagster.stages.release_evaluation import judge_release
from ft_dagster.store import Place, Store
from ft_dagster.store.contents import contents_of
from ft_dagster.store.removal import DAY
from ft_dagster.versions.check import check_variant
from ft_dagster.versions.version_course import courses
from ft_dagster.workspace.next_look import look_ahead
from ft_dagster.workspace.workspace import Workspace
from tests.e2e.project import POLICY, edit, write_yaml
from tests.security.attacked import FILE, declare, make, project, train_again, trained
from tests.security.pretend import PREFIX, Pretend, desk

__all__ = ["project", "trained"]
pytestmark = pytest.mark.slow
# Each loses 5 of the 10 points that the margin to production allows; from the reference 20 are.
ERODING = {"second": 0.96, "the third": 0.93, "the fourth": 0.905}
BEFORE = list(ERODING)[:2]


def released(project: Path, name: str, right: Mapping[str, float] = ERODING, **changes: Any) -> Released:
    """Train weights of this name, and release them."""
    return release(desk(project, train_again(project, name, dict(right), **changes)))


@pytest.fixture(scope="module")
def kept_erosion(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three versions were released, each a little worse."""
    project = shutil.copytree(trained, tmp_path_factory.mktemp("eroded") / "project")
    release(desk(project, Pretend()))
    for number, name in enumerate(BEFORE, 2):
        assert released(project, name).entry.version == number
    return project


@pytest.fixture
def eroded(kept_erosion: Path, tmp_path: Path) -> Path:
    """A copy of that project, for the test alone."""
    return shutil.copytree(kept_erosion, tmp_path / "project")


def since(verdict: Verdict) -> dict[str, Rule]:
    return {rule.task: rule for rule in verdict.rules if rule.rule == "reference"}


@pytest.mark.long
def test_the_third_of_three_eroding_generations_is_not_released(eroded: Path) -> None:
    """Each is within the margin to the one before."""
    pretend = train_again(eroded, "the fourth", ERODING, judged=False)
    workspace, ran = desk(eroded, pretend), len(pretend.ran)
    found = judge_release(workspace)
    assert not found.check.passed
    assert found.judgement is not None
    verdict = found.judgement.verdict
    assert all(rule.passed for rule in verdict.rules if rule.rule == "regression")
    rule = since(verdict)["test_split_task"]
    assert (rule.outcome, rule.margin, rule.base, round(rule.tuned, 2)) == ("fail", 0.2, 1.0, 0.85)
    said = "against version 1, the reference (release 3 after it), the task test_split_task"
    assert said in found.check.sentence
    with pytest.raises(UserError, match="the gate does not hold"):
        release(workspace)
    assert pretend.ran[ran:] == []
    assert [entry.version for entry in history(workspace.store, PREFIX)] == [1, 2, 3]


def test_a_model_as_good_as_the_reference_is_released_and_nobody_is_asked_again(eroded: Path) -> None:
    pretend = train_again(eroded, "as good", {**ERODING, "as good": 1.0})
    ran = len(pretend.ran)
    done = release(desk(eroded, pretend))
    assert (done.entry.version, pretend.ran[ran:]) == (4, [])
    rule = since(done.verdict)["test_split_task"]
    assert rule.passed
    assert rule.level == pytest.approx(0.05 / (3 * 4) / 2)  # release 3 after the reference, first try


def test_the_second_version_is_compared_with_the_first_once_and_told_once(project: Path) -> None:
    """The first is in production and the reference."""
    release(desk(project, Pretend()))
    done = released(project, "second")
    assert {rule.rule for rule in done.verdict.rules} == {"task", "general_benchmark", "regression"}


def test_the_second_version_is_refused_where_it_fell_from_the_reference_alone(project: Path) -> None:
    release(desk(project, Pretend()))
    narrow = {"gates": {"reference_margin": 0.05}}
    pretend = train_again(project, "second", ERODING, judged=False, **narrow)
    found = judge_release(desk(project, pretend))
    assert found.judgement is not None
    (rule,) = since(found.judgement.verdict).values()
    assert (rule.outcome, rule.task, found.check.passed) == ("fail", "test_split_task", False)


def test_no_reference_may_be_named_to_hide_a_fall_where_the_policy_says_the_first(eroded: Path) -> None:
    """Neither is it declared, nor does what was declared while it was allowed hold."""
    with pytest.raises(UserError, match="not as the policy demands: the first"):
        train_again(eroded, "the fourth", ERODING, judged=False, gates={"reference": 3})
    write_yaml(eroded / "policy.yaml", {**POLICY, "gates": {**POLICY["gates"], "reference": "any"}})
    pretend = train_again(eroded, "the fourth", ERODING, judged=False)
    write_yaml(eroded / "policy.yaml", POLICY)
    for ask in (judge_release, release):
        with pytest.raises(UserError, match="not as the policy demands: the first") as refused:
            ask(desk(eroded, pretend))
        assert refused.value.field == "gates.reference"


@pytest.mark.long
def test_a_platform_lets_a_later_version_be_the_reference(eroded: Path) -> None:
    write_yaml(eroded / "policy.yaml", {**POLICY, "gates": {**POLICY["gates"], "reference": "any"}})
    done = released(eroded, "the fourth", gates={"reference": 2})
    sentences = [rule.sentence for rule in since(done.verdict).values()]
    assert all("against version 2, the reference (release 2 after it)" in said for said in sentences)
    assert sentences


def test_a_version_that_was_not_released_is_no_reference(project: Path) -> None:
    """It is said before anything is trained, and again before a release."""
    release(desk(project, Pretend()))
    write_yaml(project / "policy.yaml", {**POLICY, "gates": {**POLICY["gates"], "reference": "any"}})
    pretend = train_again(project, "second", ERODING, judged=False)
    declare(project, gates={"reference": 7})
    make(project, *CHAIN, pretend=pretend)
    with pytest.raises(UserError, match="no such version was released before") as refused:
        judge_release(desk(project, pretend))
    assert (refused.value.field, refused.value.fix) == ("gates.reference", "Name one of 1, or `first`")
    with pytest.raises(UserError, match="no such version was released") as refused:
        train_again(project, "another", ERODING, judged=False)
    assert (refused.value.field, refused.value.value) == ("gates.reference", 7)


def test_no_rollback_moves_the_reference(eroded: Path) -> None:
    """Version 1 is promoted and rolled back, so that it may not be served any more."""
    store = desk(eroded, Pretend()).store
    promote(store, PREFIX, 1, ReleaseRequest("for a moment"))
    rollback(store, PREFIX, ReleaseRequest("not this one"))
    assert history(store, PREFIX)[-1].production == 3
    pretend = train_again(eroded, "the fourth", ERODING, judged=False)
    found = judge_release(desk(eroded, pretend))
    assert "against version 1, the reference" in found.check.sentence
    assert not found.check.passed


def test_questions_that_changed_are_put_to_the_reference_as_to_production(eroded: Path) -> None:
    pretend = train_again(
        eroded, "as good", {**ERODING, "as good": 1.0}, judged=False, evaluation={"seed": 5}
    )
    workspace, ran = desk(eroded, pretend), len(pretend.ran)
    found = judge_release(workspace)
    assert found.check.passed
    assert pretend.ran[ran:] == ["evaluation", "evaluation"]
    assert [each.place.stage for each in found.held.answers] == ["production_evaluation"] * 2
    assert release(workspace).entry.version == 4
    assert pretend.ran[ran:] == ["evaluation", "evaluation"]


def collected(store: Store) -> set[Place]:
    """What retention removes that keeps one version, in a year."""
    late = Rules(lambda tenant: Retention(days=1, releases=1), time.time() + 400 * DAY)
    found = unreached(store, contents_of(store), lambda place: False, late)
    done = list(collect(store, found, lambda place: False, late))
    assert not [one for one in done if one.error]
    return {one.of.place for one in done if one.removed}


def test_where_the_weights_are_gone_the_kept_answers_hold(eroded: Path) -> None:
    store = desk(eroded, Pretend()).store
    first = history(store, PREFIX)[0]
    gone = collected(store)
    assert find_digest(store, [PREFIX], "fine_tuned_model", first.weights) is None
    assert find_digest(store, [PREFIX], "evaluation", first.evaluation) is not None
    assert {place.stage for place in gone} >= {"fine_tuned_model", "model_export"}
    pretend = train_again(eroded, "the fourth", ERODING, judged=False)
    found = judge_release(desk(eroded, pretend))
    assert found.judgement is not None
    rule = since(found.judgement.verdict)["test_split_task"]
    assert (rule.outcome, rule.questions) == ("fail", 200)


@pytest.mark.long
def test_where_neither_weights_nor_a_common_question_is_left_it_is_undecided_and_says_what_would_decide(
    eroded: Path,
) -> None:
    collected(desk(eroded, Pretend()).store)
    as_good = {**ERODING, "as good": 1.0}
    pretend = train_again(eroded, "as good", as_good, judged=False, evaluation={"max_new_tokens": 9})
    workspace = desk(eroded, pretend)
    found = judge_release(workspace)
    assert found.judgement is not None
    task = since(found.judgement.verdict)["task"]
    assert (task.outcome, task.passed, found.check.passed) == ("undecided", False, False)
    for said in ("no question was asked of both", "is gone", "from a backup", "gates.reference"):
        assert said in task.sentence
    assert since(found.judgement.verdict)["sea_quiz"].passed  # asked as then
    with pytest.raises(UserError, match="the gate does not hold"):
        release(workspace)


def of_any_version(project: Path) -> None:
    write_yaml(project / "policy.yaml", {**POLICY, "gates": {**POLICY["gates"], "reference": "any"}})


def test_another_margin_or_reference_asks_no_model_again(eroded: Path) -> None:
    of_any_version(eroded)
    pretend = train_again(eroded, "the fourth", ERODING, judged=False)
    assert not judge_release(desk(eroded, pretend)).check.passed
    for gates in ({"reference_margin": 0.3}, {"reference": 2}, {"reference_margin": None, "reference": 3}):
        declare(eroded, gates=gates)
        again = Pretend("the fourth", pretend.right)
        make(eroded, *CHAIN, pretend=again)
        assert judge_release(desk(eroded, again)).check.passed
        assert again.ran == []


CHILD = VariantKey("acme", "copied")


def declared_child(project: Path, pretend: Pretend, **gates: Any) -> Workspace:
    """Copy the variant under a new name onto its own release in production."""
    copied = project / "tenants" / "acme" / "copied.yaml"
    shutil.copyfile(project / FILE, copied)
    start = {"variant": "acme.places", "parent_adapter": "stack"}
    edit(copied, lambda content: content.update(base_model=start, gates={**content["gates"], **gates}))
    return desk(project, pretend, CHILD)


def child(project: Path, pretend: Pretend) -> Workspace:
    """Declare the copy, and train it."""
    workspace = declared_child(project, pretend)
    for stage in CHAIN:
        workspace.make(stage)
    return workspace


@pytest.mark.long
def test_a_copy_on_the_own_release_is_held_against_the_reference_of_the_whole_descent(eroded: Path) -> None:
    """Its task asks the same rows, and its base lost as much of the benchmark as nobody noticed."""
    right = {"base": 0.0, "first": 1.0, **ERODING, "a copy": 0.905}
    pretend = Pretend("a copy", right, {"base": 0.8, "a copy": 0.78})
    workspace = child(eroded, pretend)
    ran = len(pretend.ran)
    found = judge_release(workspace)
    assert found.judgement is not None
    verdict = found.judgement.verdict
    assert {rule.rule for rule in verdict.broken} == {"reference"}
    assert {rule.task for rule in verdict.broken} == {"test_split_task", "sea_quiz"}
    said = "against acme.places version 1, the reference (release 3 after it), the benchmark sea_quiz"
    assert said in found.check.sentence
    assert pretend.ran[ran:] == []
    with pytest.raises(UserError, match="the gate does not hold"):
        release(workspace)
    assert history(workspace.store, CHILD.prefix) == []


@pytest.mark.long
def test_an_ancestor_that_was_asked_other_questions_is_asked_the_general_ones_of_today(eroded: Path) -> None:
    declare(eroded, evaluation={"seed": 5})
    right = {"base": 0.0, "first": 1.0, **ERODING, "a copy": 1.0}
    pretend = Pretend("a copy", right)
    workspace = child(eroded, pretend)
    ran = len(pretend.ran)
    found = judge_release(workspace)
    assert found.check.passed
    assert pretend.ran[ran:] == ["evaluation"]
    assert found.judgement is not None
    assert "sea_quiz" in since(found.judgement.verdict)
    assert release(workspace).entry.version == 1


def test_a_child_that_decides_nothing_against_its_parents_reference_is_told_so_before_it_is_trained(
    eroded: Path,
) -> None:
    """Its own log is empty; of 200 questions a fall of 3 points can be ruled out at a first release, and not
    at the third after the reference.
    """
    pretend = Pretend("a copy", {"base": 0.0, "first": 1.0, **ERODING, "a copy": 1.0})
    workspace = declared_child(eroded, pretend, reference_margin=0.03)
    said = "200 questions cannot decide gates.reference_margin, which takes 203"
    assert said in " ".join(check_variant(workspace.settings, CHILD)["looks"])
    outcome = run_chain(workspace, CHAIN)
    assert "gates.reference_margin" in str(outcome.error)
    assert "no further version passes against the reference of acme.places whatever is" in str(outcome.error)
    assert "training" not in pretend.ran
    assert said in " ".join(look_lines(look_ahead(workspace, workspace.spec), workspace.spec))
    workspace = declared_child(eroded, pretend, reference_margin=0.031)
    assert "no try is left" not in " ".join(check_variant(workspace.settings, CHILD)["looks"])
    outcome = run_chain(workspace, CHAIN)
    assert outcome.error is None, outcome.error


def test_the_command_line_shows_the_whole_descent(eroded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("DAGSTER_", "FT_DAGSTER"))]:
        monkeypatch.delenv(name)
    train_again(eroded, "the fourth", ERODING, judged=False)
    done = CliRunner().invoke(app, ["--project", str(eroded), "compare", "acme.places", "--json"])
    assert done.exit_code == 0, done.output
    (variant,) = json.loads(done.stdout)["variants"]
    (course,) = [one for one in variant["versions"] if one["task"] == "test_split_task"]
    assert [one["version"] for one in course["versions"]] == [1, 2, 3]
    assert [one["reference"] for one in course["versions"]] == [True, False, False]
    assert (course["margin"], course["limit"]) == (0.2, 0.8)
    done = CliRunner().invoke(app, ["--project", str(eroded), "compare", "acme.places"])
    assert "versions over time" in done.output
    assert "0.8 is the largest fall from the reference that passes" in done.output


@pytest.mark.long
def test_a_reference_that_was_never_released_is_the_mistake_of_who_names_it_alone(project: Path) -> None:
    of_any_version(project)
    release(desk(project, Pretend()))
    assert released(project, "second").entry.version == 2
    right = {"base": 0.0, "first": 1.0, **ERODING, "a copy": 0.95}
    child = declared_child(project, Pretend("a copy", right))
    declare(project, gates={"reference": 7})
    make(project, declaration.STAGE)
    root = desk(project, Pretend("second", right))
    for ask in (
        lambda: look_ahead(root, load_variant(project, root.key).spec),
        lambda: check_variant(root.settings, root.key),
    ):
        with pytest.raises(UserError, match="no such version was released") as refused:
            ask()
        assert (refused.value.field, refused.value.file) == ("gates.reference", str(root.declared_in))
    assert run_chain(child, CHAIN).error is None
    found = judge_release(child)
    assert found.judgement is not None
    assert {
        rule.sentence.split(", the reference")[0] for rule in since(found.judgement.verdict).values()
    } == {"against acme.places version 1"}


@pytest.mark.long
def test_the_descent_is_shown_from_the_reference_by_which_it_is_judged(eroded: Path) -> None:
    of_any_version(eroded)
    declare(eroded, gates={"reference": 2})
    make(eroded, declaration.STAGE)
    right = {"base": 0.0, "first": 1.0, **ERODING, "a copy": 0.92}
    child = declared_child(eroded, Pretend("a copy", right), reference="first")
    assert run_chain(child, CHAIN).error is None
    found = judge_release(child)
    assert found.judgement is not None
    assert all("acme.places version 2" in rule.sentence for rule in since(found.judgement.verdict).values())
    release(child)
    shown = [course for course in courses(child.store, CHILD.prefix) if course.reference is not None]
    assert shown
    assert {
        (course.scored[at].prefix, course.scored[at].entry.version)
        for course in shown
        if (at := course.reference) is not None
    } == {(PREFIX, 2)}
