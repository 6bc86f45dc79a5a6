"""What a variant is asked was trained on by no release that it starts from."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ft_dagster.report.sentences.ancestors import ancestor_lines
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.stages import base_evaluation
from ft_dagster.stages.ancestry import overlap_now, own_task
from ft_dagster.stages.base_evaluation import GENERAL_SCORES
from ft_dagster.stages.chain import ChainOutcome, run_chain, up_to
from ft_dagster.stages.judging.may_serve import Today, Version, may_serve
from ft_dagster.store import Artifact
from ft_dagster.store.removal import claim_removal, finish_removal
from ft_dagster.workspace.input_view import View
from ft_dagster.workspace.next_look import look_ahead
from ft_dagster.workspace.workspace import Workspace
from tests.e2e.project import GENERAL, POLICY, TASK, edit, write_lines, write_yaml
from tests.finished import copied
from tests.present import present
from tests.stages.families import (
    declare,
    is_test,
    learned,
    learned_texts,
    new_rows,
    row,
    workspace_of,
)

pytestmark = pytest.mark.slow
PLAN = up_to("training_plan")
NEXT_YEAR = 4e9  # seconds since 1970


class Family:
    """A project whose acme.places is released, and acme.child on it: some of its own test rows, a held-out
    text and a question of a benchmark are what acme.places was trained on.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.said = folder, list[str]()
        self.parent = workspace_of(folder, "places")
        *self.rows, quizzed = (each for each in learned(self.parent) if is_test(each["instruction"]))
        texts = learned_texts(self.parent)
        changes = ("a tower of stone", "one tall tower", "a grey tower", "some tower")
        changed = (text.replace("a stone tower", change) for text in texts for change in changes)
        self.near = next(filter(is_test, changed))
        self.texts = texts
        self.others = list(islice(new_rows(), 60))
        question, answer = quizzed["instruction"], quizzed["output"]
        quiz = [
            {"question": question, "choices": ["far", answer], "answer": 1},
            *(
                {"question": f"What is {n} and one?", "choices": ["no", str(n + 1)], "answer": 1}
                for n in range(20)
            ),
        ]
        write_lines(folder / "tasks" / "town.jsonl", quiz)
        task = {**TASK, "task": "town_quiz", "dataset_kwargs": {"data_files": {"test": "town.jsonl"}}}
        write_yaml(folder / "tasks" / "town_quiz.yaml", task)
        write_lines(folder / "data" / "other.jsonl", [{"text": text} for text in {*texts, *GENERAL[100:160]}])
        corpus = {"description": "some of them", "sources": ["data/other.jsonl"], "holdout": 0.5}
        write_yaml(folder / "corpora" / "other.yaml", corpus)
        declare(
            folder,
            "child",
            [*self.others, *self.rows, row(self.near, "It is the old town.")],
            data={"general": {"corpus": "other", "share": 0.08}},
            evaluation={"general": ["tasks/sea_quiz.yaml", "tasks/town_quiz.yaml"], "limit": None},
        )

    @property
    def child(self) -> Workspace:
        return workspace_of(self.folder, "child", self.said.append)

    def run(self, name: str = "child", stages: Any = PLAN) -> ChainOutcome:
        return run_chain(workspace_of(self.folder, name, self.said.append), stages)

    def remove(self, stage: str, workspace: Workspace) -> None:
        """Remove an artifact as retention does."""
        artifact = workspace.upstream(stage)
        assert claim_removal(workspace.store, artifact, "nothing needed it", NEXT_YEAR)
        finish_removal(workspace.store, artifact)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory, finished_project: Path) -> Family:
    """The family, its child run up to its plan."""
    family = Family(copied(finished_project, tmp_path_factory.mktemp("family") / "project"))
    outcome = family.run()
    assert outcome.error is None, outcome.error
    return family


def overlap(workspace: Workspace) -> Artifact:
    return present(overlap_now(workspace))


def hits(workspace: Workspace, kind: str) -> list[dict[str, Any]]:
    """The questions of a kind that ancestors were trained on."""
    found = json.loads((workspace.evidence(overlap(workspace)) / "hits.json").read_text("utf-8"))
    named = [{**each, "by": one["variant"]} for one in found["ancestors"] for each in one["questions"]]
    return [each for each in named if each["kind"] == kind]


def test_own_test_rows_that_the_parent_was_trained_on_are_not_asked(family: Family) -> None:
    child = family.child
    dataset, made = child.upstream("task_dataset"), overlap(child)
    tests = pq.read_table(child.payload(dataset) / "test.parquet").to_pylist()
    asked = pq.read_table(child.payload(made) / "test.parquet").to_pylist()
    gone = [each["messages"] for each in tests if each not in asked]
    trained = {each["instruction"] for each in (*family.rows, row(family.near, ""))}
    assert {json.loads(messages)[0]["content"] for messages in gone} == trained
    assert made.figures["left_out"]["own"] == len(gone) == len(tests) - len(asked)
    [parent] = made.figures["ancestors"]
    assert (parent["variant"], parent["version"], parent["own"]) == ("acme.places", 1, len(gone))


def test_base_and_model_are_asked_what_is_left(family: Family) -> None:
    """Of the key of the base's scores, and so of all that is compared with them."""
    child, made = family.child, overlap(family.child)
    general = child.recipe(GENERAL_SCORES)[1].general
    left = {
        name: made.files[f"payload/{name}"].sha256 for name in ("general_holdout.parquet", "left_out.json")
    }
    assert present(general.general_holdout).sha256 == left["general_holdout.parquet"]
    assert present(general.left_out).sha256 == left["left_out.json"]
    task = own_task(View(child, base_evaluation.STAGE))
    assert present(task.test).sha256 == made.files["payload/test.parquet"].sha256
    assert task.left_out is None


def test_a_hit_names_the_ancestor_the_row_and_the_question(family: Family) -> None:
    found = hits(family.child, "own")
    rows = learned(family.parent)
    same = [each for each in found if each["how"] == "same"]
    assert {each["by"] for each in found} == {"acme.places"}
    named = {rows[int(each["row"].rpartition(":")[2])]["instruction"] for each in same}
    assert named == {each["instruction"] for each in family.rows}
    [near] = [each for each in found if each["how"] == "near"]
    assert near["row"].startswith("general:general:")


def test_held_out_text_that_the_parent_was_trained_on_is_not_read(family: Family) -> None:
    child, made = family.child, overlap(family.child)
    held_out = pq.read_table(
        child.payload(child.upstream("training_mixture")) / "general_holdout/texts.parquet"
    )
    left = pq.read_table(child.payload(made) / "general_holdout.parquet").column("text").to_pylist()
    gone = [text for text in held_out.column("text").to_pylist() if text not in left]
    assert gone
    assert {*gone} <= {*family.texts}
    assert not {*left} & {*family.texts}


def test_a_question_of_a_benchmark_that_the_parent_was_trained_on_is_named(family: Family) -> None:
    made = overlap(family.child)
    content = json.loads((family.child.payload(made) / "left_out.json").read_text("utf-8"))
    assert content["tasks"] == {"town_quiz": {"of": 21, "numbers": [0]}}
    assert [each["question"] for each in hits(family.child, "tasks")] == ["town_quiz:0"]


def test_nothing_of_a_variant_without_a_parent_is_looked_for(family: Family) -> None:
    assert overlap_now(family.parent) is None
    assert not family.parent.store.names("tenants/acme/places/ancestor_overlap")


def test_no_training_is_made_again_by_what_is_asked(family: Family) -> None:
    """The keys of mixture, plan and training name nothing of the overlap."""
    for stage in ("training_mixture", "training_plan"):
        made = family.child.upstream(stage)
        assert "ancestor_overlap" not in {**made.inputs, **made.spec}


def test_what_was_looked_through_is_not_looked_through_twice(family: Family) -> None:
    made = overlap(family.child)
    looked = [line for line in family.said if line.startswith("looking for what is asked")]
    assert len(looked) == 2  # its rows, and its general text
    store = family.child.store
    store.remove(f"{made.path}/{name}" for name in made.files)
    store.remove([made.manifest_path])
    family.said.clear()
    assert overlap(family.child).digest == made.digest
    assert "ancestor_overlap" in " ".join(family.said)
    assert not [line for line in family.said if line.startswith("looking for what is asked")]


@pytest.mark.long
def test_where_rows_are_gone_the_same_records_are_found_and_near_ones_said_not_to_be_searched(
    family: Family, finished_project: Path, tmp_path: Path
) -> None:
    other = Family(copied(finished_project, tmp_path / "project"))
    other.remove("task_dataset", other.parent)
    outcome = other.run()
    assert outcome.error is None, outcome.error
    made = overlap(other.child)
    assert made.figures["ancestors"][0]["searched"] == {"rows": "exact", "general": "whole"}
    same = [each for each in hits(other.child, "own") if each["how"] == "same"]
    assert len(same) == len(other.rows)
    assert hits(other.child, "tasks") == []
    [line] = ancestor_lines(made.figures["ancestors"])
    assert line.startswith(f"acme.places v1 was trained on {len(same) + 1} own test rows")
    assert "the rows are gone: records of the same content were looked for, near ones" in line

    edit(other.folder / "policy.yaml", lambda content: content["evaluation"].update(ancestors="searched"))
    error = str(other.run().error)
    assert "child.yaml: base_model.variant" in error
    assert "of acme.places v1 the rows are gone" in error
    assert "policy.yaml: evaluation.ancestors" in error
    assert "to optional in policy.yaml" in error


@pytest.mark.long
def test_rows_that_are_removed_after_they_were_looked_through_move_no_key(
    finished_project: Path, tmp_path: Path
) -> None:
    other = Family(copied(finished_project, tmp_path / "project"))
    assert other.run().error is None
    made = overlap(other.child)
    other.remove("task_dataset", other.parent)
    assert overlap(other.child).place == made.place


def test_a_child_of_whose_test_rows_none_is_new_is_refused_before_it_is_trained(
    family: Family, finished_project: Path, tmp_path: Path
) -> None:
    folder = copied(finished_project, tmp_path / "project")
    trains = [each for each in islice(new_rows(), 60) if not is_test(each["instruction"])]
    declare(folder, "child", [*trains, *family.rows])
    child = workspace_of(folder, "child")
    error = str(run_chain(child, PLAN).error)
    assert f"all {len(family.rows)} own test rows are in what acme.places v1 was trained on" in error
    assert "child.yaml: data.sources" in error
    assert child.head("training_plan") is None


def test_a_gate_that_what_is_left_cannot_decide_is_refused_with_the_ancestor(
    family: Family, finished_project: Path, tmp_path: Path
) -> None:
    folder = copied(finished_project, tmp_path / "project")
    trains = [each for each in islice(new_rows(), 60) if not is_test(each["instruction"])]
    asked = [each for each in islice(new_rows(), 60) if is_test(each["instruction"])][:2]
    gates = {"undecided": "fail", "task_margin": 1.0, "loss_tail": 0.6, "regression_margin": None}
    declare(folder, "child", [*trains, *asked, *family.rows], gates=gates)
    error = str(run_chain(workspace_of(folder, "child"), PLAN).error)
    assert "what acme.places v1 was trained on is not asked" in error


def test_what_a_parent_learned_is_found_beneath_a_stacked_adapter(
    family: Family, finished_project: Path, tmp_path: Path
) -> None:
    """And what the declaration has looked for nowhere is said not to be searched."""
    folder = copied(finished_project, tmp_path / "project")
    rows = [*islice(new_rows(), 40), *family.rows]
    declare(
        folder,
        "child",
        rows,
        base_model={"variant": "acme.places", "parent_adapter": "stack"},
        data={"deduplicate": "off", "decontaminate": {"enabled": False}},
    )
    outcome = run_chain(workspace_of(folder, "child"), PLAN)
    assert outcome.error is None, outcome.error
    found = overlap(workspace_of(folder, "child")).figures
    assert found["left_out"]["own"] == len(family.rows)
    [line] = ancestor_lines(found["ancestors"])
    assert "near copies of test rows and texts were not searched: data.deduplicate is off" in line
    assert "questions of benchmarks were not searched: data.decontaminate is off" in line


def test_a_version_whose_ancestors_could_not_be_looked_through_is_not_served_where_the_policy_demands_that(
    family: Family, finished_project: Path, tmp_path: Path
) -> None:
    """Nor one whose evaluation is older than the search."""
    folder = copied(finished_project, tmp_path / "project")
    child, made = family.child, overlap(family.child)
    base, found = child.upstream("base_model"), made.figures["ancestors"]
    gone = [{**each, "searched": {**each["searched"], "rows": "exact"}} for each in found]
    for demand in ("optional", "searched"):
        write_yaml(folder / "policy.yaml", {**POLICY, "evaluation": {"ancestors": demand}})
        today = Today.of(load_settings(folder), VariantKey("acme", "child"))
        for said, words in (
            ({"ancestors": found}, ""),
            ({"ancestors": gone}, "of acme.places v1 the rows are gone"),
            ({}, "its evaluation is older than that search"),
        ):
            judged = replace(made, predicate={**made.predicate, "figures": said})
            version = Version("the child", child.spec, {"base_model": base, "evaluation": judged}, "adapter")
            unserved = [each for each in may_serve(version, today) if each.what == "evaluation.ancestors"]
            assert bool(unserved) is (bool(words) and demand == "searched")
            for each in unserved:
                assert words in each.words
                assert "policy.yaml: evaluation.ancestors" in each.words


def test_the_next_look_counts_no_question_that_an_ancestor_was_trained_on(family: Family) -> None:
    child, made = family.child, overlap(family.child)
    look = look_ahead(child, child.spec)
    there = {rule.rule: rule.there for rule in look.rules}
    assert there["task"] == made.figures["asked"]["own"] - made.figures["left_out"]["own"]
    rows = made.figures["asked"]["own"]
    assert look_ahead(child, child.spec, rows).rules == look.rules
