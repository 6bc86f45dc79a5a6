"""The largest group of all rows is known where the test split is asked, and in keys only where it acts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.gate.judged_by import later_rules, with_largest
from ft_dagster.gate.power import least_questions
from ft_dagster.settings import load_settings
from ft_dagster.spec.variant import EvaluationSpec, GatesSpec
from ft_dagster.stages import evaluation
from ft_dagster.stages.chain import run_chain, up_to
from ft_dagster.versions.plan_warnings import too_few_groups
from ft_dagster.workspace.input_view import View
from ft_dagster.workspace.known_groups import largest_group
from ft_dagster.workspace.workspace import RunOf, Workspace
from tests.e2e.project import edit, rows, write_lines
from tests.leased import LeasedSeconds
from tests.present import present

pytestmark = pytest.mark.slow


def with_groups(chained: Workspace, folder: Path, size: int) -> Workspace:
    """The variant in a project of its own: its first rows are of one group, the others alone; not trained."""
    project = shutil.copytree(
        chained.project, folder / "project", ignore=shutil.ignore_patterns(".ft_dagster")
    )
    named = [{**row, **({"group": "large"} if n < size else {})} for n, row in enumerate(rows())]
    write_lines(project / "data/rows.jsonl", named)
    workspace = Workspace(load_settings(project), chained.key, RunOf("test", "test", lambda line: None))
    assert run_chain(workspace, up_to("task_dataset")).error is None
    return workspace


def known(workspace: Workspace, gates: GatesSpec | None = None, **asked: Any) -> int | None:
    dataset = present(workspace.head("task_dataset"))
    return largest_group(workspace.context, dataset, EvaluationSpec(**asked), gates or GatesSpec())


def test_the_largest_group_of_all_rows_is_known_though_none_of_it_is_asked(
    chained: Workspace, tmp_path: Path
) -> None:
    workspace = with_groups(chained, tmp_path, 30)
    tests = present(workspace.head("task_dataset")).figures["rows"]["test"]
    assert known(workspace) == 30
    assert known(workspace, limit=1) == -(-30 // tests)
    assert known(workspace, limit=1, reserve=2) == 30  # whole groups are dealt to a set
    assert known(workspace, task=("quiz",)) is None
    assert known(workspace, GatesSpec(weights="group")) is None


def test_a_plan_warns_of_groups_too_unlike_for_its_test_split(chained: Workspace, tmp_path: Path) -> None:
    workspace = with_groups(chained, tmp_path, 30)
    spec = workspace.declared().spec
    strict = spec.model_copy(update={"gates": GatesSpec(task_margin=0.1, regression_margin=None)})
    (line,) = too_few_groups(workspace, strict)
    assert (
        "groups, of which by size the largest of all rows counts 30: gates.task_margin stays undecided"
        in line
    )
    assert line.endswith("or declare gates.weights: group")
    reserved = spec.evaluation.model_copy(update={"reserve": 5})
    (line,) = too_few_groups(workspace, strict.model_copy(update={"evaluation": reserved}))
    assert line.startswith("a set of evaluation.reserve has about")
    few = strict.model_copy(
        update={"gates": GatesSpec(task_margin=0.01, weights="group", regression_margin=None)}
    )
    (line,) = too_few_groups(workspace, few)
    least = least_questions(0.01, bound=2.0, alpha=0.025)  # a loss judges the test split
    assert "each of them one unit: gates.task_margin stays undecided" in line
    assert f"with about {least:,} groups" in line
    wide = GatesSpec(task_margin=0.9, weights="group", regression_margin=None)
    assert too_few_groups(workspace, strict.model_copy(update={"gates": wide})) == []
    assert too_few_groups(chained, strict) == []


def test_rows_without_groups_or_in_equal_ones_move_no_key(chained: Workspace, tmp_path: Path) -> None:
    assert known(chained) is None
    assert known(with_groups(chained, tmp_path, 0)) is None
    view = View(chained, evaluation.STAGE)
    rules = evaluation.rules_of(view, chained.upstream("base_evaluation"))
    assert "groups" not in (rules or {})
    assert present(chained.head("evaluation")).spec.get("rules") == rules


def test_what_is_declared_may_be_larger_and_never_smaller_than_what_is_known() -> None:
    rules = later_rules(GatesSpec(), "instruction", (), 30)
    assert rules == {"groups": 30}
    declared = [GatesSpec(), GatesSpec(largest_group=7), GatesSpec(largest_group=90)]
    assert [with_largest(each, rules).largest_group for each in declared] == [30, 30, 90]
    assert with_largest(declared[1], None) is declared[1]


def test_other_weights_are_judged_by_the_answers_that_were_given(
    chained: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leased = LeasedSeconds(monkeypatch)
    project = shutil.copytree(chained.project, tmp_path / "project")
    edit(project / "tenants/acme/places.yaml", lambda content: content["gates"].update(weights="group"))
    workspace = Workspace(load_settings(project), chained.key, RunOf("again", "test", lambda line: None))
    then = present(chained.head("evaluation"))
    assert run_chain(workspace).error is None
    now = present(workspace.head("evaluation"))
    assert (leased.count, now.place == then.place) == (0, False)
    assert now.figures["verdict"]["rules"] == then.figures["verdict"]["rules"]
