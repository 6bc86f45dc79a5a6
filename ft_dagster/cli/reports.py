"""Defines the command that writes reports: of a version, of two compared, of a fleet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ft_dagster.cli.commands import app
from ft_dagster.cli.common import RELEASING, Json, MaybeKey, declarations_in, load_settings, print_json, tell
from ft_dagster.errors import UserError
from ft_dagster.spec import VariantKey

if TYPE_CHECKING:
    from ft_dagster.settings import Settings


@app.command(rich_help_panel=RELEASING)
def report(
    context: typer.Context,
    variant: MaybeKey = None,
    version: Annotated[
        int | None,
        typer.Option(
            help="Which version; the newest unless given, or the newest evaluation if there is none"
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="OTHER", help="What to put beside it: 2 (a version), VARIANT or VARIANT@2"),
    ] = None,
    fleet: Annotated[bool, typer.Option("--fleet", help="All variants instead of one")] = False,
    tenant: Annotated[str | None, typer.Option(help="With --fleet: only this tenant's")] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to", help="The file to write; unless given, one here that is named after its subject"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write one HTML page on a version, for people without Dagster: its data, plan, training and evaluation.

    With --against, two versions side by side; with --fleet, every variant with its state, verdict, gain and
    cost. The page needs no network, and prints as it stands.
    """
    settings = load_settings(context.obj)
    if fleet:
        given = {"VARIANT": variant, "--version": version, "--against": against}
        _refuse(given, "--fleet is of all variants")
        name, page = _of_fleet(settings, tenant)
    elif variant is None:
        raise UserError("no variant named", fix="Name one as tenant.variant, or use --fleet")
    else:
        _refuse({"--tenant": tenant}, "it goes with --fleet")
        name, page = _of_version(settings, VariantKey.parse(variant), version, against)
    file = _write(to or Path(f"{name}.html"), page)
    if as_json:
        print_json({"variant": variant, "against": against, "file": str(file)})
    else:
        tell(f"written: {file}")


def _of_version(
    settings: Settings, key: VariantKey, version: int | None, against: str | None
) -> tuple[str, str]:
    """Return what the page is named after, and the page."""
    name = str(key) if version is None else f"{key}@{version}"
    if against is None:
        from ft_dagster.versions.version_report import version_report

        return name, version_report(settings, key, version, _following(settings, key, version))
    from ft_dagster.versions.version_comparison import version_comparison
    from ft_dagster.versions.version_files import NamedVersion

    other = NamedVersion.parse(against, key)
    return f"{name}.against.{against}", version_comparison(settings, other, NamedVersion(key, version))


def _following(settings: Settings, key: VariantKey, version: int | None) -> str:
    """Return what a person does next about the newest version, as `status` says it; empty of an older one."""
    if version is not None:
        return ""
    from ft_dagster.automation.picture import picture

    rows = picture(settings, declarations_in(settings), [key], exact=True).rows
    return next((row.next_step for row in rows if row.variant == str(key)), "")


def _of_fleet(settings: Settings, tenant: str | None) -> tuple[str, str]:
    """Return what the page is named after, and the page."""
    from ft_dagster.automation.picture import picture
    from ft_dagster.fleet.page import fleet_report

    declarations = declarations_in(settings)
    asked = [key for key in declarations if tenant in (None, key.tenant)]
    return tenant or "fleet", fleet_report(settings, picture(settings, declarations, asked), tenant)


def _refuse(given: Mapping[str, object], why: str) -> None:
    for field, value in given.items():
        if value is not None:
            raise UserError(why, field=field, value=value, fix=f"Leave out {field}")


def _write(file: Path, page: str) -> Path:
    try:
        file.write_text(page, "utf-8")
    except OSError as error:
        problem = error.strerror or "cannot be written"
        raise UserError(problem, field="--to", value=str(file), fix="Name another file") from None
    return file
