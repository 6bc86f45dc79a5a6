"""Answers of base and tuned model side by side: what a model wrote is shown, never interpreted."""

from __future__ import annotations

from rich.console import Console

from ft_dagster.report.answers import answers_table, right_answers

ANSWERS = [{"prompt": "Code for cholera?", "base": "I am [bold]sorry[/bold].", "tuned": "A00.1"}]


def test_the_terminal_shows_both_answers_beside_the_prompt() -> None:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(answers_table("hospital.coder", ANSWERS))
    line = next(line for line in capture.get().splitlines() if "cholera" in line)
    assert line.index("cholera") < line.index("[bold]sorry[/bold]") < line.index("A00.1")


def test_without_an_expected_answer_nothing_is_marked_or_counted() -> None:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(answers_table("hospital.coder", ANSWERS))
    assert not {"✓", "✗"} & set(capture.get())
    assert right_answers(ANSWERS) is None
