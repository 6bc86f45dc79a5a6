"""Defines commands about the keys that order record trees."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ft_dagster.cli.audit.questions import audit
from ft_dagster.cli.common import Json, declaring_tenants, escape, load_settings, out, print_json, tell
from ft_dagster.errors import UserError
from ft_dagster.records import record_keys
from ft_dagster.report.figures import counted
from ft_dagster.spec.validation import nearest

key = typer.Typer(
    help="The keys that order record trees: list, rotate, back up, restore.", no_args_is_help=True
)
audit.add_typer(key, name="key")


@key.command("list")
def list_keys(context: typer.Context, as_json: Json = False) -> None:
    """List whose keys are here: their ids and dates, not the keys."""
    folder = load_settings(context.obj).keys_folder
    found = {owner: record_keys.keys_of(folder, owner).keys for owner in record_keys.owners(folder)}
    if as_json:
        rows = [{"owner": o, "id": one.id, "made": one.made} for o, keys in found.items() for one in keys]
        print_json({"folder": str(folder), "keys": rows})
        return
    for owner, keys in found.items():
        ids = ", ".join(f"{one.id} ({one.made})" for one in keys)
        tell(f"{owner or 'shared'}: {ids}")
    out.print(
        escape(f"in {folder}; back them up: ft-dagster audit key backup FILE"),
        highlight=False,
        soft_wrap=True,
    )


@key.command()
def rotate(
    context: typer.Context,
    tenant: Annotated[
        str | None, typer.Argument(metavar="[TENANT]", autocompletion=declaring_tenants)
    ] = None,
    shared: Annotated[bool, typer.Option("--shared", help="The key of what all tenants share")] = False,
    as_json: Json = False,
) -> None:
    """Put a new key before the old ones. The index is made again; older record trees keep theirs."""
    if shared == (tenant is not None):
        raise UserError("whose key is not clear", value=tenant, fix="Name a tenant, or give --shared")
    owner = record_keys.SHARED_OWNER if tenant is None else _tenant(tenant)
    folder = load_settings(context.obj).keys_folder
    if owner not in (known := record_keys.owners(folder)):
        tenants = [name for name in known if name]
        other = nearest(owner, tenants, f"Of tenants there are those of {', '.join(tenants) or 'none'}")
        fix = "Nothing used it yet: the first run makes it" if tenant is None else other
        raise UserError("there is no key to rotate", file=folder, value=tenant, fix=fix)
    made = record_keys.rotate(folder, owner)
    if as_json:
        print_json({"owner": made.owner, "id": made.current.id, "kept": [one.id for one in made.keys[1:]]})
        return
    said = f"{tenant or 'shared'}: {made.current.id}; {_older(len(made.keys) - 1)} kept. Back them up again"
    out.print(escape(said), highlight=False)


@key.command()
def backup(
    context: typer.Context,
    file: Path,
    tenant: Annotated[
        str | None,
        typer.Option(
            help="Only the keys of this tenant and of what all tenants share",
            autocompletion=declaring_tenants,
        ),
    ] = None,
    shared: Annotated[bool, typer.Option("--shared", help="Only the key of what all tenants share")] = False,
    as_json: Json = False,
) -> None:
    """Write all keys, also those by which erased records are refused, into one file that only this user can
    read. Keep it away from the store.
    """
    whose = None if tenant is None and not shared else [record_keys.SHARED_OWNER]
    if tenant is not None:
        whose = [record_keys.SHARED_OWNER, _tenant(tenant)]
    count = record_keys.back_up(load_settings(context.obj).keys_folder, file, whose)
    print_json({"file": str(file), "owners": count}) if as_json else out.print(
        f"keys of {counted(count, 'owner')}"
    )


def _older(number: int) -> str:
    return f"{number:,} older {'is' if number == 1 else 'are'}"


def _tenant(name: str) -> str:
    from ft_dagster.spec.keys import HALF

    if not HALF.fullmatch(name):
        raise UserError("no tenant's name", value=name, fix="Name a folder of tenants/, or give --shared")
    return name


@key.command()
def restore(context: typer.Context, file: Path, as_json: Json = False) -> None:
    """Add the keys of a backup to those that are here; the newest of all is used from now on."""
    count = record_keys.restore(load_settings(context.obj).keys_folder, file)
    print_json({"file": str(file), "added": count}) if as_json else out.print(
        f"added: {counted(count, 'key')}"
    )
