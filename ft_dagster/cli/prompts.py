"""Reads the prompts of the command `try`: what is asked, what an answer must say, and whether it does."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import typer

from ft_dagster.cli.common import declarations_in, keys_of
from ft_dagster.errors import UserError
from ft_dagster.spec import VariantKey

if TYPE_CHECKING:
    from ft_dagster.evaluation.answers import AnswerPair
    from ft_dagster.settings import Settings
    from ft_dagster.spec import Declared

PROMPTS = "`variant: [a prompt, ...]`, each a text, or `{prompt: a text, expected: a text or several}`"


class Prompt(NamedTuple):
    """Is one prompt. `expected`: what its answer must say; nothing where that is not known."""

    text: str
    expected: tuple[str, ...] = ()


class Judge:
    """Says of a variant's answers whether they are what was expected."""

    def __init__(
        self, settings: Settings, declared: Declared, prompts: list[Prompt], file: Path | None
    ) -> None:
        """Raises UserError for what no answer of the variant's kind can be."""
        from ft_dagster.gate.answer_scores import find_database

        evaluation, expected = declared.spec.evaluation, [each for each in prompts if each.expected]
        self._kind, self._database = evaluation.kind, None
        if expected and evaluation.database is not None:
            roots = settings.roots(declared.key.tenant)
            self._database = find_database(evaluation.database, settings.project, declared.file, roots)
        for each in expected:
            try:
                self._is_right("", each)
            except ValueError as error:
                raise UserError(
                    f"no answer of evaluation.kind {self._kind} can be what is expected: {error}",
                    file=file,
                    field=str(declared.key),
                    value=list(each.expected),
                    fix="Write what the answer must say",
                ) from None

    def row(self, asked: Prompt, answers: AnswerPair) -> dict[str, object]:
        row: dict[str, object] = {"prompt": answers.prompt, "base": answers.base, "tuned": answers.tuned}
        if asked.expected:
            row["expected"] = list(asked.expected)
            row["base_right"] = self._is_right(answers.base, asked)
            row["tuned_right"] = self._is_right(answers.tuned, asked)
        return row

    def _is_right(self, answer: str, asked: Prompt) -> bool:
        from ft_dagster.gate.answer_scores import is_right

        return is_right(answer, asked.expected, self._kind, self._database)


def asked_prompts(
    settings: Settings,
    variants: list[str] | None,
    prompt: list[str] | None,
    filed: dict[str, object],
    file: Path | None,
) -> dict[VariantKey, list[Prompt]]:
    """Return the prompts by variant: of the file (`filed`: its content), those given in the call, or one that
    is asked for now.

    Raises UserError.
    """
    declarations = declarations_in(settings)
    if prompt and not all(text.strip() for text in prompt):
        raise UserError("an empty prompt", field="--prompt", value=prompt, fix="Give a text")
    if not filed:
        keys = keys_of(declarations, variants, every=False)
        texts = prompt or [_asked_for()]
        return {key: [Prompt(text) for text in texts] for key in keys}
    asked = {
        VariantKey.parse(str(name), file=file): _prompts(name, given, file) for name, given in filed.items()
    }
    if not variants:
        return asked
    keys = keys_of(declarations, variants, every=False)
    for key in keys:
        if key not in asked and not prompt:
            raise UserError(
                "has no prompts for this variant", file=file, value=str(key), fix=f"Add {PROMPTS}"
            )
    return {key: asked.get(key, [Prompt(text) for text in prompt or ()]) for key in keys}


def _asked_for() -> str:
    """Ask for a prompt. Raises UserError where nobody answers, and no terminal was there to ask at."""
    try:
        return str(typer.prompt("prompt"))
    except typer.Abort:
        if sys.stdin.isatty():
            raise
        raise UserError(
            "no prompt is given, and there is no terminal to ask for one",
            field="--prompt",
            fix="Add --prompt TEXT, or --prompts FILE",
        ) from None


def _prompts(name: object, given: object, file: Path | None) -> list[Prompt]:
    """Raises UserError."""
    if isinstance(given, list) and given and None not in (found := [_prompt(each) for each in given]):
        return [each for each in found if each is not None]
    raise UserError("not a list of prompts", file=file, field=str(name), value=given, fix=f"Write {PROMPTS}")


def _prompt(given: object) -> Prompt | None:
    """Read a prompt; None for what is none."""
    if isinstance(given, str):
        given = {"prompt": given}
    if not isinstance(given, dict) or not {"prompt"} <= given.keys() <= {"prompt", "expected"}:
        return None
    text, expected = given["prompt"], given.get("expected", [])
    expected = [expected] if isinstance(expected, str) else expected
    said = [text, *expected] if isinstance(expected, list) else [None]
    are_texts = all(isinstance(each, str) and each.strip() for each in said)
    return Prompt(text, tuple(expected)) if are_texts else None
