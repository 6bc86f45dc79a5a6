"""Other gates ask nobody: where the same weights answered the same questions, they are judged again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ft_dagster.audit.replay.replay_judged import same_answers
from ft_dagster.evaluation.tasks.tasks import names_of
from ft_dagster.fleet.due.costs import cost_items
from ft_dagster.fleet.refresh.from_store import retrain_hours
from ft_dagster.lineage.release import history
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.settings import load_settings
from ft_dagster.spec.policy import EvaluationFloors, Policy
from ft_dagster.spec.variant import EvaluationSpec
from ft_dagster.stage_entries import ANSWERS_OF, version_of
from ft_dagster.stages.chain import run_chain
from ft_dagster.stages.evaluation import own_of, own_tasks
from ft_dagster.stages.release import release
from ft_dagster.store import Artifact
from ft_dagster.versions.version_files import open_version
from ft_dagster.workspace.workspace import RunOf, Workspace
from tests.e2e.project import TASK, edit, write_yaml
from tests.fleet.manifests import catalogue
from tests.leased import LeasedSeconds
from tests.present import present
from tests.stage_version import set_version

pytestmark = pytest.mark.slow
Declare = Callable[..., Workspace]


@pytest.fixture
def declare(chained: Workspace, tmp_path: Path) -> Declare:
    """The released variant in a project of its own, with other gates or questions."""
    project = shutil.copytree(chained.project, tmp_path / "project")

    def declared(**parts: dict[str, Any]) -> Workspace:
        def change(content: dict[str, Any]) -> None:
            for part, fields in parts.items():
                content[part].update(fields)

        edit(project / "tenants/acme/places.yaml", change)
        return Workspace(load_settings(project), chained.key, RunOf("again", "test", lambda line: None))

    return declared


def judged(workspace: Workspace) -> Artifact:
    return present(workspace.head("evaluation"))


def verdict_of(evaluation: Artifact) -> Verdict:
    return Verdict.from_json(evaluation.figures["verdict"])


def margin_of(evaluation: Artifact, rule: str) -> float:
    return next(each.margin for each in verdict_of(evaluation).rules if each.rule == rule)


def test_other_gates_take_no_device_for_a_second(
    declare: Declare, chained: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    then, exported = judged(chained), present(chained.head("model_export"))
    leased = LeasedSeconds(monkeypatch)
    workspace = declare(gates={"general_loss_margin": 0.9})
    assert run_chain(workspace).error is None
    released = release(workspace)
    assert (leased.count, leased.seconds) == (0, 0.0)
    now = judged(workspace)
    assert (margin_of(then, "general_loss"), margin_of(now, "general_loss")) == (1.0, 0.9)
    assert now.place != then.place
    assert now.figures[ANSWERS_OF] == then.place.key
    assert released.export.place.key == exported.place.key
    assert [entry.version for entry in history(workspace.store, workspace.prefix)] == [1]


def test_a_verdict_of_earlier_answers_is_that_of_asking_anew(declare: Declare) -> None:
    workspace = declare(gates={"general_margin": 0.9})
    assert run_chain(workspace).error is None
    derived = judged(workspace)
    shutil.rmtree(workspace.store.uri(f"{workspace.prefix}/evaluation"))
    assert run_chain(workspace).error is None
    asked = judged(workspace)
    assert ANSWERS_OF in derived.figures
    assert ANSWERS_OF not in asked.figures
    assert derived.place.key == asked.place.key
    assert derived.figures["verdict"] == asked.figures["verdict"]
    assert derived.digest != asked.digest  # the verdict of the day of the answers stands among them
    assert same_answers(derived, asked)  # so that a replay, which asks, finds nothing else than was recorded
    assert not same_answers(asked, derived)


def test_answers_that_fail_by_other_gates_end_the_chain_and_take_nothing_out_of_production(
    declare: Declare, monkeypatch: pytest.MonkeyPatch
) -> None:
    leased = LeasedSeconds(monkeypatch)
    strict = {"undecided": "fail", "alpha": 0.4, "regression_margin": None, "loss_tail": 1.0}
    workspace = declare(gates={**strict, "metrics": {"test_split_task": "exact_match"}})
    error = present(run_chain(workspace).error)
    assert error.startswith("evaluation: gate did not pass")
    assert leased.count == 0
    assert verdict_of(judged(workspace)).passed is False
    assert [entry.production for entry in history(workspace.store, workspace.prefix)] == [1]


@pytest.mark.long
def test_other_questions_are_asked(declare: Declare, monkeypatch: pytest.MonkeyPatch) -> None:
    leased = LeasedSeconds(monkeypatch)
    workspace = declare(gates={"general_margin": 0.9}, evaluation={"limit": 13})
    run_chain(workspace)
    assert leased.count > 0
    assert ANSWERS_OF not in judged(workspace).figures


@pytest.mark.long
def test_answers_that_were_asked_for_otherwise_are_asked_for_again(
    declare: Declare, monkeypatch: pytest.MonkeyPatch
) -> None:
    leased = LeasedSeconds(monkeypatch)
    set_version(monkeypatch, "evaluation", version_of("evaluation") + 1)
    workspace = declare(gates={"general_margin": 0.9})
    run_chain(workspace)
    assert leased.count > 0
    assert ANSWERS_OF not in judged(workspace).figures


def test_answers_whose_bytes_changed_are_not_judged(
    declare: Declare, monkeypatch: pytest.MonkeyPatch
) -> None:
    leased = LeasedSeconds(monkeypatch)
    workspace = declare(gates={"general_margin": 0.9})
    file = workspace.payload(judged(workspace)) / "samples.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    run_chain(workspace)
    assert leased.count > 0
    assert ANSWERS_OF not in judged(workspace).figures


def test_what_the_asking_took_is_counted_once(declare: Declare, chained: Workspace, tmp_path: Path) -> None:
    workspace = declare(gates={"general_margin": 0.9})
    assert run_chain(workspace).error is None
    before, after = judged(chained), judged(workspace)
    trained, plan = (present(chained.head(stage)) for stage in ("fine_tuned_model", "training_plan"))
    made_of = {"fine_tuned_model": [trained], "training_plan": [plan], "evaluation": [before]}
    more = {**made_of, "evaluation": [before, after]}
    spent, again = (
        [(item.stage, item.hours, item.judged) for item in cost_items(each, catalogue(tmp_path))]
        for each in (made_of, more)
    )
    assert spent == again
    assert retrain_hours(made_of) == retrain_hours(more) > 0


def test_what_a_tenant_adds_is_judged_apart_by_the_list_of_todays_policy(
    declare: Declare, chained: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy of the fixture lists no benchmark; one that lists it asks nobody, and judges again."""
    workspace, leased = declare(), LeasedSeconds(monkeypatch)
    assert own_of(judged(chained)) == ("sea_quiz",)
    listed = {"general": ["tasks/sea_quiz.yaml"]}
    edit(workspace.project / "policy.yaml", lambda content: content["evaluation"].update(listed))
    assert run_chain(workspace).error is None
    assert (own_of(judged(workspace)), leased.count) == ((), 0)
    assert "own" not in judged(workspace).spec
    released = release(workspace)
    assert released.verdict.policy == workspace.settings.policies().of("acme").digest


def test_a_version_is_shown_with_the_verdict_that_let_it_be_released(declare: Declare) -> None:
    """Evaluations of the same answers have the same digest: the log names the manifest of one."""
    workspace = declare(gates={"general_margin": 0.9})
    assert run_chain(workspace).error is None
    (entry,) = history(workspace.store, workspace.prefix)
    now, then = judged(workspace), open_version(workspace.settings, workspace.key)
    assert now.digest == entry.evaluation
    assert now.manifest != entry.evaluation_manifest == then.artifact("evaluation").manifest
    assert {rule.margin for rule in then.verdict.rules if rule.rule == "general_benchmark"} == {1.0}


@pytest.mark.parametrize(
    ("listed", "task", "general", "own"),
    [
        ("none", (), ("arc_easy", "tasks/mine.yaml"), ("arc_easy", "mine")),
        (("arc_easy",), (), ("arc_easy", "tasks/mine.yaml"), ("mine",)),
        (("arc_easy",), ("tasks/other.yaml",), ("arc_easy",), ()),
        (("arc_easy",), ("tasks/other.yaml", "tasks/mine.yaml"), ("arc_easy",), ("mine", "other")),
        # by the name of what everybody is asked nothing of the platform's is drawn among the tenant's own
        (("arc_easy",), ("tasks/arc_easy.yaml", "tasks/mine.yaml"), ("arc_easy",), ("mine",)),
        ("none", (), ("tasks/general_holdout.yaml", "tasks/mine.yaml"), ("mine",)),
        ("none", ("tasks/mine.yaml",), ("tasks/again/mine.yaml",), ("mine",)),
    ],
)
def test_what_a_tenant_adds_goes_by_the_entries_and_not_by_the_names_that_its_files_claim(
    tmp_path: Path, listed: Any, task: tuple[str, ...], general: tuple[str, ...], own: tuple[str, ...]
) -> None:
    for entry in (*task, *general):
        if entry.endswith(".yaml"):
            write_yaml(tmp_path / entry, {**TASK, "task": Path(entry).stem})
    view: Any = SimpleNamespace(
        spec=SimpleNamespace(evaluation=EvaluationSpec(task=task, general=general)),
        policy=Policy(evaluation=EvaluationFloors(general=listed)),
        task_names=lambda entries: names_of(entries, tmp_path),
    )
    assert own_tasks(view) == own


@pytest.mark.long
def test_stored_answers_about_fewer_rows_than_the_policy_comes_to_ask_do_not_pass_and_nobody_is_asked(
    declare: Declare, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of the fixture are too short to be probed; a canary is, and stands in for none of them."""
    workspace = declare(gates={"max_regurgitation": 1.0}, evaluation={"canaries": ["The permit is"]})
    assert run_chain(workspace).error is None
    lenient, leased = judged(workspace), LeasedSeconds(monkeypatch)
    edit(workspace.project / "policy.yaml", lambda content: content["gates"].update(max_regurgitation=1.0))
    error = present(run_chain(workspace).error)
    assert error.startswith("evaluation: gate did not pass")
    assert leased.count == 0
    strict = judged(workspace)
    assert (lenient.spec.get("probed"), strict.spec["probed"]) == (None, 16)
    assert strict.figures[ANSWERS_OF] == lenient.place.key
    assert verdict_of(lenient).passed
    assert "no training row was probed; 16 were to be" in verdict_of(strict).failures
    assert "the policy asks that 16 are probed" in verdict_of(strict).failures
