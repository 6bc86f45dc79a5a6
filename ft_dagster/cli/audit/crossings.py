"""Defines the command that says whether a tenant's record is in another tenant's mixture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from ft_dagster.cli.audit.questions import NOT_WHOLE, Answered, Save, ask, audit, conclude, progress
from ft_dagster.cli.audit.shown import Part, ShownRows, WrongLine
from ft_dagster.cli.common import Json, declaring_tenants
from ft_dagster.report.figures import counted

if TYPE_CHECKING:
    from ft_dagster.audit.crossings import CrossingsAnswer


@audit.command()
def crossings(
    context: typer.Context,
    tenant: Annotated[
        str | None,
        typer.Option(help="Only pairs with this tenant", autocompletion=declaring_tenants),
    ] = None,
    save: Save = False,
    as_json: Json = False,
) -> None:
    """Show whether a record of one tenant is in a mixture of another.

    Record trees alone are compared, which takes the keys of all tenants. Exits with 1 if there is one, or if
    something could not be compared.
    """
    from ft_dagster.audit import crossings as answers

    found = ask(context, None, lambda audit: answers.crossings(audit, tenant, progress(as_json)))
    answered = Answered("crossings", tenant or "all tenants", crossings_parts(found))
    conclude(context, answered, answers.as_json(found) if as_json else None, save=save)
    if not found.holds:
        raise typer.Exit(NOT_WHOLE)


def crossings_parts(found: CrossingsAnswer) -> Iterator[Part]:
    from ft_dagster.audit.crossings import NEAR, NO_PARENT

    for one in found.crossings:
        released = ", ".join(f"v{each.version}" for each in one.releases) or "no release"
        models = ", ".join(digest[:12] for digest in one.models) or "no model"
        where = f"read from {', '.join(one.places)}"
        if one.by_declaration:
            where += f"; {one.by_declaration:,} by declaration: {one.owner} declares the same file"
        said = (
            f"{counted(one.records, 'record')} of {one.owner} in mixture {one.mixture[:12]} of {one.variant}"
        )
        yield WrongLine("crosses", f"{said}, {where}; trained on it: {models} ({released})")
    if found.given:
        rows = [(each.owner, each.tenant, f"{each.rows:,}", f"{each.texts:,}") for each in found.given]
        yield "no crossing: what the platform gives to both, a file that is neither's own, or a corpus"
        yield ShownRows(("records of", "in mixtures of", "rows of such files", "texts of corpora"), rows)
    for line in found.unshown:
        yield f"not shown: {line}"
    looked = f"{counted(found.pairs, 'pair')} of tenants, {counted(found.mixtures, 'mixture')}"
    if found.crossings:
        outcome = f"{counted(len(found.crossings), 'mixture')} with records of another tenant"
    else:
        outcome = (
            "none found, and not all is shown"
            if found.unshown
            else "no record of one is in a mixture of another"
        )
    yield f"{looked}: {outcome}"
    yield NEAR
    yield NO_PARENT
