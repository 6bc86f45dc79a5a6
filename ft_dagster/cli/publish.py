"""Defines commands that bring releases elsewhere: a model hub, a folder, MLflow's model registry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ft_dagster.cli.commands import app
from ft_dagster.cli.common import (
    RELEASING,
    Json,
    Key,
    Keys,
    declarations_in,
    keys_of,
    load_settings,
    print_json,
    refuse_both,
    tell,
)
from ft_dagster.errors import UserError
from ft_dagster.exit_codes import FAILED
from ft_dagster.spec import VariantKey


@app.command(rich_help_panel=RELEASING)
def publish(
    context: typer.Context,
    variant: Key,
    folder: Annotated[Path | None, typer.Option(help="An empty folder, or one to be made")] = None,
    hub: Annotated[str | None, typer.Option(help="A repository of the model hub, org/name")] = None,
    version: Annotated[
        int | None, typer.Option(help="Which version; the one in production unless given")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="To a repository that everybody reads")] = False,
    as_json: Json = False,
) -> None:
    """Write a released version, with its card and certificate, to a folder or to a repository on a model hub.

    Its bytes are hashed again first, and a version that may not be served today is refused. A repository is
    private, or made so, unless --public is given, and then holds that version alone. HF_TOKEN is the token of
    its account.
    """
    from ft_dagster.export.publish import publish_to_folder, publish_to_hub
    from ft_dagster.stages.judging.may_serve import refuse_unserved

    settings, key = load_settings(context.obj), VariantKey.parse(variant)
    if (folder is None) == (hub is None):
        raise UserError("names no place, or two", fix="Give --folder or --hub")
    version = refuse_unserved(settings, key, version)
    if folder is not None:
        done = publish_to_folder(settings, key, version, folder)
    else:
        done = publish_to_hub(settings, key, version, str(hub), private=not public)
    if as_json:
        print_json({"variant": str(key), **done._asdict()})
        return
    said = f"{key}: version {done.version} ({done.digest[:12]}) is at {done.where}"
    tell(said)


@app.command(rich_help_panel=RELEASING)
def register(
    context: typer.Context,
    variants: Keys = None,
    every: Annotated[bool, typer.Option("--all", help="All declared variants")] = False,
    as_json: Json = False,
) -> None:
    """Update MLflow's model registry (registry.mlflow in the settings) from the release logs.

    The sensor `registered_releases` does the same after each release, promotion and rollback. It adds what is
    missing, and moves the aliases `production` and `candidate`.
    """
    from ft_dagster.export.registry import push_releases
    from ft_dagster.stages.judging.may_serve import unserved_of

    refuse_both(variants, every=every)
    settings, failed = load_settings(context.obj), False
    asks = unserved_of(settings)
    answers = list[dict[str, object]]()
    for key in keys_of(declarations_in(settings), variants, every=every):
        try:
            done = push_releases(settings, key, asks)
        except UserError as error:
            if not every:
                raise
            failed, said = True, str(error)
            answers.append({"variant": str(key), "error": error.as_dict()})
        else:
            said = done.said
            answers.append({"variant": str(key), **done.to_json()})
        if not as_json:
            tell(f"{key}: {said}")
    if as_json:
        print_json({"variants": answers})
    if failed:
        raise typer.Exit(FAILED)
