"""Values that are left open, through the chain: decided once for a data set, by the version before it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ft_dagster.audit.answers import EXACT
from ft_dagster.audit.desk import open_audit
from ft_dagster.audit.replay import replay
from ft_dagster.audit.replay_judged import SAME
from ft_dagster.data.mixture_figures import GeneralShare
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.planning.before import VersionBefore
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.stages import training_plan, version_before
from ft_dagster.stages.chain import run_chain, up_to
from ft_dagster.stages.preview import plan_variant
from ft_dagster.stages.version_before import spectrum_of
from ft_dagster.stages.workspace import RunOf, Trial, Workspace
from ft_dagster.store import Artifact
from ft_dagster.training.training_figures import TrainingFigures
from tests.e2e.project import GENERAL, edit, rows, write_lines, write_project
from tests.present import present
from tests.stored_figures import stored_training

KEY = VariantKey("acme", "places")


@dataclass(frozen=True)
class Ran:
    workspace: Workspace
    made: dict[str, Artifact]

    def reason(self, field: str) -> Any:
        estimate = training_plan.estimate_of(self.workspace, self.made["training_plan"])
        (found,) = (each for each in estimate.plan.reasons if each.field == field)
        return found

    @property
    def before(self) -> VersionBefore:
        return present(version_before.read_before(self.workspace, self.workspace.make(version_before.STAGE)))

    @property
    def trained(self) -> str:
        return self.made["fine_tuned_model"].digest


def run(folder: Path) -> Ran:
    workspace = Workspace(load_settings(folder), KEY, RunOf("test", "test", lambda line: None))
    outcome = run_chain(workspace, up_to("evaluation"))
    assert outcome.error is None
    return Ran(workspace, outcome.made)


def foreseen(ran: Ran) -> tuple[Any, ...]:
    """The reasons of the plan before a run."""
    return plan_variant(ran.workspace.settings, KEY).estimate.plan.reasons


def declare(folder: Path, **changed: Any) -> None:
    edit(folder / "tenants" / "acme" / "places.yaml", lambda content: content.update(changed))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    folder = write_project(tmp_path_factory.mktemp("open") / "project", tiny_model_folder)

    def leave_open(content: dict[str, Any]) -> None:
        content["data"]["general"]["share"] = "auto"

    edit(folder / "tenants" / "acme" / "places.yaml", leave_open)
    return folder


@pytest.fixture(scope="module")
def first(project: Path) -> Ran:
    return run(project)


@pytest.fixture(scope="module")
def second(project: Path, first: Ran) -> Ran:
    """On one row more, its rank left open too."""
    declare(project, method={"name": "lora", "rank": "auto"})
    write_lines(project / "data" / "rows.jsonl", [*rows(), {**rows(1)[0], "instruction": "Where is it?"}])
    return run(project)


@pytest.mark.slow
def test_the_first_version_has_what_is_usual_and_says_why(first: Ran) -> None:
    assert first.before == VersionBefore()
    share = first.reason("data.general.share")
    assert (share.value, share.origin) == (0.08, "built-in")
    figures = first.made["training_mixture"].figures
    assert figures["share_reason"] == {"origin": "built-in", "reason": share.reason}
    payload = first.workspace.payload(first.made["training_mixture"])
    assert "share_reason" not in json.loads((payload / "mixture.json").read_text())


@pytest.mark.slow
def test_asked_again_nothing_is_decided_anew_though_there_is_a_version_now(project: Path, first: Ran) -> None:
    again = run(project)
    assert all(artifact.reused for artifact in again.made.values())
    assert again.before == VersionBefore()
    assert first.reason("data.general.share") in foreseen(first)
    file = project / "tenants" / "acme" / "places.yaml"
    declared = file.read_text("utf-8")
    edit(file, lambda content: content["data"].update(on_too_long="drop"))  # the same rows, mixed otherwise
    assert first.reason("data.general.share") in foreseen(first)
    file.write_text(declared, "utf-8")


@pytest.mark.slow
def test_other_data_are_mixed_and_planned_by_what_the_version_before_showed(first: Ran, second: Ran) -> None:
    rank = first.made["training_plan"].figures["method"]["rank"]
    trained = TrainingFigures.of(first.made["fine_tuned_model"])
    (rule,) = (
        each
        for each in Verdict.from_json(first.made["evaluation"].figures["verdict"]).rules
        if each.rule == "general_loss"
    )
    assert second.before == VersionBefore(
        rank, "all-linear", spectrum_of(trained, rank), 0.08, rule.difference, 1.0
    )
    assert rule.difference < 0  # the base is not trained: it learns from any text
    share = second.reason("data.general.share")
    assert (share.value, share.origin) == (0.05, "measured")
    assert second.made["training_mixture"].figures["general_share"]["asked"] == 0.05
    planned = second.reason("method.rank")
    assert planned.origin == "measured"
    step = {"flat": 2 * rank, "collapsed": rank // 2, "fits": rank}  # of 4; by the rule it would be 16
    assert planned.value == step[present(second.before.spectrum)]
    assert second.made["training_plan"].figures["method"]["rank"] == planned.value


@pytest.mark.slow
def test_no_version_is_trained_anew_because_there_is_a_newer_one(project: Path, second: Ran) -> None:
    again = run(project)
    assert all(artifact.reused for artifact in again.made.values())
    assert again.before == second.before


@pytest.mark.long
def test_a_replay_goes_by_what_was_taken_then(second: Ran, tmp_path: Path) -> None:
    """In its clean store there is no version before."""
    audit = open_audit(second.workspace.settings)
    answer = replay(audit, audit.model(str(KEY)), tmp_path / "clean")
    assert (answer.verdict, answer.first) == (EXACT, None)
    assert {part.stage: part.said for part in answer.stages}["training_plan"] == SAME


@pytest.mark.slow
def test_a_plan_that_is_made_again_for_the_same_data_has_the_same_values(project: Path, second: Ran) -> None:
    declare(project, resources={"cpu_slots": 2})
    again = run(project)
    assert not again.made["training_plan"].reused
    assert again.made["training_plan"].digest == second.made["training_plan"].digest
    assert again.made["fine_tuned_model"].reused
    declare(project, resources={"cpu_slots": 1})


@pytest.mark.slow
def test_data_that_were_trained_on_before_find_their_own_version(
    project: Path, first: Ran, second: Ran
) -> None:
    declare(project, method={"name": "lora", "rank": 4})
    write_lines(project / "data" / "rows.jsonl", rows())
    back = run(project)
    assert back.trained == first.trained != second.trained
    assert back.made["training_mixture"].reused


@pytest.mark.slow
def test_an_experiment_goes_by_the_variants_own_version(project: Path, first: Ran) -> None:
    workspace = Workspace(first.workspace.settings, KEY, RunOf("test", "test", lambda line: None))
    declared = workspace.declared()

    def taken_of(field: str, value: Any) -> Artifact:
        trial = Workspace(workspace.settings, KEY, workspace.run, Trial(field, declared, {field: value}))
        assert run_chain(trial, up_to("task_dataset")).error is None
        assert trial.head("fine_tuned_model") is None
        return trial.make(version_before.STAGE)

    same, anew = taken_of("method.dropout", 0.1), taken_of("data.general.share_of", "trained")
    assert same.place == workspace.make(version_before.STAGE).place
    taken = present(version_before.read_before(workspace, anew))
    assert taken.rank == first.made["training_plan"].figures["method"]["rank"]


@pytest.mark.slow
def test_an_open_share_passes_its_check_with_all_the_text_there_is(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    folder = write_project(tmp_path / "project", tiny_model_folder)
    write_lines(folder / "data" / "rows.jsonl", rows(800))
    write_lines(folder / "data" / "general.jsonl", [{"text": text} for text in GENERAL[:20]])
    file = folder / "tenants" / "acme" / "places.yaml"
    edit(file, lambda content: content["data"].update(deduplicate="off"))

    def judged(share: Any) -> tuple[Any, dict[str, Any]]:
        edit(file, lambda content: content["data"]["general"].update(share=share))
        workspace = Workspace(load_settings(folder), KEY, RunOf("test", "test", lambda line: None))
        outcome = run_chain(workspace, up_to("training_mixture"))
        return outcome.error, outcome.made

    error, made = judged("auto")
    assert error is None
    figures = made["training_mixture"].figures
    assert figures["general_share"]["asked"] == 0.08
    assert figures["general_share"]["realized"] < 0.06
    assert "corpus general is used up" in figures["warnings"][0]
    error, _ = judged(0.08)
    assert "corpus general is too small" in str(error)


@pytest.mark.parametrize(("realized", "learned"), [(0.1, 0.1), (0.095, 0.1), (0.02, 0.02)])
def test_it_is_learned_from_the_share_that_came_out_where_the_text_ran_out(
    realized: float, learned: float
) -> None:
    assert version_before._learned_with(GeneralShare(0.1, realized)) == learned


@pytest.mark.parametrize(
    ("version", "key", "share_of"),
    [(3, {}, "trained"), (3, {"share_of": "processed"}, "processed"), (4, {}, "processed")],
)
def test_a_share_of_an_older_mixture_is_of_what_was_usual_then(
    version: int, key: dict[str, str], share_of: str
) -> None:
    general = {"corpus": "general", "share": 0.08, **key}
    mixture: Any = SimpleNamespace(
        spec={"spec": {"data": {"general": general}}}, predicate={"stage_version": version}
    )
    found = version_before._general_of(mixture)
    assert found == {**general, "share_of": share_of}
    more = {**found, "share": 0.1, "texts": 2000}  # of the same kind, and enough of it
    assert version_before._but_share(more) == version_before._but_share(found)


@pytest.mark.parametrize(
    ("advice", "rank", "said"),
    [
        ("rank collapse: the updates use about 2 of 16 ranks: try rank 2", 16, "collapsed"),
        ("flat spectrum: all 16 singular values are alike: rank may be too small, try 32", 16, "flat"),
        ("training loss is still falling: train longer", 16, "fits"),
        ("flat spectrum: all 1 singular values are alike", 1, None),
    ],
)
def test_a_spectrum_is_read_from_what_the_training_said(advice: str, rank: int, said: str | None) -> None:
    figures = TrainingFigures.from_json(stored_training(advice=[advice], effective_rank=2.0))
    assert spectrum_of(figures, rank) == said


def test_an_adapter_without_an_update_has_no_spectrum() -> None:
    assert spectrum_of(TrainingFigures.from_json(stored_training(advice=[])), 16) is None
