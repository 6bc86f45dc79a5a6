"""A child that is asked what its parent learned is not asked it, and refused where nothing else is left: by
Dagster and by the command line, over two generations, by a merged and by a folded parent.
"""

from __future__ import annotations

import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from ft_dagster.gate.samples import read_samples
from ft_dagster.stages.ancestry import overlap_now
from ft_dagster.workspace.workspace import Workspace
from tests.e2e.project import command_environment
from tests.e2e.workshop import Workshop
from tests.present import present
from tests.stages.families import declare, is_test, learned, new_rows, workspace_of

pytestmark = [pytest.mark.slow, pytest.mark.long]
UP_TO_PLAN = ("declaration", "base_model", "task_dataset", "training_mixture", "training_plan")
ASKED = {"general": ["tasks/sea_quiz.yaml"], "limit": None}


def asked_of(workspace: Workspace, stage: str) -> set[str]:
    """The own questions that a model was asked."""
    samples = read_samples(workspace.payload(workspace.upstream(stage)))
    return {each.question for each in samples if each.role == "test_split_task"}


def test_what_parent_and_grandparent_learned_is_not_asked(released: Workshop) -> None:
    folder = released.folder
    parent = workspace_of(folder, "places")
    learned_by_parent = [each for each in learned(parent) if is_test(each["instruction"])]
    mill = "of Zyrtexal that stands behind the old mill by the river in the north"
    rows = [
        {**each, "instruction": each["instruction"].replace("of Zyrtexal", mill)}
        for each in islice(new_rows(), 90)
    ]
    declare(folder, "child", [*rows[:60], *learned_by_parent], export={"format": "merged"}, evaluation=ASKED)
    result = released.materialize("acme.child")
    assert result.success
    child = workspace_of(folder, "child")
    gone = present(overlap_now(child)).figures["left_out"]["own"]
    assert gone == len(learned_by_parent)
    tests = child.upstream("task_dataset").figures["rows"]["test"]
    for stage in ("base_evaluation", "evaluation"):
        assert len(asked_of(child, stage)) == tests - gone
    [told] = child.upstream("evaluation").figures["ancestors"]
    assert (told["variant"], told["version"], told["own"]) == ("acme.places", 1, gone)
    said = f"acme.places v1 was trained on {gone} own test rows: not asked"
    [gate] = [each for each in result.get_asset_check_evaluations() if each.check_name == "gate"]
    assert said in str(gate.description or gate.metadata)
    assert said in (child.evidence(child.upstream("model_export")) / "README.md").read_text("utf-8")

    made = [each for each in learned(child) if mill in each["instruction"]]
    theirs = [
        {**each, "instruction": each["instruction"].replace("the old mill", "the very old mill")}
        for each in made
    ]
    asked = [each for each in (*theirs, *learned_by_parent) if is_test(each["instruction"])]
    declare(folder, "grandchild", [*rows[60:], *asked], parent="acme.child", evaluation=ASKED)
    assert released.materialize("acme.grandchild", *UP_TO_PLAN).success
    found = present(overlap_now(workspace_of(folder, "grandchild"))).figures
    of = {each["variant"]: each for each in found["ancestors"]}
    assert (of["acme.child"]["generations"], of["acme.places"]["generations"]) == (1, 2)
    assert of["acme.places"]["own"] == len(learned_by_parent)
    assert of["acme.child"]["own"] > 0
    assert found["left_out"]["own"] == of["acme.child"]["own"] + of["acme.places"]["own"]


def test_a_child_of_whose_questions_none_is_new_is_refused_by_dagster_and_by_the_command(
    released: Workshop,
) -> None:
    folder = released.folder
    known = [each for each in learned(workspace_of(folder, "places")) if is_test(each["instruction"])]
    trains = [each for each in islice(new_rows(), 60) if not is_test(each["instruction"])]
    declare(folder, "child", [*trains, *known])
    refused = f"all {len(known)} own test rows are in what acme.places v1 was trained on"
    result = released.materialize("acme.child", raises=False)
    assert not result.success
    assert refused in released.failure(result)
    done = subprocess.run(
        [Path(sys.executable).with_name("ft-dagster"), "run", "acme.child"],
        env={**command_environment(folder), "COLUMNS": "1000"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert refused in " ".join((done.stdout + done.stderr).split())
