"""Defines the command that makes a model again from what was recorded of it."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ft_dagster.cli.audit.questions import NOT_WHOLE, ForTenant, Model, ask, audit, progress
from ft_dagster.cli.common import Json, print_json, show_rows, tell

if TYPE_CHECKING:
    from ft_dagster.audit.answers import ReplayAnswer
    from ft_dagster.audit.audit import Audit


@audit.command()
def replay(
    context: typer.Context,
    model: Model,
    keep: Annotated[
        Path | None,
        typer.Option(help="Train in this folder and leave it there; a temporary one unless given"),
    ] = None,
    environment: Annotated[
        Literal["here", "build"],
        typer.Option(help="build: install the recorded libraries with pip where they differ from those here"),
    ] = "here",
    tenant: ForTenant = None,
    as_json: Json = False,
) -> None:
    """Train a model again as recorded, with the code that made it, in a clean store. The answer is EXACT,
    EQUIVALENT or DIVERGED (exit 1).
    """
    from ft_dagster.audit.answers import DIVERGED
    from ft_dagster.audit.replay import replay as replays
    from ft_dagster.audit.replay.replay_folder import replay_folder

    with ExitStack() as stack:
        within = keep or stack.enter_context(replay_folder())

        def answer(audit: Audit) -> ReplayAnswer:
            say, build = progress(as_json), environment == "build"
            return replays.replay(audit, audit.model(model), within, say, build=build)

        found = ask(context, tenant, answer)
    found = found if keep else replace(found, folder=None)
    if as_json:
        print_json(asdict(found))
    else:
        _print(found, replays.sought(found))
    if found.verdict == DIVERGED:
        raise typer.Exit(NOT_WHOLE)


def _print(found: ReplayAnswer, said: str) -> None:
    tell(said)
    rows = [(one.stage, one.recorded[:12], one.rebuilt[:12], one.code[:12], one.said) for one in found.stages]
    show_rows(("stage", "recorded", "made again", "code", ""), rows)
    for what, values in (("environment", found.differs), ("figure", found.figures)):
        for name, pair in values.items():
            recorded, here = (json.dumps(value, ensure_ascii=False) for value in pair)
            line = f"{what} {name}: recorded {recorded}, here {here}"
            tell(line)
    if found.folder:
        tell(f"made in {found.folder}")
