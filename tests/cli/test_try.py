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
from ft_dagster.evaluation.answers import AnswerPair, PromptRequest
from ft_dagster.spec import VariantKey
from ft_dagster.versions.newest_model import NewestModel
from tests.automation.declarations import declare

pytestmark = pytest.mark.slow

KEYS = ("acme.chat", "acme.plain", "globex.new")


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[PromptRequest]:
    """What the models were asked; globex.new has none yet."""
    heard: list[PromptRequest] = []

    def newest(settings: Any, key: VariantKey) -> NewestModel:
        if key.tenant == "globex":
            raise UserError(f"{key} has no trained model yet", fix="Run it first")
        return NewestModel(tmp_path / "base", tmp_path / key.variant, chat=key.variant == "chat")

    def answer(questions: list[PromptRequest], *, max_new_tokens: int) -> Iterator[list[AnswerPair]]:
        heard.extend(questions)
        return ([AnswerPair(text, "plain", "tuned") for text in each.prompts] for each in questions)

    for key in KEYS:
        declare(tmp_path, key)
    monkeypatch.setattr("ft_dagster.versions.newest_model.newest_model", newest)
    monkeypatch.setattr("ft_dagster.evaluation.answers.answer", answer)
    return heard


def tried(project: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["--project", str(project), "try", *arguments])


def test_each_variant_of_a_file_is_asked_its_own_prompts(asked: list[PromptRequest], tmp_path: Path) -> None:
    file = tmp_path / "prompts.yaml"
    file.write_text("acme.plain: [one]\nacme.chat: [two, three]\n")
    said = json.loads(tried(tmp_path, "--prompts", str(file), "--json").stdout)
    assert [(each["variant"], len(each["answers"])) for each in said] == [("acme.plain", 1), ("acme.chat", 2)]
    assert [(each.prompts, each.chat) for each in asked] == [(["one"], False), (["two", "three"], True)]


def test_without_a_prompt_and_a_terminal_it_says_how_to_give_one(
    asked: list[PromptRequest], tmp_path: Path
) -> None:
    result = tried(tmp_path, "acme.chat")
    assert isinstance(result.exception, UserError)
    assert str(result.exception).startswith("--prompt: no prompt is given, and there is no terminal")
    assert "Add --prompt TEXT" in str(result.exception)
    assert asked == []


def test_a_variant_without_a_model_is_said_before_any_is_asked(
    asked: list[PromptRequest], tmp_path: Path
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
        ("acme.plain: [{expected: S50}]", "acme.plain"),
        ("acme.plain: [{prompt: one, expected: 42}]", "acme.plain"),
        ("acme.plain: [{prompt: one, expected: [two, ' ']}]", "acme.plain"),
        ("acme.plain: [{prompt: one, answer: two}]", "acme.plain"),
        ("acme.plain: [{prompt: one, expected: '?!'}]", "acme.plain"),
    ],
)
def test_what_is_no_list_of_prompts_is_named(
    asked: list[PromptRequest], tmp_path: Path, prompts: str, field: str
) -> None:
    file = tmp_path / "prompts.yaml"
    file.write_text(prompts)
    result = tried(tmp_path, "--prompts", str(file))
    assert isinstance(result.exception, UserError)
    assert (result.exception.file, result.exception.field) == (str(file), field)
    assert not asked


def test_a_named_variant_that_the_file_leaves_out_needs_a_prompt(
    asked: list[PromptRequest], tmp_path: Path
) -> None:
    file = tmp_path / "prompts.yaml"
    file.write_text("acme.chat: [one]")
    names = ("acme.chat", "acme.plain", "--prompts", str(file))
    refused = tried(tmp_path, *names)
    assert isinstance(refused.exception, UserError)
    assert "no prompts for this variant" in str(refused.exception)
    assert tried(tmp_path, *names, "--prompt", "two").exit_code == 0
    assert [each.prompts for each in asked] == [["one"], ["two"]]


def test_an_empty_prompt_is_refused(asked: list[PromptRequest], tmp_path: Path) -> None:
    result = tried(tmp_path, "acme.plain", "--prompt", " ")
    assert isinstance(result.exception, UserError)
    assert result.exception.field == "--prompt"


def test_a_wrong_answer_is_not_shown_as_if_it_were_right(asked: list[PromptRequest], tmp_path: Path) -> None:
    """Each answer to a prompt whose answer is known has its mark, on the screen and in JSON."""
    file = tmp_path / "prompts.yaml"
    file.write_text(
        "acme.chat: [{prompt: one, expected: tuned}, {prompt: two, expected: [tuned, more]}, three]"
    )
    said = tried(tmp_path, "--prompts", str(file)).stdout
    assert (said.count("✓ tuned"), said.count("✗ tuned"), said.count("✗ plain")) == (1, 1, 2)
    assert "expected: tuned; more" in said
    assert "acme.chat: answered as expected: base 0 of 2, tuned 1 of 2" in said
    ((rows,),) = (
        [each["answers"]] for each in json.loads(tried(tmp_path, "--prompts", str(file), "--json").stdout)
    )
    assert [(row.get("base_right"), row.get("tuned_right")) for row in rows] == [
        (False, True),
        (False, False),
        (None, None),
    ]


def test_how_many_answers_are_right_is_said_last_of_all_variants(
    asked: list[PromptRequest], tmp_path: Path
) -> None:
    file = tmp_path / "prompts.yaml"
    file.write_text(
        "acme.chat: [{prompt: one, expected: tuned}]\nacme.plain: [{prompt: two, expected: more}]"
    )
    assert tried(tmp_path, "--prompts", str(file)).stdout.splitlines()[-2:] == [
        "acme.chat: answered as expected: base 0 of 1, tuned 1 of 1",
        "acme.plain: answered as expected: base 0 of 1, tuned 0 of 1",
    ]


def test_a_label_is_right_only_where_the_evaluation_says_so(
    asked: list[PromptRequest], tmp_path: Path
) -> None:
    declare(tmp_path, "acme.plain", evaluation={"kind": "label"})
    file = tmp_path / "prompts.yaml"
    for expected, right in (("TUNED.", True), ("tune", False), ("tuned plain", False)):
        file.write_text(f"acme.plain: [{{prompt: one, expected: {expected}}}]")
        (said,) = json.loads(tried(tmp_path, "--prompts", str(file), "--json").stdout)
        assert said["answers"][0]["tuned_right"] is right


def test_two_labels_for_one_answer_are_refused_before_any_is_asked(
    asked: list[PromptRequest], tmp_path: Path
) -> None:
    declare(tmp_path, "acme.plain", evaluation={"kind": "label"})
    file = tmp_path / "prompts.yaml"
    file.write_text("acme.plain: [{prompt: one, expected: [S50, S51]}]")
    result = tried(tmp_path, "--prompts", str(file))
    assert isinstance(result.exception, UserError)
    assert "2 texts, and the answer is one" in str(result.exception)
    assert not asked
