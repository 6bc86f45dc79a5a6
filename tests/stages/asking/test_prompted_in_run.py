"""A run asks the base with examples before it trains; nothing that is made rests on the answers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.gate.prompted import Prompted
from ft_dagster.gate.samples import read_samples
from ft_dagster.launch.local import ProgramFailed
from ft_dagster.report.sentences.prompted import Beside, on_same_questions, prompted_rows
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.stages import base_evaluation, prompted_base
from ft_dagster.stages.asking.prompted_in_run import ask_before_training
from ft_dagster.stages.chain import CHAIN, run_chain
from ft_dagster.versions.version_report import version_report
from ft_dagster.workspace.past import answers_with_examples
from ft_dagster.workspace.workspace import RunOf, Workspace
from tests.e2e.project import edit
from tests.finished import copied, copied_workshop

pytestmark = pytest.mark.slow
KEY = VariantKey("acme", "places")


@pytest.fixture
def finished(tmp_path: Path, finished_project: Path) -> Path:
    return copied(finished_project, tmp_path / "project")


def opened(folder: Path, said: list[str] | None = None) -> Workspace:
    lines = [] if said is None else said
    return Workspace(load_settings(folder), KEY, RunOf("test", "test", lines.append))


def asked(workspace: Workspace) -> list[str]:
    found = answers_with_examples(
        workspace.store, KEY.prefix, workspace.upstream("base_model"), workspace.upstream("task_dataset")
    )
    return [Prompted.from_json(each.figures).split for each in found]


def forget(workspace: Workspace) -> None:
    """As of a store whose model was trained before the base was ever asked so."""
    folder = f"{KEY.prefix}/prompted_base"
    [key] = workspace.store.names(folder)
    workspace.store.remove([f"{folder}/{key}/manifest.json"])


def test_a_run_asked_validation_rows_alone_and_no_artifact_names_the_answers(finished: Path) -> None:
    workspace = opened(finished)
    assert asked(workspace) == ["validation"]
    for stage in CHAIN:
        assert "prompted_base" not in workspace.upstream(stage.name).inputs


def test_a_variant_whose_model_stands_asks_nothing(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = opened(finished)
    forget(workspace)

    def refused(*arguments: Any, **named: Any) -> Any:
        raise AssertionError("a program was started")

    monkeypatch.setattr(Workspace, "run_program", refused)
    outcome = run_chain(opened(finished))
    assert outcome.error is None, outcome.error
    assert all(artifact.reused for artifact in outcome.made.values())


def test_with_a_goal_a_run_asks_test_rows_too_and_nothing_else_anew(finished: Path) -> None:
    before = {stage.name: opened(finished).upstream(stage.name).digest for stage in CHAIN[1:]}
    edit(
        finished / "tenants" / "acme" / "places.yaml",
        lambda content: content["evaluation"].update(goal=0.9),
    )
    said: list[str] = []
    outcome = run_chain(opened(finished, said))
    assert outcome.error is None, outcome.error
    assert {name: made.digest for name, made in outcome.made.items() if name in before} == before
    assert all(made.reused for name, made in outcome.made.items() if name != "declaration")
    workspace = opened(finished)
    assert asked(workspace) == ["validation", "test"]
    assert any("the base alone (token_f1" in line and "test rows" in line for line in said)
    prompted = read_samples(workspace.payload(workspace.make(prompted_base.ON_TEST)))
    base, tuned = (
        read_samples(workspace.payload(workspace.upstream(name)))
        for name in (base_evaluation.STAGE.name, "evaluation")
    )
    own = [sample for sample in tuned if sample.role == "test_split_task"]
    assert on_same_questions(prompted, base).keys() == {"exact_match", "token_f1"}
    named = {sample.question.partition(":")[2] for sample in own}
    assert {sample.question.partition(":")[2] for sample in prompted} == named
    found = Prompted.from_json(workspace.make(prompted_base.ON_TEST).figures)
    beside = prompted_rows([Beside.of(found, prompted, tuned)])
    assert [row[0] for row in beside] == [0, 0, 4, 4, 8, 8]
    assert all(row[-1].endswith("%") for row in beside)
    page = version_report(load_settings(finished), KEY)
    assert "the base with examples in its prompt" in page
    assert "test rows" in page


def test_a_failure_of_the_asking_is_said_and_stops_no_training(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    workspace = opened(finished, said)
    forget(workspace)

    def failing(mendable: bool, *arguments: Any, **named: Any) -> Any:
        raise ProgramFailed("it had no memory left", "Free some", mendable=mendable)

    monkeypatch.setattr(Workspace, "run_program", partial(failing, False))
    ask_before_training(workspace)
    assert any("the base was not asked with examples: it had no memory left" in line for line in said)
    monkeypatch.setattr(Workspace, "run_program", partial(failing, True))
    with pytest.raises(ProgramFailed):  # the run is tried again, and asks then
        ask_before_training(workspace)


def test_the_pages_of_training_and_evaluation_show_what_the_base_reaches(
    tmp_path: Path, finished_project: Path
) -> None:
    with copied_workshop(finished_project, tmp_path) as shop:
        shown = {
            event.asset_key.path[-1]: event.step_materialization_data.materialization.metadata
            for event in shop.first.get_asset_materialization_events()
            if event.asset_key is not None
        }
    assert "the base alone (token_f1" in str(shown["fine_tuned_model"]["without_training"].value)
    page: Any = shown["evaluation"]["with_examples"]
    assert {record.data["examples"] for record in page.records} == {"0", "4", "8"}
