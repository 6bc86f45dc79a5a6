"""What `ft-dagster try` asks of whom."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from ft_dagster.cli import app
from ft_dagster.errors import UserError
from ft_dagster.evaluation.answers import AnswerPair, AskedPrompts
from ft_dagster.spec import VariantKey
from ft_dagster.stages.newest_model import NewestModel
from tests.automation.declarations import declare

KEYS = ("acme.chat", "acme.plain", "globex.new")


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[AskedPrompts]:
    """What the models were asked; globex.new has none yet."""
    heard: list[AskedPrompts] = []

    def newest(settings: Any, key: VariantKey) -> NewestModel:
        if key.tenant == "globex":
            raise UserError(f"{key} has no trained model yet", fix="Run it first")
        return NewestModel(tmp_path / "base", tmp_path / key.variant, chat=key.variant == "chat")

    def answer(questions: list[AskedPrompts], *, max_new_tokens: int) -> Iterator[list[AnswerPair]]:
        heard.extend(questions)
        return ([AnswerPair(text, "plain", "tuned") for text in each.prompts] for each in questions)

    for key in KEYS:
        declare(tmp_path, key)
    monkeypatch.setattr("ft_dagster.stages.newest_model.newest_model", newest)
    monkeypatch.setattr("ft_dagster.evaluation.answers.answer", answer)
    return heard


def tried(project: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["--project", str(project), "try", *arguments])


def test_each_variant_of_a_file_is_asked_its_own_prompts(asked: list[AskedPrompts], tmp_path: Path) -> None:
    file = tmp_path / "prompts.yaml"
    file.write_text("acme.plain: [one]\nacme.chat: [two, three]\n")
    said = json.loads(tried(tmp_path, "--prompts", str(file), "--json").stdout)
    assert [(each["variant"], len(each["answers"])) for each in said] == [("acme.plain", 1), ("acme.chat", 2)]
    assert [(each.prompts, each.chat) for each in asked] == [(["one"], False), (["two", "three"], True)]


def test_a_variant_without_a_model_is_said_before_any_is_asked(
    asked: list[AskedPrompts], tmp_path: Path
) -> None:
    result = tried(tmp_path, "acme.chat", "globex.new", "--prompt", "one")
    assert isinstance(result.exception, UserError)
    assert "globex.new has no trained model yet" in str(result.exception)
    assert not asked


@pytest.mark.parametrize(
    ("prompts", "field"),
    [
        ("acme.chat: [one]\nacme.plain:", "acme.plain"),
        ("acme.plain: []", "acme.plain"),
        ("acme.plain: How long?", "acme.plain"),
        ("acme.plain: [42]", "acme.plain"),
        ("acme.plain: [one, ' ']", "acme.plain"),
    ],
)
def test_what_is_no_list_of_prompts_is_named(
    asked: list[AskedPrompts], tmp_path: Path, prompts: str, field: str
) -> None:
    file = tmp_path / "prompts.yaml"
    file.write_text(prompts)
    result = tried(tmp_path, "--prompts", str(file))
    assert isinstance(result.exception, UserError)
    assert (result.exception.file, result.exception.field) == (str(file), field)
    assert not asked


def test_a_named_variant_that_the_file_leaves_out_needs_a_prompt(
    asked: list[AskedPrompts], tmp_path: Path
) -> None:
    file = tmp_path / "prompts.yaml"
    file.write_text("acme.chat: [one]")
    names = ("acme.chat", "acme.plain", "--prompts", str(file))
    refused = tried(tmp_path, *names)
    assert isinstance(refused.exception, UserError)
    assert "no prompts for this variant" in str(refused.exception)
    assert tried(tmp_path, *names, "--prompt", "two").exit_code == 0
    assert [each.prompts for each in asked] == [["one"], ["two"]]


def test_an_empty_prompt_is_refused(asked: list[AskedPrompts], tmp_path: Path) -> None:
    result = tried(tmp_path, "acme.plain", "--prompt", " ")
    assert isinstance(result.exception, UserError)
    assert result.exception.field == "--prompt"
