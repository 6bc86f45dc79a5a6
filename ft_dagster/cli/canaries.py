"""Defines the command that plants the platform's canaries in a general corpus."""

from __future__ import annotations

from typing import Annotated

import typer

from ft_dagster.cli.commands import app
from ft_dagster.cli.common import KEEPING, Json, load_settings, print_json, tell
from ft_dagster.report.figures import counted

canaries = typer.Typer(
    help="The platform's canaries: secrets in a general corpus that no model should learn.",
    no_args_is_help=True,
)
app.add_typer(canaries, name="canaries", rich_help_panel=KEEPING)


@canaries.command()
def plant(
    context: typer.Context,
    corpus: Annotated[str, typer.Argument(help="Name of corpora/<name>.yaml", metavar="CORPUS")],
    count: Annotated[
        int | None, typer.Option(help="Canaries for each number of repeats; 20 unless given", metavar="N")
    ] = None,
    repeats: Annotated[
        list[int] | None,
        typer.Option(
            help="How often each of them stands in the corpus; may be given several times; 1, 4 and 16 "
            "unless given",
            metavar="N",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Declare the platform's canaries in a general corpus, unless it has some.

    The next run, or materializing general_corpus, makes the corpus with them: secrets that follow from the
    platform's key, which nobody is shown. Models that train on the corpus are then asked for them. A second
    call changes nothing.
    """
    from ft_dagster.versions.planting import plant

    found = plant(load_settings(context.obj), corpus, count, tuple(repeats) if repeats else None)
    if as_json:
        print_json(found.to_json())
        return
    times = ", ".join(f"{found.count} that stand there {counted(each, 'time')}" for each in found.repeats)
    declared = "are declared now" if found.written else "were declared before"
    tell(f"{found.file}: canaries {declared}: {times}; {found.documents:,} documents, by the key {found.key}")
    on = counted(len(found.variants), "variant")
    tell(f"{on} on this corpus: each evaluation asks {found.asked:,} questions more, base and tuned model")
    if found.made:
        tell("The newest corpus has them")
        return
    tell("Back up the key first (`ft-dagster audit key backup FILE`): without it no corpus is made again")
    tell("Next: materialize general_corpus, or run a variant; those that are on the corpus train again by it")
