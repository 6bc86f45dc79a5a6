"""By which rules a chat was rendered and an answer ended: each base's own, and never mixed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

from ft_dagster.data.rendering.render import load_tokenizer
from ft_dagster.errors import UserError
from ft_dagster.gate.samples import OWN
from ft_dagster.settings import load_settings
from ft_dagster.stages import (
    base_evaluation,
    base_model,
    declaration,
    evaluation,
    model_export,
    production_evaluation,
    task_dataset,
    training_mixture,
)
from ft_dagster.stages.judging import opponents
from ft_dagster.stages.judging.declared_now import DeclaredWorkspace, declared_workspace
from ft_dagster.stages.judging.opponents import against_versions
from ft_dagster.stages.judging.verdicts import (
    asked_alike,
    asked_by_its_rules,
    own_verdict,
)
from ft_dagster.store import Artifact
from ft_dagster.versions.look import FoundNow
from ft_dagster.versions.now import difference
from ft_dagster.versions.version_artifacts import version_artifacts
from ft_dagster.workspace import questions
from ft_dagster.workspace.past import InProduction, Past
from ft_dagster.workspace.stage import Stage
from ft_dagster.workspace.workspace import Workspace
from tests.e2e.project import edit

pytestmark = pytest.mark.slow
CHAT = {"ends": ["<|endoftext|>", "<|im_end|>"]}
GONE = "f" * 64


class Moved(NamedTuple):
    """A variant with a version in production on a base as most, whose declaration names one by now whose
    template ends a turn with another token than eos: `before` that base was asked anything, and `after`.
    """

    before: Workspace
    after: Workspace

    @property
    def plain(self) -> Artifact:
        """The evaluation of the version in production."""
        return self.before.upstream("evaluation")

    def ruled(self, chat: dict[str, Any] | None, *, scores: bool) -> Artifact:
        """The same as if it were on the other base, by these rules."""
        known = self.after.upstream("base_evaluation").digest if scores else GONE
        return by(
            self.plain, chat, base_model=self.after.upstream("base_model").digest, base_evaluation=known
        )


@pytest.fixture(scope="module")
def moved(chained: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Moved:
    folder = tmp_path_factory.mktemp("moved")
    project = shutil.copytree(chained.project, folder / "before")
    base = shutil.copytree(chained.spec.base_model.source or "", folder / "base")
    tokenizer = load_tokenizer(base)
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.save_pretrained(base)
    edit(project / "ft_dagster.yaml", lambda content: content["sources"]["bases"].append(str(base)))
    edit(project / "tenants/acme/places.yaml", lambda content: content.update(base_model=str(base)))
    before = declared(project, chained)
    make(before, declaration.STAGE, base_model.STAGE)
    after = declared(shutil.copytree(project, folder / "after"), chained)
    make(after, task_dataset.STAGE, training_mixture.STAGE, base_evaluation.STAGE)
    return Moved(before, after)


def declared(project: Path, like: Workspace) -> Workspace:
    return Workspace(load_settings(project), like.key, like.run)


def make(workspace: Workspace, *stages: Stage[Any]) -> None:
    for stage in stages:
        workspace.make(stage)


def by(made: Artifact, chat: dict[str, Any] | None, **inputs: str) -> Artifact:
    """The same by these rules, of other inputs."""
    spec = {name: value for name, value in made.spec.items() if name != "chat"}
    changed = {"spec": spec if chat is None else {**spec, "chat": chat}, "inputs": {**made.inputs, **inputs}}
    return replace(made, predicate={**made.predicate, **changed})


def saying(scores: Artifact, chat: dict[str, Any]) -> Artifact:
    return replace(scores, predicate={**scores.predicate, "figures": {**scores.figures, "chat": chat}})


def test_they_are_in_a_key_only_where_a_base_is_not_as_most(
    chained: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an export too: what drifted from the weights is asked by itself."""
    stages: tuple[Stage[Any], ...] = (
        base_evaluation.STAGE,
        evaluation.STAGE,
        production_evaluation.STAGE,
        model_export.STAGE,
    )
    plain = [chained.recipe(stage)[0] for stage in stages]
    assert not any(name.startswith("chat") for recipe in plain for name in recipe.spec)
    monkeypatch.setattr(questions, "chat_of", lambda made: CHAT)
    for stage, recipe in zip(stages, plain, strict=True):
        assert chained.recipe(stage)[0].spec == {**recipe.spec, "chat": CHAT}


def test_weights_are_not_asked_by_them_before_their_base_was(
    chained: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "chat_of", lambda made: CHAT)
    with pytest.raises(UserError, match="the base was asked otherwise"):
        chained.make(evaluation.STAGE)


def test_production_is_asked_by_those_of_its_own_base(moved: Moved, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variant moved off a base as most, or onto one."""
    other, tuned = moved.after.upstream("base_model"), moved.after.upstream("fine_tuned_model")
    export = moved.after.upstream("model_export")
    assert questions.chat_of(moved.after.upstream("base_evaluation")) == CHAT
    assert "chat" not in moved.after.recipe(production_evaluation.STAGE)[0].spec
    served = InProduction(cast(Any, None), other, tuned, export)
    monkeypatch.setattr(Past, "production", lambda past, release: served)
    for each in moved:
        assert each.recipe(production_evaluation.STAGE)[0].spec["chat"] == CHAT


def test_an_evaluation_is_held_against_those_of_its_own_base(moved: Moved) -> None:
    for each in moved:
        assert asked_by_its_rules(each, moved.plain)
        assert not asked_by_its_rules(each, by(moved.plain, CHAT))
        for scores in (True, False):
            assert asked_by_its_rules(each, moved.ruled(CHAT, scores=scores))
            assert not asked_by_its_rules(each, moved.ruled(None, scores=scores))
    assert asked_alike(moved.plain, by(moved.plain, CHAT))


def test_scores_of_a_base_say_them_when_its_files_are_gone(
    moved: Moved, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not asked_by_its_rules(moved.after, by(moved.plain, None, base_model=GONE, base_evaluation=GONE))

    def gone(*_: Any) -> Path:
        raise UserError("there is no such folder", fix="Restore it")

    monkeypatch.setattr(Workspace, "base_folder", gone)
    assert asked_by_its_rules(moved.after, moved.plain)
    assert asked_by_its_rules(moved.after, moved.ruled(CHAT, scores=True))
    assert not asked_by_its_rules(moved.before, moved.ruled(CHAT, scores=False))


class AskedAgain(Exception):
    """The version in production is."""


@pytest.mark.parametrize("chat", [None, CHAT])
def test_production_on_another_base_is_asked_again_only_where_it_was_by_others(
    moved: Moved, monkeypatch: pytest.MonkeyPatch, chat: dict[str, Any] | None
) -> None:
    def make(*_: Any) -> Artifact:
        raise AskedAgain

    standing = moved.ruled(chat, scores=False)
    monkeypatch.setattr(opponents, "released_evaluation", lambda *_: standing)
    monkeypatch.setattr(opponents._Desk, "_compared", lambda *_, **__: opponents._Found((), ()))
    monkeypatch.setattr(DeclaredWorkspace, "make", make)
    monkeypatch.setattr(DeclaredWorkspace, "find", lambda self, stage: self.head(stage.name))
    trained = moved.before.upstream("fine_tuned_model")
    newer = replace(trained, predicate={**trained.predicate, "digest": GONE})
    if chat is None:
        with pytest.raises(AskedAgain):
            against_versions(declared_workspace(moved.before), newer, moved.plain)
    else:
        assert against_versions(declared_workspace(moved.before), newer, moved.plain).rules == ()


def test_an_export_that_was_asked_by_others_than_the_weights_is_refused(
    chained: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / OWN / "payload").mkdir(parents=True)
    monkeypatch.setattr(Workspace, "evidence", lambda *_: tmp_path)
    export, judged = chained.upstream("model_export"), chained.upstream("evaluation")
    with pytest.raises(UserError, match="by other rules of a chat"):
        own_verdict(chained, export, by(judged, CHAT))


def test_answers_by_others_than_scores_of_the_same_bytes_say_are_out_of_date(chained: Workspace) -> None:
    version = version_artifacts(chained.store, chained.prefix)

    def named(**changed: Artifact) -> list[str]:
        of = version._replace(artifacts={**version.artifacts, **changed})
        return [cause.what for cause in difference(chained, chained.declared(), of, FoundNow(None))]

    assert named() == []
    scores, before = (version.artifacts[stage] for stage in ("general_scores", "base_evaluation"))
    assert named(general_scores=saying(scores, CHAT)) == ["base_evaluation"]
    again = {"general_scores": saying(scores, CHAT), "base_evaluation": saying(by(before, CHAT), CHAT)}
    assert named(**again) == ["evaluation", "model_export"]
    judged = {stage: by(version.artifacts[stage], CHAT) for stage in ("evaluation", "model_export")}
    assert named(**again, **judged) == []
