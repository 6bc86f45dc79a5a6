"""Defines the command `init`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ft_dagster.cli.commands import app
from ft_dagster.cli.common import DECLARING, Json, out, print_json, tell


@app.command(rich_help_panel=DECLARING)
def init(
    folder: Annotated[
        Path | None, typer.Argument(help="The project's folder; `project` unless given")
    ] = None,
    base_model: Annotated[str | None, typer.Option(help="Local folder, hub id or s3:// prefix")] = None,
    data: Annotated[
        str | None, typer.Option(help="The tenant's rows: file, folder, glob, s3:// or hub id")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="tenant.variant; acme.support unless given")] = None,
    question: Annotated[
        str | None, typer.Option(help="Column of the question; found by its name unless given")
    ] = None,
    answer: Annotated[
        str | None, typer.Option(help="Column of the answer; found by its name unless given")
    ] = None,
    text: Annotated[str | None, typer.Option(help="Column of raw text, instead of both")] = None,
    as_json: Json = False,
) -> None:
    """Start a project: settings, policy, defaults for all tenants and a first declaration. Never overwrites.

    The declaration is inferred from the first 20,000 rows: columns, objective, how answers are scored, and
    how many rows judge the model. In a terminal `init` asks for what is not given, and offers what it
    inferred as the answer. A base in a folder is measured; one on the hub is not read.

    The paths of base and rows count from the current folder, and must exist; in the declaration they count
    from the project. Paths outside the project are added to what its tenants may read.
    """
    from ft_dagster.cli.first_questions import FirstAnswers
    from ft_dagster.report.sentences.next_step import next_of_project

    given = FirstAnswers(
        folder, base_model, data, variant, question, answer, text, asks=not as_json and _is_a_terminal()
    )
    started, folder, variant = given.start()
    following = next_of_project(str(folder), variant)
    if as_json:
        made = [str(path) for path in started.made]
        print_json({"project": str(folder), "made": made, "said": list(started.said), "next_step": following})
        return
    for path in started.made:
        out.print(f"made {path}")
    for line in started.said:
        tell(line)
    tell(f"Next: {following}")


def _is_a_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()
