"""Defines the command that takes unsalted identities out of old record evidence."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ft_dagster.cli.audit.questions import NOT_WHOLE, ask, audit, progress
from ft_dagster.cli.common import Json, escape, out, print_json, tell
from ft_dagster.report.figures import counted

if TYPE_CHECKING:
    from ft_dagster.audit.audit import Audit


@audit.command("forget-identities")
def forget_identities(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only name the files")] = False,
    as_json: Json = False,
) -> None:
    """Take unsalted identities out of the record evidence of older versions.

    Each file is written anew with keyed lookups in their place, under an amendment that names the bytes
    before and after. No manifest, digest or record tree changes, and nothing is made again. What was ended
    in the middle is finished by the next call. Back up the keys first: files are then known by these alone.
    Exits with 1 if a file had to be left as it is.
    """
    from ft_dagster.audit import forget

    def answer(opened: Audit) -> forget.Forgotten:
        return forget.forget_identities(opened, dry_run=dry_run, say=progress(as_json))

    found = ask(context, None, answer)
    if as_json:
        print_json({"dry_run": dry_run, **asdict(found)})
    else:
        for file in found.files:
            tell(file)
        for line in found.left:
            out.print(f"[red]left[/] {escape(line)}", highlight=False, soft_wrap=True)
        done = "would be taken out" if dry_run else "taken out"
        tell(f"identities {done} of {counted(len(found.files), 'file')}")
        if found.files and not found.signed:
            tell("The amendments bear no signature: no `signing_key` signs here")
    if found.left:
        raise typer.Exit(NOT_WHOLE)
