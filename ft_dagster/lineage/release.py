"""The append-only log of what was released of a variant: `<prefix>/releases/000001.json`, one entry a file.

An entry is written only when export, evaluation, verdict and certificate speak of the same bytes. `action`
says what it does to production; entries are never changed.
"""

from __future__ import annotations

import getpass
import os
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.lineage.digest import sha256_json
from ft_dagster.store.artifacts import Artifact
from ft_dagster.store.blobs import Store

SCHEMA_VERSION = 1
RELEASE = "release"
WEIGHTS = "fine_tuned_model"  # the input of export and evaluation that names the weights
JUDGED_AGAIN = "Materialize evaluation, model_export and release again, in that order"


def record_release(
    store: Store,
    prefix: str,
    *,
    variant: str,
    export: Artifact,
    evaluation: Artifact,
    verdict: dict[str, Any],
    gates: str,
    certificate: dict[str, Any],
    run_id: str | None,
    reason: str,
    by: str | None = None,
) -> dict[str, Any]:
    """Append a version and return its entry; the standing entry where the same payload is in production.

    `verdict` is the JSON of the verdict derived anew from the evaluation's samples, `gates` the digest of
    the gates as declared now, `certificate` that of the export. Raises UserError where they do not all
    speak of the same weights and of the export's bytes, or the verdict is no pass.
    """
    check_bytes(export, evaluation, verdict, gates, certificate)
    entry = {
        "schema_version": SCHEMA_VERSION,
        "action": RELEASE,
        "variant": variant,
        "export": export.digest,
        "export_key": export.place.key,
        "format": certificate["format"],
        "weights": export.inputs[WEIGHTS],
        "evaluation": evaluation.digest,
        "verdict": sha256_json(verdict),
        "gates": gates,
        "run_id": run_id,
        "by": by or _user(),
        "reason": reason,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    while True:
        standing = production(store, prefix)
        if standing is not None and standing["export"] == export.digest:
            return standing
        appended = _append(store, prefix, entry)
        if appended:
            return appended


def check_bytes(
    export: Artifact,
    evaluation: Artifact,
    verdict: dict[str, Any],
    gates: str,
    certificate: dict[str, Any],
) -> None:
    """Raises UserError unless the gate and the certificate hold for exactly this export."""
    weights = export.inputs.get(WEIGHTS)
    _same(
        "the export is of other weights than the evaluation judged", weights, evaluation.inputs.get(WEIGHTS)
    )
    _same("the export was made for another evaluation", evaluation.digest, export.inputs.get("evaluation"))
    _same("the gates changed after the evaluation", gates, evaluation.inputs.get("gates"))
    _same("the certificate is of other weights", weights, certificate.get("judged"))
    _same("the certificate is of another payload", export.digest, certificate.get("payload"))
    if certificate.get("passed") is not True:
        raise UserError(
            "the certificate of the export does not hold",
            value="; ".join(certificate.get("failures", [])) or None,
            fix="Materialize model_export again, in another format where it fails again",
        )
    if verdict.get("passed") is not True:
        broken = [rule["sentence"] for rule in verdict.get("rules", []) if not rule["passed"]]
        why = "; ".join(broken) or "no rule was judged"
        raise UserError(
            f"the gate does not hold for weights {str(weights)[:12]}: {why}",
            fix="Train again with other data or settings, or change the gates and evaluate again",
        )


def history(store: Store, prefix: str) -> list[dict[str, Any]]:
    """All entries, oldest first. Raises UserError for one that this version cannot read."""
    return [_read(store, f"{_folder(prefix)}/{name}") for name in _names(store, prefix)]


def production(store: Store, prefix: str) -> dict[str, Any] | None:
    """The entry that is served: that of the newest release; None before the first."""
    released = [entry for entry in history(store, prefix) if entry["action"] == RELEASE]
    return released[-1] if released else None


def _same(problem: str, expected: str | None, found: str | None) -> None:
    if expected is None or expected != found:
        raise UserError(
            f"{problem}: {str(expected)[:12]} is expected", value=str(found)[:12], fix=JUDGED_AGAIN
        )


def _append(store: Store, prefix: str, entry: dict[str, Any]) -> dict[str, Any] | None:
    """Write the entry under the next number and version; None where another writer was faster.

    In a folder the number is taken by an exclusive create. Elsewhere the entry read back decides between
    two writers; one run a variant makes that rare.
    """
    names = _names(store, prefix)
    past = [_read(store, f"{_folder(prefix)}/{name}") for name in names]
    version = max((old["version"] for old in past if old["action"] == RELEASE), default=0) + 1
    numbered = {**entry, "version": version, "entry": uuid.uuid4().hex}
    last = int(names[-1].removesuffix(".json")) if names else 0
    path = f"{_folder(prefix)}/{last + 1:06d}.json"
    target = store.local(path)
    if target is not None:
        return numbered if _create(store, path, target, numbered) else None
    if not store.exists(path):
        store.write_json(path, numbered)
    return numbered if store.read_json(path)["entry"] == numbered["entry"] else None


def _create(store: Store, path: str, target: Path, entry: dict[str, Any]) -> bool:
    """Write `target` whole, and never over another's; whether it was free."""
    draft = f".{entry['entry']}"
    store.write_json(f"{path.rpartition('/')[0]}/{draft}", entry)
    try:
        os.link(target.with_name(draft), target)
    except FileExistsError:
        return False
    finally:
        target.with_name(draft).unlink()
    return True


def _names(store: Store, prefix: str) -> list[str]:
    """The entries' file names, oldest first; what is not numbered is none of ours."""
    names = store.names(_folder(prefix))
    return [name for name in names if name.endswith(".json") and name.removesuffix(".json").isdigit()]


def _read(store: Store, path: str) -> dict[str, Any]:
    try:
        entry: dict[str, Any] = store.read_json(path)
        newer = entry["schema_version"] > SCHEMA_VERSION
    except (ValueError, KeyError, TypeError):
        raise UserError(
            "not an entry of a release log", file=store.uri(path), fix="Restore the file from a backup"
        ) from None
    if newer or entry["action"] != RELEASE:
        raise UserError(
            "written by a newer ft-dagster",
            file=store.uri(path),
            field="schema_version" if newer else "action",
            value=entry["schema_version" if newer else "action"],
            fix="Upgrade ft-dagster",
        )
    return entry


def _folder(prefix: str) -> str:
    return f"{prefix}/releases"


def _user() -> str:
    """Who runs this process; by number where the host has no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
