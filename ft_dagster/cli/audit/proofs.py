"""Defines the commands that verify what is recorded, prove what a model was trained on, and check a proof."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ft_dagster.cli.audit.questions import (
    NOT_WHOLE,
    Answered,
    ForTenant,
    Model,
    Record,
    Save,
    ask,
    audit,
    conclude,
    progress,
    writable,
)
from ft_dagster.cli.audit.shown import print_parts, proof_parts, verified_parts
from ft_dagster.cli.common import Json, print_json, tell
from ft_dagster.errors import UserError
from ft_dagster.records import record_keys
from ft_dagster.strict_json import dumps

if TYPE_CHECKING:
    from ft_dagster.audit.audit import Audit
    from ft_dagster.audit.verify.verify import Verified


@audit.command()
def verify(
    context: typer.Context,
    digest: Annotated[str | None, typer.Argument(help="The digest of an artifact; none with --all")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Everything, and the logs of releases and erasures")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="From the beginning, not from where an earlier check ended")
    ] = False,
    tenant: ForTenant = None,
    save: Save = False,
    as_json: Json = False,
) -> None:
    """Hash stored files again; check record trees, ledgers, manifests, logs of releases and erasures, and the
    index. Exits with 1 if any does not hold.
    """
    from ft_dagster.audit.verify import verify as checks

    if every == (digest is not None):
        raise UserError("what is to be verified is not clear", fix="Give a digest, or --all")

    def answer(audit: Audit) -> Verified:
        only = None if digest is None else audit.by_digest(digest)
        return checks.verify(audit, only, progress(as_json), fresh=fresh)

    found = ask(context, tenant, answer)
    parts = verified_parts(found, checks.CANNOT_NOTICE if digest is None else ())
    printed = {**asdict(found), "holds": found.holds, "cannot_notice": checks.CANNOT_NOTICE}
    answered = Answered("verify", digest or "all", parts)
    conclude(context, answered, printed if as_json else None, save=save)
    if not found.holds:
        raise typer.Exit(NOT_WHOLE)


@audit.command()
def prove(
    context: typer.Context,
    record: Record,
    model: Model,
    to: Annotated[Path | None, typer.Option(help="The file to write; printed unless given")] = None,
    tenant: ForTenant = None,
    as_json: Json = False,
) -> None:
    """Write a small file that proves to a stranger that a model was trained on a record, or was not."""
    from ft_dagster.audit import sought_record
    from ft_dagster.audit.proofs import proofs

    def answer(audit: Audit) -> dict[str, object]:
        weights = audit.model(model)
        return proofs.prove(audit, sought_record.parse_record(record, audit.readings(weights)), weights)

    proof = ask(context, tenant, answer)
    if to is None:
        print_json(proof)
        return
    with writable(to) as written:
        written.write(dumps(proof, indent=1, ensure_ascii=False) + "\n")
    if as_json:
        print_json({"kind": proof["kind"], "file": str(to), "bytes": to.stat().st_size})
        return
    tell(f"{proof['kind']}: {to}, {to.stat().st_size:,} bytes")


@audit.command("check")
def check_proof(
    file: Annotated[Path, typer.Argument(help="What `audit prove` wrote")],
    record: Annotated[str | None, typer.Option(help="The record that it should be about")] = None,
    key_file: Annotated[
        Path | None, typer.Option("--key", help="The tenant's key file, for a proof of absence")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a proof by itself, without project and store. Exits with 1 if it proves nothing, as a proof of
    absence does without --key.
    """
    from ft_dagster.audit import sought_record
    from ft_dagster.audit.proofs import proof_check

    wanted = None if record is None else sought_record.parse_record(record, proof_check.proof_readings(file))
    found = proof_check.check(file, wanted, None if key_file is None else _key_of(file, key_file))
    if as_json:
        print_json({**asdict(found), "holds": found.shown})
    else:
        print_parts(proof_parts(found))
    if not found.shown:
        raise typer.Exit(NOT_WHOLE)


def _key_of(proof: Path, file: Path) -> record_keys.RecordKey:
    """Return the key of a key file that a proof's tree names. Raises UserError."""
    from ft_dagster.audit.proofs.proof_check import tree_key

    keys = record_keys.read_keys(file)
    named = tree_key(proof)
    found = keys.of_id(named)
    if found is None:
        raise UserError(
            f"it has no key {named}, which orders the proof's tree", file=file, fix="Name another"
        )
    return found
