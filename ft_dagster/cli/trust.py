"""Defines commands about signatures: those of `ft-dagster trust`."""

from __future__ import annotations

import os
import textwrap
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ft_dagster.cli.commands import app
from ft_dagster.cli.common import KEEPING, Json, Key, declaring_tenants, load_settings, print_json, show, tell
from ft_dagster.errors import UserError
from ft_dagster.report.figures import counted
from ft_dagster.spec import VariantKey

if TYPE_CHECKING:
    from ft_dagster.lineage.statements import Statement
    from ft_dagster.provenance.witnessed import Listed
    from ft_dagster.store.blobs import Store

trust = typer.Typer(
    help="Signatures: whose count, what bears none, and keys to sign by.", no_args_is_help=True
)
app.add_typer(trust, name="trust", rich_help_panel=KEEPING)
RENAME = "Give another name"
Tenant = Annotated[str | None, typer.Option(help="Of this tenant alone", autocompletion=declaring_tenants)]


@trust.command("new-key")
def new_key(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What messages call it, such as builder-2027")],
    role: Annotated[
        Literal["builder", "approver", "auditor"],
        typer.Option(
            help="What its signature stands for: what runs make, an approval, what was there before"
        ),
    ] = "builder",
    person: Annotated[
        str | None, typer.Option(help="Of an approver: the name that release.approvers lists")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where the private key is written; default: signing/ in `keys`")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a key (P-256): the private part in a file of this user alone, the public part for trust.yaml.

    trust.yaml is written where there is none. Where there is one, its entry is printed: whoever may write
    that file decides whose signatures count.
    """
    from ft_dagster.provenance.signing import TRUST_FILE
    from ft_dagster.provenance.signing import new_key as make_key
    from ft_dagster.spec.trust import TrustKeySpec, find_trust
    from ft_dagster.spec.validation import validate

    settings = load_settings(context.obj)
    if (role == "approver") != (person is not None):
        problem, fix = "an approver's key names its person", "Give --role approver and --person together"
        raise UserError(problem, field="--person", value=person, fix=fix)
    private, public = make_key()
    entry = {"name": name, "role": role, "public": public, "begins": datetime.now(UTC).date()}
    entry |= {} if person is None else {"person": person}
    validate(TrustKeySpec, entry, lambda field: None, "See `ft-dagster trust new-key --help`")
    root, stands = settings.project / TRUST_FILE, find_trust(settings.project) is not None
    if stands:
        _refuse_listed(name, settings.project)
    file = (folder or settings.keys_folder / "signing") / f"{name}.pem"
    _write_private(file, private)
    said = _as_yaml(entry)
    if not stands:
        root.write_text(
            f"schema_version: 1\nversion: 1\nunsigned: accepted  # or: refused\nkeys:\n{said}", "utf-8"
        )
    if as_json:
        shown = {**entry, "begins": str(entry["begins"])}
        print_json({"private": str(file), "entry": shown, "trust": str(root), "written": not stands})
        return
    if stands:
        tell(f"Add this to the keys of {root}, and raise its version:\n{said}")
    else:
        tell(f"Wrote {root}")
    tell(f"The private key is {file}. To sign by it, name it as signing_key in ft_dagster.yaml")


@trust.command("list")
def list_keys(context: typer.Context, as_json: Json = False) -> None:
    """Show whose signatures count, and by which key this process signs."""
    from ft_dagster.provenance.signing import RELEASE

    store = load_settings(context.obj).open_store()
    root = store.trust
    if root is None:
        if as_json:
            print_json({"version": None, "unsigned": "accepted", "keys": []})
        else:
            tell("There is no trust.yaml: nothing is signed, and nobody's signature is asked for")
        return
    here = None if root.signer is None else root.signer.key.id
    keys: list[dict[str, Any]] = [
        {
            "name": key.name,
            "role": key.role,
            "person": key.person,
            "id": key.id,
            "begins": key.begins.date().isoformat(),
            "ends": None if key.ends is None else key.ends.date().isoformat(),
            "revoked": key.revoked,
            "kept": None if key.kept is None else key.kept._asdict(),
            "signs_here": key.id == here,
        }
        for key in root.keys
    ]
    if as_json:
        print_json(
            {
                "version": root.version,
                "unsigned": root.unsigned,
                "keys": keys,
                "release_threshold": root.needs(RELEASE),
            }
        )
        return
    table = Table("key", "role", "id", "from", "to", "", box=SIMPLE_HEAD)
    for key in keys:
        kept = f" but for checkpoint {key['kept']['number']}" if key["kept"] else ""
        more = f"revoked{kept}" if key["revoked"] else "signs here" if key["signs_here"] else ""
        role = key["role"] if key["person"] is None else f"{key['role']} ({key['person']})"
        table.add_row(key["name"], role, key["id"][:16], key["begins"], key["ends"] or "", more)
    show(table)
    tell(f"{root.file}, version {root.version}; what nobody signed is {root.unsigned}")


@trust.command()
def unsigned(context: typer.Context, tenant: Tenant = None, as_json: Json = False) -> None:
    """List what bears no signature that counts, a file each: what is to be signed, made again or deleted.

    Exits with 1 where there is anything.
    """
    from ft_dagster.lineage import statements

    store = load_settings(context.obj).open_store()
    _refuse_unknown(store, tenant)
    statements.without_refusal(store)
    found = [_shown(store.uri(one.path), one) for one in statements.unsigned(store, tenant)]
    if as_json:
        print_json({"unsigned": found})
    else:
        for one in found:
            tell(one["file"])
        tell(f"{len(found)} without a signature that counts" if found else "Everything is signed")
    if found:
        raise typer.Exit(1)


@trust.command()
def sign(
    context: typer.Context,
    tenant: Tenant = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask")] = False,
    as_json: Json = False,
) -> None:
    """Sign as an auditor what bears no signature that counts, as it stands: run `audit verify --all` before.

    It vouches that the files are what the project made; afterwards `unsigned: refused` may be set in
    trust.yaml. A second call signs nothing.
    """
    from ft_dagster.lineage import statements

    store = load_settings(context.obj).open_store()
    _refuse_unknown(store, tenant)
    statements.refuse_without_auditor(store)
    asks = "Did `ft-dagster audit verify --all` find that all holds?"
    if not yes and not as_json and not typer.confirm(asks):
        raise typer.Exit(1)
    found = [_shown(store.uri(one.path), one) for one in statements.sign_history(store, tenant)]
    if as_json:
        print_json({"signed": found})
    else:
        tell(f"Signed {counted(len(found), 'file')}" if found else "Everything is signed")


@trust.command()
def countersign(
    context: typer.Context,
    variant: Key,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask")] = False,
    as_json: Json = False,
) -> None:
    """Sign the entry of a variant's release log that waits for more signatures, by another key.

    Where `threshold` of trust.yaml asks for several, an entry counts once as many have signed it.
    """
    from ft_dagster.lineage.log import countersign as sign_too
    from ft_dagster.lineage.log import read_log, waiting

    store, prefix = load_settings(context.obj).open_store(), VariantKey.parse(variant).prefix
    waits = waiting(store, prefix, read_log(store, prefix))
    if waits is None:
        fix = "See `ft-dagster history` for what stands"
        raise UserError("no entry of this variant waits for a signature", value=variant, fix=fix)
    if not as_json:
        entry = waits.entry
        tell(f"{store.uri(waits.path)}: {waits.words}\n  export {entry.export}\n  reason: {entry.reason}")
    if not yes and not as_json and not typer.confirm("Sign it?"):
        raise typer.Exit(1)
    lacks = sign_too(store, prefix, waits)
    if as_json:
        print_json({"file": store.uri(waits.path), "lacks": lacks, "entry": waits.entry.to_json()})
    else:
        tell(f"Signed: it waits for {lacks} more" if lacks else "Signed: it counts")


@trust.command()
def witness(context: typer.Context, as_json: Json = False) -> None:
    """Tell the witnesses of trust.yaml how far each release log is, and begin those that are new.

    It takes the logs as they stand: run `audit verify --all` before. A log that is behind what a witness saw,
    or another than that, is refused. Exits with 1 where one of the witnesses cannot be reached.
    """
    from ft_dagster.audit.index.follow import tenant_prefixes
    from ft_dagster.lineage.log import folder_of, read_log
    from ft_dagster.provenance.witnessed import Seen

    settings = load_settings(context.obj)
    store = settings.open_store()
    if (witnesses := store.witnesses) is None:
        fix = "List folders or buckets as `witnesses` in it"
        raise UserError("no witness is named", file=settings.project / "trust.yaml", fix=fix)
    logs = {
        prefix: (read_log(store, prefix).hashes, store.uri(folder_of(prefix)))
        for prefix in tenant_prefixes(store)
    }
    witnesses.refuse_behind(logs, begins=True)
    told = {prefix: Seen(len(hashes), hashes[-1]) for prefix, (hashes, _) in logs.items() if hashes}
    reached = witnesses.tell(told)
    if as_json:
        print_json({"logs": len(told), "reached": reached})
    else:
        known = counted(len(told), "release log")
        for url, was in reached.items():
            tell(f"{url} knows {known}" if was else f"{url} cannot be reached: it is told the next time")
    if not all(reached.values()):
        raise typer.Exit(1)


@trust.command()
def checkpoints(
    context: typer.Context,
    last: Annotated[int, typer.Option(min=1, help="How many of each witness")] = 20,
    as_json: Json = False,
) -> None:
    """List the newest checkpoints of each witness: what a revoked key signed may stand up to one of them.

    The dates are what their signers wrote; their order is that of the witness.
    """
    settings = load_settings(context.obj)
    witnesses = settings.open_store().witnesses
    found = [] if witnesses is None else list(witnesses.checkpoints(last))
    if as_json:
        print_json({"checkpoints": [_listed(one) for one in found]})
        return
    if not found:
        tell("No witness was told of anything: see `ft-dagster trust witness`")
    for one in found:
        number, sha256 = one.position
        by = f"{one.at.isoformat(timespec='seconds')}, {counted(one.logs, 'log')}, signed by {one.by}"
        tell(f"{one.witness}: {by}\n  revoked: {{witnessed: {number}, sha256: {sha256}}}")


@trust.command()
def proof(context: typer.Context, variant: Key, as_json: Json = False) -> None:
    """Show what proves to a tenant how far a witness knows the release log of a variant, without the others'.

    With --json: a statement of the witness that is signed, the leaf of this log, and its siblings up to the
    root that the statement has.
    """
    settings = load_settings(context.obj)
    key = VariantKey.parse(variant)
    witnesses = settings.open_store().witnesses
    found = {} if witnesses is None else witnesses.proofs(key.prefix)
    if not found:
        fix = "Name `witnesses` in trust.yaml, and tell them by `ft-dagster trust witness`"
        raise UserError("no witness was told of this variant's releases", value=variant, fix=fix)
    if as_json:
        print_json({"proofs": found})
        return
    for url, one in found.items():
        _, entries, newest = one["leaf"].split(":")
        tell(f"{url} knows {counted(int(entries), 'entry', 'entries')} of {variant}; the newest is {newest}")


def _listed(one: Listed) -> dict[str, str | int]:
    number, sha256 = one.position
    said: dict[str, str | int] = {"witness": one.witness, "number": number, "sha256": sha256}
    return {**said, "at": one.at.isoformat(), "signed_by": one.by, "logs": one.logs}


def _shown(file: str, one: Statement) -> dict[str, str]:
    return {"file": file, "at": one.at.isoformat(), "kind": one.kind.rpartition(".")[2].removesuffix("+json")}


def _refuse_unknown(store: Store, tenant: str | None) -> None:
    """Raises UserError for a tenant of whom nothing is stored: a mistyped name is no answer."""
    from ft_dagster.lineage.erasures import owners_with_erasures
    from ft_dagster.spec.validation import nearest

    known = sorted({*store.names("tenants"), *owners_with_erasures(store)} - {""})
    if tenant is not None and tenant not in known:
        fix = nearest(tenant, known, f"Known: {', '.join(known) or 'none'}")
        raise UserError("nothing of this tenant is stored", field="--tenant", value=tenant, fix=fix)


def _refuse_listed(name: str, project: Path) -> None:
    """Raises UserError for a name that a key of trust.yaml has, and for a file that cannot be read."""
    from ft_dagster.spec.trust import load_trust

    root = load_trust(project, None)
    if root is not None and any(key.name == name for key in root.keys):
        raise UserError("a key of this name is listed", file=root.file, field="keys", value=name, fix=RENAME)


def _write_private(file: Path, content: bytes) -> None:
    """Write a file that this user alone may read. Raises UserError where it is there, or cannot be
    written.
    """
    try:
        if not file.parent.is_dir():
            file.parent.mkdir(parents=True, mode=0o700)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(content)
    except FileExistsError as error:
        if error.filename != str(file):
            raise UserError("no folder", file=file.parent, fix="Name a --folder") from None
        raise UserError("a key of this name is there", file=file, fix=RENAME) from None
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", file=file, fix="Name a --folder") from None


def _as_yaml(entry: dict[str, Any]) -> str:
    import yaml

    public = textwrap.indent(str(entry["public"]), "      ")
    fields = {name: value for name, value in entry.items() if name != "public"}
    said = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=10_000)  # quoted where it must
    return f"  - {textwrap.indent(said, '    ').lstrip()}    public: |\n{public}"
