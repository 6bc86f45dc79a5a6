"""Defines the command `cancel`: ends runs, and says what is kept of them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from ft_dagster.cli.commands import app
from ft_dagster.cli.common import (
    RUNNING,
    Json,
    declarations_in,
    declared_keys,
    load_settings,
    print_json,
    tell,
)
from ft_dagster.errors import UserError
from ft_dagster.exit_codes import FAILED
from ft_dagster.spec import VariantKey
from ft_dagster.stage_entries import FINE_TUNED_MODEL

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from ft_dagster.automation.processes.instance import Launched
    from ft_dagster.settings import Settings

LEAST = 4  # characters of a run's id
Names = Annotated[
    list[str],
    typer.Argument(
        help="Variants, as tenant.variant, or runs, by the beginning of their id",
        metavar="VARIANT|RUN",
        autocompletion=declared_keys,
    ),
]


@app.command(rich_help_panel=RUNNING)
def cancel(context: typer.Context, names: Names, as_json: Json = False) -> None:
    """Cancel the runs of variants, queued or in progress, and wait until none of their processes is left.

    What finished stages made is kept, and so is a training's newest checkpoint: the next `ft-dagster run`
    goes on from it. Where nothing runs, nothing is done. Exits with 1 if a run has not ended in 2 minutes.
    """
    from ft_dagster.automation.processes import instance as dagster_instance

    settings = load_settings(context.obj)
    with dagster_instance.open_instance(settings) as instance:
        found = {name: _named(instance, settings, name) for name in names}
        runs = {run.run_id: run for some in found.values() for run in some}.values()
        going = dagster_instance.unfinished(instance, list(runs))
        killed = [run for run in going if dagster_instance.is_retried(instance, run)]
        if going:
            print("cancelling; waiting until no process of the runs is left", file=sys.stderr, flush=True)
        dagster_instance.cancel(instance, going)
        ended = [_came_of(instance, settings, run, run in going, run in killed) for run in runs]
    if as_json:
        print_json({"runs": [each._asdict() for each in ended]})
    else:
        for name, some in found.items():
            if not some:
                tell(f"{name}: no run of it waits or is in progress")
        for each in ended:
            tell(each.message)
    if any(each.unfinished for each in ended):
        raise typer.Exit(FAILED)


class _CameOf(NamedTuple):
    """Says what came of a run that was to be cancelled. `checkpoint`: the step whose checkpoint is kept."""

    variant: str
    run_id: str
    run_status: str
    checkpoint: int | None
    unfinished: bool
    message: str


def _named(instance: DagsterInstance, settings: Settings, name: str) -> list[Launched]:
    """Return the unfinished runs of a variant, or the run of an id. Raises UserError for neither."""
    from ft_dagster.automation.processes.instance import Launched, newest_try, unfinished_of
    from ft_dagster.automation.processes.unfinished import run_named
    from ft_dagster.automation.tags import variant_in

    if "." in name:
        key = VariantKey.parse(name)
        if not (runs := unfinished_of(instance, settings, key)):
            declarations_in(settings).file(key)
        return runs
    run = run_named(instance, name) if len(name) >= LEAST else None
    of = None if run is None else variant_in(run.tags)
    if run is None or of is None:
        problem = "no variant's run has this id" if len(name) >= LEAST else "too short for a run's id"
        fix = "Name a variant as tenant.variant, or a run by the id that `ft-dagster run` and the UI show"
        raise UserError(problem, field="RUN", value=name, fix=fix)
    newest = newest_try(instance, Launched(of, run.run_id))
    if newest.run_id != run.run_id:
        print(f"run {run.run_id[:8]} was tried again as run {newest.run_id[:8]}", file=sys.stderr)
    return [newest]


def _came_of(
    instance: DagsterInstance, settings: Settings, run: Launched, asked: bool, killed: bool
) -> _CameOf:
    """Say what came of a run. `asked`: to be cancelled, since it had not ended before; `killed`: it was to be
    tried again.
    """
    from ft_dagster.automation.processes.instance import (
        current_step,
        newest_try,
        status_of,
        unfinished,
    )
    from ft_dagster.automation.run_launcher import process_of
    from ft_dagster.automation.running import newest_checkpoint

    run = newest_try(instance, run)
    status, (step, since) = status_of(instance, run).value, current_step(instance, run.run_id)
    kept = newest_checkpoint(settings, run.key, since) if step == FINE_TUNED_MODEL.name else None
    ended, said = not unfinished(instance, [run]), f"{run.key}: run {run.run_id[:8]}"
    if not ended:
        why = process_of(instance, run.run_id)
        said += f" was asked to end and has not yet: {why.said}. Call this again"
        said += "; if that machine is gone for good, end it on its page in the UI" * (
            why.state == "elsewhere"
        )
    elif not asked:
        said += f" had ended before ({status.lower()}): nothing to cancel"
    elif status == "FAILURE" and killed:
        said += f" had been killed, and is not tried again: `ft-dagster run {run.key}` goes on from there"
    elif status != "CANCELED":
        said += f" ended by itself meanwhile ({status.lower()})"
    else:
        training = "" if kept is None else f" and the checkpoint of step {kept:,}"
        again = f"`ft-dagster run {run.key}` goes on from there"
        said += f" is cancelled. What its finished stages made{training} is kept: {again}"
    return _CameOf(str(run.key), run.run_id, status, kept, not ended, said)
