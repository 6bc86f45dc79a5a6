"""Tokens that the base would read general questions and texts by are refused before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.launch.local import ProgramFailed
from ft_dagster.models.derived import new_token_ids_of
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.stages import base_evaluation, evaluation, unsaid_tokens
from ft_dagster.stages.chain import ChainOutcome, run_chain, up_to
from ft_dagster.stages.release import release
from ft_dagster.stages.release_evaluation import judge_release
from ft_dagster.store import read_head
from ft_dagster.workspace.build_context import BuildContext
from ft_dagster.workspace.workspace import RunOf, Workspace
from tests.e2e.project import edit, write_project
from tests.long import mostly_long

pytestmark = pytest.mark.slow
KEY = VariantKey("acme", "places")
MIXED = up_to("training_mixture")


def desk(folder: Path) -> Workspace:
    return Workspace(load_settings(folder), KEY, RunOf("test", "test", lambda line: None))


def mixed(folder: Path, tokens: list[str], **changed: Any) -> ChainOutcome:
    """The chain up to the mixture, with these new tokens and other fields of `evaluation` and `data`."""

    def change(content: dict[str, Any]) -> None:
        source = content["base_model"]
        content["base_model"] = {
            "source": source if isinstance(source, str) else source["source"], "new_tokens": tokens
        }  # fmt: skip
        for part, fields in changed.items():
            content[part].update(fields)

    edit(folder / "tenants" / "acme" / "places.yaml", change)
    return run_chain(desk(folder), MIXED)


@pytest.fixture
def project(tmp_path: Path, tiny_model_folder: Path) -> Path:
    return write_project(tmp_path / "project", tiny_model_folder)


REFUSED = [
    ("stone tower", "held-out general texts"),
    ("fisherman", "1 of 32 general prompts"),
    ("what floats", "30 of 30 questions of tasks/sea_quiz.yaml"),
    ("Answer: a g", "30 of 30 questions of tasks/sea_quiz.yaml"),
    ("small building", "an ordinary sentence"),
]


@pytest.mark.parametrize(("token", "where"), mostly_long(REFUSED, every=3))
def test_a_token_that_general_text_or_a_general_task_has_is_refused_before_anything_is_trained(
    project: Path, token: str, where: str
) -> None:
    error = mixed(project, ["<|tool|>", token]).error
    assert error is not None
    assert "base_model.new_tokens: the token stands in " in error
    assert where in error
    assert f"(got {token!r})" in error
    assert "add a token that ordinary text does not have, such as <|name|>" in error
    assert read_head(desk(project).store, KEY.prefix, "training_mixture") is None


def test_a_token_that_ordinary_text_does_not_have_is_looked_for_once(project: Path) -> None:
    outcome = mixed(project, ["<|tool|>", "Zyrtexal"])
    assert outcome.error is None, outcome.error
    workspace = desk(project)
    proof = workspace.make(unsaid_tokens.STAGE)
    assert (proof.reused, proof.figures["by_task"]) == (True, {"sea_quiz": 30})
    assert outcome.made["training_mixture"].inputs["unsaid_tokens"] == proof.digest
    asked = workspace.recipe(base_evaluation.GENERAL_SCORES)[0].spec
    added = new_token_ids_of(workspace.store, outcome.made["base_model"], workspace.cache)
    assert (asked["withheld"], len(added)) == (added, 2)  # the base is judged as if it had none of them


def test_where_nothing_general_is_asked_or_judged_any_token_is_taken(project: Path) -> None:
    gates = {"degeneration_margin": None}
    outcome = mixed(project, ["stone tower"], data={"general": None}, evaluation={"general": []}, gates=gates)
    assert outcome.error is None, outcome.error
    assert "unsaid_tokens" not in outcome.made["training_mixture"].inputs


@pytest.mark.parametrize("token", ["what floats", "stone tower"])
def test_what_stood_before_it_was_looked_for_is_neither_judged_nor_released(
    chained: Workspace, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    """As of a version that took any token: the mixture stands, and the stages after it are run alone."""
    monkeypatch.setattr(BuildContext, "added_tokens", lambda context, base: [token])
    for ask in (lambda: chained.make(evaluation.STAGE), lambda: judge_release(chained)):
        with pytest.raises(
            (UserError, ProgramFailed), match=r"the token stands in .* would read them otherwise"
        ):
            ask()
    with pytest.raises(UserError, match=r"would read them otherwise|Materialize release_evaluation"):
        release(chained)
