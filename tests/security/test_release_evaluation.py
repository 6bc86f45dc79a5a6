"""What a release needs judged is asked before it, where it is not stored; a release itself asks no model."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ft_dagster.errors import UserError
from ft_dagster.lineage.garbage_collection import collect
from ft_dagster.lineage.reachable import unreached
from ft_dagster.lineage.release import ReleaseRequest, history, promote
from ft_dagster.lineage.retention import Rules
from ft_dagster.settings import Retention
from ft_dagster.stages.release import release
from ft_dagster.stages.release_evaluation import judge_release
from ft_dagster.store import Store
from ft_dagster.store.contents import contents_of
from ft_dagster.store.removal import DAY
from ft_dagster.workspace.workspace import Workspace
from tests.e2e.project import POLICY, write_yaml
from tests.security.attacked import declare, project, train_again, trained, while_hashed
from tests.security.pretend import PREFIX, Pretend, desk

__all__ = ["project", "trained"]
pytestmark = pytest.mark.slow


def written(store: Store) -> set[str]:
    return {str(path) for path in Path(store.root).rglob("*") if path.is_file()}


def test_a_release_asks_no_model_though_nothing_was_judged_for_it(project: Path) -> None:
    release(desk(project, Pretend()))
    pretend = train_again(project, "equal", {"equal": 1.0}, judged=False, evaluation={"seed": 5})
    workspace, ran = desk(project, pretend), len(pretend.ran)
    with pytest.raises(
        UserError, match="the production_evaluation that a release needs now is not there"
    ) as refused:
        release(workspace)
    assert refused.value.fix == "Materialize release_evaluation, then release"
    assert pretend.ran[ran:] == []
    assert [entry.version for entry in history(workspace.store, PREFIX)] == [1]
    assert judge_release(workspace).check.passed
    assert pretend.ran[ran:] == ["evaluation"]
    assert release(workspace).entry.version == 2
    assert pretend.ran[ran:] == ["evaluation"]


@pytest.mark.long
def test_answers_that_stand_are_taken_and_no_model_is_asked_again(project: Path) -> None:
    release(desk(project, Pretend()))
    pretend = train_again(project, "equal", {"equal": 1.0}, evaluation={"seed": 5})
    workspace, ran = desk(project, pretend), len(pretend.ran)
    before = written(workspace.store)
    found = judge_release(workspace)
    assert [(each.place.stage, each.reused) for each in found.held.answers] == [
        ("production_evaluation", True)
    ]
    assert (pretend.ran[ran:], written(workspace.store)) == ([], before)
    assert found.judgement is not None
    assert release(workspace).verdict == found.judgement.verdict


def test_where_no_version_is_in_production_nothing_is_asked_read_or_written(project: Path) -> None:
    workspace = desk(project, Pretend())
    file = workspace.payload(workspace.upstream("fine_tuned_model")) / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    before, pretend = written(workspace.store), Pretend()
    found = judge_release(desk(project, pretend))
    assert found.check.sentence == "Nothing to compare: nothing is in production"
    assert (found.check.passed, pretend.ran, written(workspace.store)) == (True, [], before)
    with pytest.raises(UserError, match="other bytes"):  # which reads them
        release(workspace)


def test_weights_in_production_are_held_against_nothing_whatever_they_were_asked(project: Path) -> None:
    release(desk(project, Pretend()))
    pretend = train_again(project, "first", {}, evaluation={"seed": 5})
    found = judge_release(desk(project, pretend))
    assert found.check.sentence == "Nothing to compare: these weights are in production, as version 1"
    assert pretend.ran[-1] == "export"
    declare(project, gates={"regression_margin": None})
    found = judge_release(desk(project, Pretend()))
    assert "gates.regression_margin is null" in found.check.sentence


@pytest.fixture
def overtaken(project: Path) -> Callable[[int], tuple[Workspace, Pretend]]:
    """Version 2 is in production when the third weights are judged, and version 1 when they are released;
    as the reference it would be asked anyway.
    """
    release(desk(project, Pretend()))
    release(desk(project, train_again(project, "second", {"second": 1.0}, evaluation={"seed": 5})))

    def asked(seed: int) -> tuple[Workspace, Pretend]:
        right = {"second": 1.0, "the third": 1.0}
        gates = {"reference": None}
        pretend = train_again(project, "the third", right, evaluation={"seed": seed}, gates=gates)
        workspace = desk(project, pretend)
        assert judge_release(workspace).held.against.entry == history(workspace.store, PREFIX)[1]
        promote(workspace.store, PREFIX, 1, ReleaseRequest("the old one"), force=True)
        return workspace, pretend

    return asked


def test_a_version_that_went_into_production_since_is_asked_before_the_release(
    overtaken: Callable[[int], tuple[Workspace, Pretend]],
) -> None:
    workspace, pretend = overtaken(6)
    ran = len(pretend.ran)
    with pytest.raises(UserError, match="the production_evaluation that a release needs now is not there"):
        release(workspace)
    assert (pretend.ran[ran:], len(history(workspace.store, PREFIX))) == ([], 3)
    assert judge_release(workspace).check.passed
    assert pretend.ran[ran:] == ["evaluation"]
    assert release(workspace).entry.version == 3


@pytest.mark.long
def test_a_release_is_held_against_what_is_in_production_at_its_moment(
    overtaken: Callable[[int], tuple[Workspace, Pretend]],
) -> None:
    """Version 1 was asked these questions before version 2 was released."""
    workspace, pretend = overtaken(5)
    ran = len(pretend.ran)
    released = release(workspace)
    sentences = [rule.sentence for rule in released.verdict.rules if rule.rule == "regression"]
    assert all("version 1 in production" in sentence for sentence in sentences)
    assert (pretend.ran[ran:], released.entry.version, bool(sentences)) == ([], 3, True)


def test_what_todays_policy_does_not_let_be_released_is_not_asked_about(project: Path) -> None:
    release(desk(project, Pretend()))
    pretend = train_again(project, "equal", {"equal": 1.0}, judged=False, evaluation={"seed": 5})
    write_yaml(project / "policy.yaml", {**POLICY, "methods": ["qlora"]})
    ran = len(pretend.ran)
    for ask in (judge_release, release):
        with pytest.raises(UserError, match="not as the policy demands"):
            ask(desk(project, pretend))
    assert pretend.ran[ran:] == []


def test_questions_that_changed_after_the_judging_are_asked_before_the_release(project: Path) -> None:
    release(desk(project, Pretend()))
    pretend = train_again(project, "equal", {"equal": 1.0}, evaluation={"seed": 5})
    declare(project, evaluation={"seed": 6})
    ran = len(pretend.ran)
    for ask in (judge_release, release):
        with pytest.raises(UserError, match=r"evaluation\.seed changed after the evaluation"):
            ask(desk(project, pretend))
    assert pretend.ran[ran:] == []


CHANGED = {"more benign": {"exports": ["adapter", "merged"]}, "forbidding": {"methods": ["qlora"]}}


@pytest.mark.parametrize("change", CHANGED)
def test_nothing_is_released_by_a_policy_that_changed_while_it_was_hashed(
    project: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend = Pretend()
    while_hashed(monkeypatch, lambda: write_yaml(project / "policy.yaml", {**POLICY, **CHANGED[change]}))
    with pytest.raises(UserError, match="the policy changed meanwhile") as refused:
        release(desk(project, pretend))
    assert (refused.value.file, pretend.ran) == (str(project / "policy.yaml"), [])
    assert history(desk(project, pretend).store, PREFIX) == []
    if change == "forbidding":
        with pytest.raises(UserError, match="not as the policy demands"):
            release(desk(project, pretend))
    else:
        assert release(desk(project, pretend)).entry.version == 1
    assert pretend.ran == []


@pytest.mark.long
def test_what_was_judged_is_kept_by_a_collection_before_the_release(project: Path) -> None:
    release(desk(project, Pretend()))
    pretend = train_again(project, "equal", {"equal": 1.0}, evaluation={"seed": 5})
    store, ran = desk(project, pretend).store, len(pretend.ran)
    late = Rules(lambda tenant: Retention(days=1), time.time() + 400 * DAY)
    found = unreached(store, contents_of(store), lambda place: False, late)
    assert not [one for one in collect(store, found, lambda place: False, late) if one.error]
    assert judge_release(desk(project, pretend)).check.passed
    assert release(desk(project, pretend)).entry.version == 2
    assert pretend.ran[ran:] == []
