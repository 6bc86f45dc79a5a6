"""Shows what base and tuned model answered to the same prompts, in pairs, for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

EMPTY = "(nothing)"
MODELS = ("base", "tuned")
MARKS = {
    True: ("\u2713 ", "green"),
    False: ("\u2717 ", "red"),
}  # an answer says what is expected, or does not


def answers_table(title: str, answers: Iterable[Mapping[str, Any]]) -> Table:
    """Make a rich table of {prompt, base, tuned}. What a model wrote is shown as it is, never read as markup.

    Where an answer is expected (`expected`, a list of texts) it stands below the prompt, and a mark before
    each answer says whether it is that one (`base_right`, `tuned_right`).
    """
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.ROUNDED, show_lines=True, expand=True)
    table.add_column("prompt", ratio=2, overflow="fold")
    table.add_column("base", ratio=3, overflow="fold", style="dim")
    table.add_column("tuned", ratio=3, overflow="fold")
    for answer in answers:
        table.add_row(_prompt(answer), *(_answer(answer, model) for model in MODELS))
    return table


def right_answers(answers: Sequence[Mapping[str, Any]]) -> str | None:
    """Say how many of the answers say what is expected; None where nothing is."""
    marked = [answer for answer in answers if answer.get("expected")]
    if not marked:
        return None
    right = (sum(answer[f"{model}_right"] for answer in marked) for model in MODELS)
    said = ", ".join(f"{model} {count} of {len(marked)}" for model, count in zip(MODELS, right, strict=True))
    return f"answered as expected: {said}"


def _prompt(answer: Mapping[str, Any]) -> Text:
    from rich.text import Text

    expected = ("\nexpected: " + "; ".join(answer["expected"]), "dim") if answer.get("expected") else ""
    return Text.assemble(answer["prompt"].strip(), expected)


def _answer(answer: Mapping[str, Any], model: str) -> Text:
    from rich.text import Text

    mark = MARKS[answer[f"{model}_right"]] if answer.get("expected") else ""
    return Text.assemble(mark, answer[model].strip() or EMPTY)
