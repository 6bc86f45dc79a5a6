"""What a declaration, or single stages run alone, can get released: nothing that today's declaration does not
demand, and nothing unmeasured.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.fleet.refresh.shared_state import SharedState
from ft_dagster.lineage.release import ReleaseRequest, history, production, promote, rollback
from ft_dagster.lineage.tries import record_try, tries, try_of
from ft_dagster.models.derived import named_source
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.stages import (
    base_evaluation,
    declaration,
    evaluation,
    model_export,
    task_dataset,
    training_mixture,
)
from ft_dagster.stages.chain import CHAIN, run_chain
from ft_dagster.stages.release import release
from ft_dagster.stages.release_evaluation import judge_release
from ft_dagster.store import Store, read_head, write_head
from ft_dagster.versions.check import check_variant
from ft_dagster.versions.now import up_to_date
from ft_dagster.versions.preview import plan_variant
from ft_dagster.workspace.stage import Stage
from ft_dagster.workspace.workspace import Workspace
from tests.e2e.project import POLICY, edit, write_yaml
from tests.long import mostly_long
from tests.security.attacked import FILE, RELEASED, declare, make, project, train_again, trained, while_hashed
from tests.security.pretend import KEY, PREFIX, Pretend, desk

__all__ = ["project", "trained"]
pytestmark = pytest.mark.slow


QUESTIONS: list[dict[str, Any]] = [
    {"evaluation": {"limit": 300}},
    {"evaluation": {"seed": 7}},
    {"evaluation": {"num_fewshot": 2}},
    {"evaluation": {"general": []}},
    {"evaluation": {"max_new_tokens": 20}},
    {"gates": {"general_margin": 0.05}},
    {"gates": {"metrics": {"test_split_task": "acc"}}},
]


@pytest.mark.parametrize("changes", mostly_long(QUESTIONS, every=3), ids=json.dumps)
@pytest.mark.parametrize("frozen", [True, False])
def test_what_was_judged_by_another_declaration_is_neither_exported_nor_released(
    project: Path, changes: dict[str, Any], frozen: bool
) -> None:
    """Declaration (frozen again, or not), export and release alone: no evaluation in between."""
    declare(project, **changes)
    workspace = make(project, *([declaration.STAGE] if frozen else []))
    (part,) = changes
    (name,) = changes[part]
    for ask in (lambda: workspace.make(model_export.STAGE), lambda: release(workspace)):
        with pytest.raises(UserError, match=rf"{part}\.{name}.* changed after the evaluation") as refused:
            ask()
        assert "evaluation again" in refused.value.fix
    assert history(workspace.store, PREFIX) == []


def test_a_task_whose_questions_changed_is_not_released_on_the_old_ones(project: Path) -> None:
    (project / "tasks" / "quiz.jsonl").write_text((project / "tasks" / "quiz.jsonl").read_text() * 2)
    with pytest.raises(UserError, match=r"tasks/sea_quiz\.yaml changed after the evaluation"):
        release(desk(project, Pretend()))


def test_evaluated_again_it_is_released_whatever_else_was_edited(project: Path) -> None:
    declare(project, evaluation={"limit": 300}, training={"learning_rate": 1e-4})
    edit(project / FILE, lambda content: content.update(description="other words"))
    stages = (declaration.STAGE, base_evaluation.STAGE, evaluation.STAGE, model_export.STAGE)
    assert release(make(project, *stages)).next == RELEASED


def test_a_base_that_was_asked_otherwise_is_no_measure(project: Path) -> None:
    """Worse scores for the base (no examples before a question), and any model looks better."""
    declare(project, evaluation={"num_fewshot": 0})
    make(project, declaration.STAGE, base_evaluation.STAGE)
    declare(project, evaluation={"num_fewshot": 5})
    workspace = make(project, declaration.STAGE)
    with pytest.raises(UserError, match="the base was asked otherwise than the tuned model"):
        workspace.make(evaluation.STAGE)


def test_a_head_that_points_at_another_evaluation_is_not_followed(project: Path) -> None:
    """The old evaluation passes and the newer one, of more questions, does not."""
    workspace = desk(project, Pretend())
    passed = read_head(workspace.store, PREFIX, "evaluation")
    assert passed is not None
    declare(project, evaluation={"limit": 300})
    poor = Pretend(right={"base": 0.5, "first": 0.1})
    workspace = make(project, declaration.STAGE, base_evaluation.STAGE, evaluation.STAGE, pretend=poor)
    write_head(workspace.store, PREFIX, passed, None)
    with pytest.raises(UserError, match="newest evaluation is not the one"):
        workspace.make(model_export.STAGE)
    with pytest.raises(UserError, match=r"gate does not hold|made for another evaluation"):
        release(workspace)


@pytest.mark.parametrize("part", ["weights", "base", "limit", "seed", "tasks", "data"])
def test_a_result_that_says_it_measured_anything_else_is_refused(project: Path, part: str) -> None:
    declare(project, evaluation={"seed": 3})
    make(project, declaration.STAGE, base_evaluation.STAGE)
    other: dict[str, Any] = {
        "weights": "0" * 64,
        "base": "0" * 64,
        "limit": 1,
        "seed": 9,
        "tasks": {},
        "data": {},
    }
    liar = Pretend(lie=lambda measured: {**measured, part: other[part]})
    with pytest.raises(UserError, match=f"measured another {part}"):
        make(project, evaluation.STAGE, pretend=liar)


# Tries


def test_each_set_of_questions_is_a_try_and_the_same_set_keeps_its_number(project: Path) -> None:
    again = (declaration.STAGE, base_evaluation.STAGE, evaluation.STAGE)
    found = []
    for seed in (0, 1, 2, 1, 0):
        declare(project, evaluation={"seed": seed})
        workspace = make(project, *again)
        head = workspace.upstream("evaluation")
        found.append((head.predicate["spec"]["tries"], head.reused))
    assert found == [(1, True), (2, True), (3, True), (2, True), (1, True)]
    weights = workspace.upstream("fine_tuned_model").digest
    assert len(tries(workspace.store, PREFIX, weights)) == 3


def test_other_gates_on_the_same_questions_are_no_other_try(project: Path) -> None:
    declare(project, gates={"general_margin": 0.2})
    workspace = make(project, declaration.STAGE, evaluation.STAGE)
    assert workspace.upstream("evaluation").predicate["spec"]["tries"] == 1


def test_a_later_try_has_less_of_the_level(project: Path) -> None:
    before = desk(project, Pretend()).upstream("evaluation").figures["verdict"]["rules"][0]
    declare(project, evaluation={"seed": 1})
    workspace = make(project, declaration.STAGE, base_evaluation.STAGE, evaluation.STAGE)
    (rule, *_) = workspace.upstream("evaluation").figures["verdict"]["rules"]
    assert rule["interval"][1] - rule["interval"][0] > before["interval"][1] - before["interval"][0]


def test_two_evaluations_at_once_are_never_the_same_try(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert try_of(store, PREFIX, "w", "first") == try_of(store, PREFIX, "w", "second") == 1
    record_try(store, PREFIX, "w", "first", 1)
    record_try(store, PREFIX, "w", "first", 1)
    for weights in ("w", "other"):
        with pytest.raises(
            UserError, match="another evaluation of the variant, or a release, came meanwhile"
        ):
            record_try(store, PREFIX, weights, "second", 1)
        assert try_of(store, PREFIX, weights, "second") == 2
    assert [each.questions for each in tries(store, PREFIX, "w")] == ["first"]


# Production


def test_production_is_asked_todays_questions_and_a_worse_successor_is_not_released(project: Path) -> None:
    release(desk(project, Pretend()))
    pretend = train_again(project, "worse", {"worse": 0.6}, judged=False, evaluation={"seed": 5})
    workspace = desk(project, pretend)
    ran = len(pretend.ran)
    for _ in range(2):
        check = judge_release(workspace).check
        assert not check.passed
        assert "against version 1 in production, the task" in check.sentence
        assert pretend.ran[ran:] == ["evaluation"]  # kept by its key
    with pytest.raises(UserError, match="against version 1 in production, the task"):
        release(workspace)
    assert pretend.ran[ran:] == ["evaluation"]
    assert [entry.version for entry in history(workspace.store, PREFIX)] == [1]


@pytest.mark.long
def test_a_successor_as_good_is_released_though_no_question_was_shared(project: Path) -> None:
    release(desk(project, Pretend()))
    pretend = train_again(project, "equal", {"equal": 1.0}, evaluation={"seed": 5})
    assert release(desk(project, pretend)).entry.version == 2


def test_production_that_was_asked_the_same_is_not_asked_again(project: Path) -> None:
    release(desk(project, Pretend()))
    pretend = train_again(project, "equal", {"equal": 1.0})
    ran = len(pretend.ran)
    assert release(desk(project, pretend)).entry.version == 2
    assert pretend.ran[ran:] == []


@pytest.fixture
def bereft(project: Path) -> Path:
    """The weights of version 1 are gone from the store; their successor was asked other questions."""
    workspace = desk(project, Pretend())
    release(workspace)
    tuned = workspace.upstream("fine_tuned_model")
    train_again(project, "next", {"next": 1.0}, evaluation={"seed": 5})
    folder = workspace.store.local(tuned.place.path)
    assert folder is not None
    shutil.rmtree(folder)
    return project


def test_nothing_passes_unmeasured_where_the_weights_of_production_are_gone(bereft: Path) -> None:
    workspace = desk(bereft, Pretend())
    with pytest.raises(UserError, match="nothing passes unmeasured") as refused:
        release(workspace)
    assert "release.approvers" in str(refused.value)
    assert len(history(workspace.store, PREFIX)) == 1


def test_a_named_approver_decides_on_what_cannot_be_measured(bereft: Path) -> None:
    declare(bereft, release={"approvers": ["ann"]})
    workspace = desk(bereft, Pretend())
    done = release(workspace)
    assert done.entry.version == 2
    assert "its weights are gone" in str(done.entry.unmeasured)
    assert "waits for ann" in done.next
    store = workspace.store
    standing, waiting = production(store, PREFIX), history(store, PREFIX)[-1]
    assert standing is not None
    assert waiting is not None
    assert standing.version == 1
    assert waiting.unmeasured
    with pytest.raises(UserError, match="nothing passes unmeasured"):
        promote(store, PREFIX, 2, ReleaseRequest("", "bob"))  # approvers taken out of the declaration since
    with pytest.raises(UserError, match="bob may not approve"):
        promote(store, PREFIX, 2, ReleaseRequest("", "bob", ("ann",)))
    assert promote(store, PREFIX, 2, ReleaseRequest("measured by hand", "ann", ("ann",))).production == 2


def test_weights_trained_with_the_questions_are_not_released_under_a_declaration_that_leaves_them_out(
    project: Path,
) -> None:
    edit(project / FILE, lambda content: content["data"].update(decontaminate={"enabled": True}))
    required = {**POLICY["evaluation"], "decontaminate": "required"}
    write_yaml(project / "policy.yaml", {**POLICY, "evaluation": required})
    with pytest.raises(UserError, match="may have been trained on them"):
        release(desk(project, Pretend()))


@pytest.mark.parametrize(
    "changes", [{"training": {"seed": 9}}, {"plan": {"probe": {"share": 1.0}}}], ids=["training", "probe"]
)
def test_too_few_rows_to_hold_a_successor_against_production_are_said_before_anything_is_trained(
    project: Path, changes: dict[str, Any]
) -> None:
    release(desk(project, Pretend()))
    declare(project, gates={"regression_loss_margin": 0.15}, **changes)
    edit(project / FILE, lambda content: content["training"].pop("learning_rate", None))
    pretend = Pretend("second")
    outcome = run_chain(desk(project, pretend), CHAIN)
    assert outcome.error is not None
    assert "no version after the first passes whatever is trained" in outcome.error
    assert "training" not in pretend.ran


def test_what_is_in_production_stands_though_its_rows_could_not_hold_a_successor(project: Path) -> None:
    declare(project, gates={"regression_loss_margin": 0.15})
    assert run_chain(desk(project, Pretend()), CHAIN).error is None
    release(desk(project, Pretend()))
    pretend = Pretend()
    assert run_chain(desk(project, pretend), CHAIN).error is None
    assert pretend.ran == []
    assert up_to_date(load_settings(project), KEY) is not None
    assert any(
        line.startswith("no version after the first passes whatever is trained: of ")
        for line in plan_variant(load_settings(project), KEY).warnings
    )


# What the weights were trained on


def evaluate_alone(project: Path, *before: Stage[Any]) -> Workspace:
    return make(project, declaration.STAGE, *before, base_evaluation.STAGE, evaluation.STAGE)


def test_weights_are_not_judged_on_rows_that_they_were_trained_on(project: Path) -> None:
    """A larger test split has rows that were trained on; everything but the training is run again."""
    declare(project, data={"splits": {"validation": 0.15, "test": 0.5, "minimum": 4}})
    with pytest.raises(UserError, match="the weights may be asked what they were trained on"):
        evaluate_alone(project, task_dataset.STAGE)
    with pytest.raises(UserError, match="fine_tuned_model was made from another training_mixture"):
        evaluate_alone(project, task_dataset.STAGE, training_mixture.STAGE)


def test_a_task_declared_after_the_training_is_looked_for_in_what_was_trained_on(project: Path) -> None:
    declare(project, data={"decontaminate": {"enabled": True, "ngram": 13}})
    run_chain(desk(project, Pretend()), CHAIN)
    (project / "tasks" / "quiz.jsonl").write_text((project / "tasks" / "quiz.jsonl").read_text() * 2)
    with pytest.raises(UserError, match="task_dataset was not looked through for the questions"):
        evaluate_alone(project)
    outcome = run_chain(desk(project, Pretend()), CHAIN)
    assert outcome.error is None, outcome.error
    assert outcome.made["fine_tuned_model"].reused
    assert release(desk(project, Pretend())).next == RELEASED


@pytest.mark.long
def test_rows_that_were_looked_through_by_longer_overlaps_than_declared_are_not_released_on(
    project: Path,
) -> None:
    declare(project, data={"decontaminate": {"enabled": True, "ngram": 40}})
    run_chain(desk(project, Pretend()), CHAIN)
    declare(project, data={"decontaminate": {"enabled": True, "ngram": 13}})
    with pytest.raises(UserError, match="by 40 words in a row, more than are declared"):
        release(desk(project, Pretend()))
    with pytest.raises(UserError, match="by 40 words in a row, more than are declared"):
        evaluate_alone(project)
    outcome = run_chain(desk(project, Pretend()), CHAIN)
    assert outcome.error is None, outcome.error


@pytest.mark.long
def test_rows_that_were_looked_through_by_a_larger_part_of_a_question_are_not_released_on(
    project: Path,
) -> None:
    declare(project, data={"decontaminate": {"enabled": True}})
    run_chain(desk(project, Pretend()), CHAIN)
    declare(project, data={"decontaminate": {"enabled": True, "coverage": 0.6}})
    with pytest.raises(UserError, match="by long runs of words alone: the weights may have been trained"):
        release(desk(project, Pretend()))
    outcome = run_chain(desk(project, Pretend()), CHAIN)
    assert outcome.error is None, outcome.error
    assert outcome.made["fine_tuned_model"].reused
    declare(project, data={"decontaminate": {"enabled": True, "coverage": 0.5}})
    with pytest.raises(UserError, match=r"by 0\.6 of their runs of three words"):
        evaluate_alone(project)
    declare(project, data={"decontaminate": {"enabled": True, "coverage": 0.9}})
    assert release(desk(project, Pretend())).next == RELEASED


def test_a_try_that_was_taken_out_is_noticed(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for ordinal, questions in enumerate(("first", "second"), 1):
        record_try(store, PREFIX, "w", questions, ordinal)
    Path(store.path(f"{PREFIX}/tries/w/000001.json")).unlink()
    with pytest.raises(UserError, match=r"000001\.json: a record of an evaluation is missing"):
        try_of(store, PREFIX, "w", "third")


def test_tries_that_were_deleted_do_not_begin_at_one_again(project: Path) -> None:
    weights = desk(project, Pretend()).upstream("fine_tuned_model").digest
    shutil.rmtree(desk(project, Pretend()).store.path(f"{PREFIX}/tries/{weights}"))
    declare(project, evaluation={"seed": 1})
    with pytest.raises(UserError, match=f"{weights[:12]} were put to questions as try 1, and that is not"):
        evaluate_alone(project)


# What it was made by

MEANS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "method.name": ({"methods": ["qlora"]}, {"method": {"name": "qlora"}}),
    "export.format": ({"exports": ["merged"]}, {"export": {"format": "merged"}}),
    "base_model.source": ({"bases": ["allowed/*"]}, {"base_model": {"source": "allowed/model"}}),
}


@pytest.mark.parametrize("field", MEANS)
def test_what_the_policy_forbids_is_not_released_under_another_declaration(project: Path, field: str) -> None:
    """The platform forbids by what it was made; the tenant declares something else, and makes nothing."""
    policy, declared = MEANS[field]
    write_yaml(project / "policy.yaml", {**POLICY, **policy})

    edit(project / FILE, lambda content: content.update(declared))
    workspace = desk(project, Pretend())
    with pytest.raises(UserError, match="not as the policy demands") as refused:
        release(workspace)
    assert refused.value.field == field
    assert history(workspace.store, PREFIX) == []


CHILD = VariantKey("acme", "child")


def child_of_a_release(project: Path) -> Workspace:
    """acme.child on the release of acme.places, gone through the chain under the policy of the project."""
    release(desk(project, Pretend()))
    shutil.copyfile(project / FILE, project / "tenants" / CHILD.tenant / f"{CHILD.variant}.yaml")
    edit(
        project / "tenants" / CHILD.tenant / f"{CHILD.variant}.yaml",
        lambda content: content.update(base_model={"variant": str(KEY), "parent_adapter": "stack"}),
    )
    workspace = desk(project, Pretend(), CHILD)
    outcome = run_chain(workspace, CHAIN)
    assert outcome.error is None, outcome.error
    return workspace


def test_a_release_on_a_base_that_is_forbidden_since_is_no_parent(project: Path) -> None:
    """Neither of what is declared anew, nor of what was trained before: it says no source itself."""
    made = child_of_a_release(project)
    write_yaml(project / "policy.yaml", {**POLICY, "bases": ["allowed/*"]})
    workspace = desk(project, Pretend(), CHILD)
    for ask in (
        lambda: workspace.make(declaration.STAGE),
        lambda: check_variant(workspace.settings, CHILD),
        lambda: plan_variant(workspace.settings, CHILD),
        lambda: workspace.make(evaluation.STAGE),
        lambda: workspace.make(model_export.STAGE),
        lambda: release(workspace),
    ):
        with pytest.raises(UserError, match="not as the policy demands: a release made of") as refused:
            ask()
        assert refused.value.field == "base_model.variant"
        assert refused.value.value == named_source(made.store, made.upstream("base_model"))
    (breach,) = SharedState(workspace.settings).of(workspace.declared()).breaches  # as `status` tells
    assert (breach.field, breach.rule) == ("base_model.variant", "bases")
    edit(
        project / "tenants" / CHILD.tenant / f"{CHILD.variant}.yaml",
        lambda content: content.update(base_model="allowed/model"),
    )
    with pytest.raises(UserError, match="not as the policy demands") as refused:
        release(desk(project, Pretend(), CHILD))
    assert refused.value.field == "base_model.source"
    assert history(made.store, CHILD.prefix) == []


@pytest.mark.long
def test_a_parent_that_is_rolled_back_while_its_child_is_hashed_keeps_it_from_being_released(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(desk(project, Pretend()))
    train_again(project, "second", {"second": 1.0})
    store = child_of_a_release(project).store
    while_hashed(monkeypatch, lambda: rollback(store, PREFIX, ReleaseRequest("worse")))
    with pytest.raises(UserError, match=r"acme\.places v2, which it was made on, was rolled back: worse"):
        release(desk(project, Pretend(), CHILD))
    assert history(store, CHILD.prefix) == []
