"""Defines commands that compare trainings of one variant: bakeoff and sweep."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ft_dagster.cli.commands import app
from ft_dagster.cli.common import (
    JUDGING,
    Json,
    Key,
    escape,
    load_settings,
    load_variant,
    one_of,
    out,
    print_json,
    print_whole,
    show,
    tell,
)
from ft_dagster.spec import VariantKey

if TYPE_CHECKING:
    from ft_dagster.automation.experiments.experiments import ExperimentRun
    from ft_dagster.settings import Settings

AtOnce = Annotated[
    int,
    typer.Option(
        "--at-once",
        min=1,
        max=1000,
        help="Runs at once. They train side by side while this host has devices; the others wait for them",
    ),
]
Budgeted = typer.Option("--budget", help="flops=2e14 or minutes=3", metavar=one_of(("flops=N", "minutes=N")))


@app.command(rich_help_panel=JUDGING)
def bakeoff(
    context: typer.Context,
    variant: Key,
    methods: Annotated[str, typer.Option(help="Two or more, for example full,lora,qlora")],
    budget: Annotated[str, Budgeted],
    at_once: AtOnce = 1,
    as_json: Json = False,
) -> None:
    """Train one variant by several methods at equal FLOPs or equal time, and judge them side by side.

    FLOPs are counted by torch over the batches that will be trained on; minutes count the optimizer steps
    alone, at the speed of a short training. The variant's own models and releases are left alone. If the
    command was ended, the same command goes on from there. Exits with 1 if a method failed.
    """
    from ft_dagster.automation.experiments import bakeoff as bakeoffs
    from ft_dagster.automation.experiments.budget import Budget
    from ft_dagster.report.tables.experiments import bakeoff_table

    settings = load_settings(context.obj)
    declared = load_variant(settings, VariantKey.parse(variant))
    given = Budget.parse(budget)
    names = [name.strip() for name in methods.split(",") if name.strip()]
    with _experimenting(settings, declared.key, as_json) as say:
        tried = bakeoffs.bakeoff(settings, declared, names, given, say, at_once=at_once)
    document = tried.as_dict()
    if as_json:
        print_json(document)
    else:
        show(bakeoff_table(tried.runs_json, str(given)))
        for run in tried.runs:
            if run.dropped:
                out.print(
                    f"{run.name}: left out of the declaration: {', '.join(run.dropped)}",
                    markup=False,
                    highlight=False,
                )
        _say_failures(tried.runs, tried.log)
    if any(run.status != "done" for run in tried.runs):
        raise typer.Exit(1)


@app.command(rich_help_panel=JUDGING)
def sweep(
    context: typer.Context,
    variant: Key,
    sets: Annotated[list[str], typer.Option("--set", help="field=value,value; may be repeated")],
    runs: Annotated[
        int, typer.Option(min=1, max=1000, help="Most runs; of a larger grid this many are drawn")
    ] = 15,
    budget: Annotated[str | None, Budgeted] = None,
    at_once: AtOnce = 1,
    seed: Annotated[int, typer.Option(min=0, help="Draws the runs of a grid larger than --runs")] = 0,
    write: Annotated[bool, typer.Option("--write", help="Write the winner into the declaration")] = False,
    write_to: Annotated[
        Path | None, typer.Option(help="Write the declaration with the winner's values here")
    ] = None,
    as_json: Json = False,
) -> None:
    """Try several values of a variant's settings, and rank the runs; --write writes the winner back.

    Runs that pass the general rules of the gate are ranked by the task's metric; if none does, all are ranked
    by validation loss. After three finished runs, a training gives up if its validation loss is above their
    median. --budget is for all runs together. If the command was ended, the same command goes on from there.
    The questions that rank the runs judge no release: `run` then reuses the winner's model, and judges it.
    Exits with 1 if no run finished.
    """
    from ft_dagster.automation.experiments import sweep as sweeps
    from ft_dagster.automation.experiments.budget import Budget
    from ft_dagster.report.tables.experiments import sweep_table

    settings = load_settings(context.obj)
    declared = load_variant(settings, VariantKey.parse(variant))
    given = Budget.parse(budget) if budget is not None else None
    with _experimenting(settings, declared.key, as_json) as say:
        tried = sweeps.sweep(
            settings, declared, sets, say, runs=runs, seed=seed, budget=given, at_once=at_once
        )
    ranking = sweeps.rank(tried.runs)
    winner = ranking.winner
    document = tried.as_dict() | {
        "ranking": [run.number for run in ranking.runs],
        "ranked_by": ranking.by,
        "reason": ranking.reason,
        "winner": None if winner is None else winner.overrides,
    }
    written = None
    if winner is not None and (write or write_to is not None):
        written = sweeps.write_winner(settings, declared, winner, None if write else write_to)
    if as_json:
        print_json(document | {"written": None if written is None else str(written)})
    else:
        others = [run for run in tried.runs if run not in ranking.runs]
        by_number = {run["number"]: run for run in tried.runs_json}
        show(sweep_table([by_number[r.number] for r in [*ranking.runs, *others]], ranking.by))
        out.print(ranking.reason, highlight=False)
        _say_failures(tried.runs, tried.log)
        if written is not None:
            out.print(f"written: {written}", highlight=False, soft_wrap=True)
        elif winner is not None:
            out.print(f"The winner, for {declared.file} (or give --write):", soft_wrap=True, highlight=False)
            for field, value in winner.overrides.items():
                print_whole(f"  {field}: {json.dumps(value)}")
    if winner is None:
        raise typer.Exit(1)


@contextmanager
def _experimenting(settings: Settings, key: VariantKey, as_json: bool) -> Iterator[Callable[[str], None]]:
    """Show lines and progress in the terminal; what Dagster and the programs print goes to a file."""
    from ft_dagster.automation.experiments.experiment_log import output_to_log, progress_shown

    log = settings.work_folder / "experiments" / f"{key}.log"
    with output_to_log(log, on_stderr=as_json) as screen, progress_shown(screen, settings, key) as say:
        yield say


def _say_failures(runs: Sequence[ExperimentRun], log: Path) -> None:
    for run in runs:
        if run.error:
            out.print(f"[red]{escape(run.name)} {run.status}[/]", end=": ")
            tell(run.error)
    if any(run.status == "failed" for run in runs):
        out.print(f"What the programs printed: {log}", highlight=False, soft_wrap=True)
