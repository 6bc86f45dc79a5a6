"""The append-only log of what was released of a variant: `<prefix>/releases/000001.json`, one entry a file.

A version is written only when export, evaluation, verdict and certificate speak of the same bytes. Entries
are never changed; each says which version is in production after it:

    release   a new version. It goes into production, or waits as the candidate for who may approve it
    promote   a version goes into production: approved, or forced with a reason
    rollback  an earlier version is in production again
"""

from __future__ import annotations

import getpass
import os
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.provenance.digest import sha256_json
from ft_dagster.store.artifacts import Artifact, Place, find, verify
from ft_dagster.store.blobs import Store

SCHEMA_VERSION = 2
RELEASE, PROMOTE, ROLLBACK = "release", "promote", "rollback"
ACTIONS = (RELEASE, PROMOTE, ROLLBACK)
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
    own_verdict: dict[str, Any] | None = None,
    run_id: str | None,
    reason: str,
    by: str | None = None,
    approvers: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Append a version and return its entry; the standing one where the same payload is in production or the
    newest version.

    With `approvers` it stays a candidate. A payload that was rolled back is not released again: the entry
    of its version is returned, and production stays as it is (see `promote`). `verdict` is the JSON of the
    verdict derived anew from the evaluation's samples, `gates` the digest of the gates as declared now,
    `certificate` that of the export, `own_verdict` the one on its own bytes where it drifted. Raises
    UserError where they do not all speak of the same weights and of the export's bytes, or the verdict is no
    pass.
    """
    check_bytes(export, evaluation, verdict, gates, certificate, own_verdict=own_verdict)
    entry = {
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
    }
    while True:
        past = history(store, prefix)
        versions = _versions(past)
        same = [old for old in versions.values() if old["export"] == export.digest]
        serving = _in_production(past)
        if serving is not None and versions[serving]["export"] == export.digest:
            return versions[serving]
        if same and (same[-1]["version"] == max(versions) or same[-1]["version"] in rolled_back(past)):
            return same[-1]
        version = max(versions, default=0) + 1
        serving = serving if approvers else version
        appended = _append(store, prefix, past, {**entry, "version": version, "production": serving})
        if appended:
            return appended


def promote(
    store: Store,
    prefix: str,
    version: int | None,
    *,
    reason: str,
    by: str | None = None,
    approvers: tuple[str, ...] = (),
    force: bool = False,
) -> dict[str, Any]:
    """Put a version (None: the newest, the candidate) into production; its entry, the standing one if it is.

    Every version passed its gate when it was written. Raises UserError: nothing released, no such version,
    `by` is none of the `approvers`, or it was rolled back and is not forced with a reason.
    """
    by = by or _user()
    while True:
        past = history(store, prefix)
        chosen = _named(past, version, prefix)
        if chosen["version"] == _in_production(past):
            return past[-1] if past[-1]["action"] == PROMOTE else chosen
        if approvers and by not in approvers:
            raise UserError(
                f"{by} may not approve version {chosen['version']}",
                field="release.approvers",
                value=by,
                fix=f"Ask {' or '.join(approvers)}",
            )
        if chosen["version"] in rolled_back(past) and not (force and reason):
            raise _gone(chosen["version"], rolled_back(past)[chosen["version"]])
        entry = {**_about(chosen), "action": PROMOTE, "production": chosen["version"], "forced": force}
        appended = _append(store, prefix, past, {**entry, "by": by, "reason": reason})
        if appended:
            return appended


def rollback(
    store: Store, prefix: str, version: int | None = None, *, reason: str, by: str | None = None
) -> dict[str, Any]:
    """Put an earlier version into production (None: the one before). Nothing is deleted.

    Raises UserError: nothing in production, none before it, no such version, or one that is no earlier.
    """
    while True:
        past = history(store, prefix)
        target = to_go_back_to(past, prefix, version)
        chosen, now = _named(past, target, prefix), _in_production(past)
        entry = {**_about(chosen), "action": ROLLBACK, "production": target, "from_version": now}
        appended = _append(store, prefix, past, {**entry, "by": by or _user(), "reason": reason})
        if appended:
            return appended


def check_bytes(
    export: Artifact,
    evaluation: Artifact,
    verdict: dict[str, Any],
    gates: str,
    certificate: dict[str, Any],
    *,
    own_verdict: dict[str, Any] | None = None,
) -> None:
    """Raises UserError unless the gate and the certificate hold for exactly this export.

    Where the certificate fails by drift alone, `own_verdict` on the export's own bytes stands in for it.
    """
    weights = export.inputs.get(WEIGHTS)
    _same(
        "the export is of other weights than the evaluation judged", weights, evaluation.inputs.get(WEIGHTS)
    )
    _same("the export was made for another evaluation", evaluation.digest, export.inputs.get("evaluation"))
    _same("the gates changed after the evaluation", gates, evaluation.inputs.get("gates"))
    _same("the certificate is of other weights", weights, certificate.get("judged"))
    _same("the certificate is of another payload", export.digest, certificate.get("payload"))
    judged_itself = certificate.get("drifted") is True and (own_verdict or {}).get("passed") is True
    if certificate.get("passed") is not True and not judged_itself:
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
    """The release entry of the version that is served; None before the first."""
    past = history(store, prefix)
    version = _in_production(past)
    return None if version is None else _versions(past)[version]


def candidate(store: Store, prefix: str) -> dict[str, Any] | None:
    """The release entry of the newest version; None before the first."""
    versions = _versions(history(store, prefix))
    return versions[max(versions)] if versions else None


def aliases(past: list[dict[str, Any]]) -> dict[str, int | None]:
    """The versions that are served, and that would be next."""
    return {"production": _in_production(past), "candidate": max(_versions(past), default=None)}


def export_of(store: Store, prefix: str, version: int | None, cache: Path) -> Artifact:
    """The export of a version (None: the newest), its bytes hashed again. Raises UserError."""
    entry = _named(history(store, prefix), version, prefix)
    found = find(store, Place(prefix, "model_export", entry["export_key"]))
    if found is None or found.digest != entry["export"]:
        raise UserError(
            f"the export of version {entry['version']} is not in the store",
            file=store.uri(f"{prefix}/model_export/{entry['export_key']}"),
            fix="Restore it from a backup, or name another version",
        )
    verify(store, found, cache)
    return found


def to_go_back_to(past: list[dict[str, Any]], prefix: str, version: int | None) -> int:
    """The version that a rollback would put into production. Raises UserError as `rollback` does."""
    now = _in_production(past)
    if now is None:
        raise _nothing(prefix)
    target = _before(past, now) if version is None else version
    if target is None:
        raise UserError(
            f"version {now} is the first that was in production: there is nothing to go back to",
            field="version",
            value=now,
            fix="Release another version",
        )
    if _named(past, target, prefix)["version"] >= now:
        raise UserError(
            f"version {now} is in production, and a rollback goes back",
            field="version",
            value=target,
            fix="Name an earlier version, or promote this one",
        )
    if target in rolled_back(past):
        raise _gone(target, rolled_back(past)[target])
    return target


def rolled_back(past: list[dict[str, Any]]) -> dict[int, str]:
    """Version -> why it was rolled back, of those that were not promoted since."""
    found: dict[int, str] = {}
    for entry in past:
        if entry["action"] == ROLLBACK:
            found[entry["from_version"]] = entry["reason"]
        elif entry["action"] == PROMOTE:
            found.pop(entry["version"], None)
    return found


def _versions(past: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return {entry["version"]: entry for entry in past if entry["action"] == RELEASE}


def _in_production(past: list[dict[str, Any]]) -> int | None:
    return past[-1]["production"] if past else None


def _before(past: list[dict[str, Any]], now: int) -> int | None:
    """The version that was served before `now` came into production, of those not rolled back."""
    served = [entry["production"] for entry in past if entry["production"] is not None]
    first = served.index(now)
    gone = rolled_back(past)
    return next((version for version in reversed(served[:first]) if version not in gone), None)


def _named(past: list[dict[str, Any]], version: int | None, prefix: str) -> dict[str, Any]:
    versions = _versions(past)
    if not versions:
        raise _nothing(prefix)
    if version is None:
        return versions[max(versions)]
    if version not in versions:
        known = ", ".join(str(number) for number in sorted(versions))
        raise UserError("no such version", field="version", value=version, fix=f"Released are {known}")
    return versions[version]


def _about(entry: dict[str, Any]) -> dict[str, Any]:
    """What a later entry repeats of a version's own."""
    names = ("version", "variant", "export", "export_key", "format", "weights", "evaluation")
    return {name: entry[name] for name in names}


def _gone(version: int, reason: str) -> UserError:
    return UserError(
        f"version {version} was rolled back: {reason}",
        field="version",
        value=version,
        fix="Release other weights, or promote it by force with a reason",
    )


def _nothing(prefix: str) -> UserError:
    return UserError(
        "nothing was released of this variant",
        value=prefix.removeprefix("tenants/").replace("/", "."),
        fix="Run it; `ft-dagster compare` shows what its gate said",
    )


def _same(problem: str, expected: str | None, found: str | None) -> None:
    if expected is None or expected != found:
        raise UserError(
            f"{problem}: {str(expected)[:12]} is expected", value=str(found)[:12], fix=JUDGED_AGAIN
        )


def _append(
    store: Store, prefix: str, past: list[dict[str, Any]], entry: dict[str, Any]
) -> dict[str, Any] | None:
    """Write the entry under the number after `past`; None where another writer was faster.

    In a folder the number is taken by an exclusive create. Elsewhere the entry read back decides between
    two writers; one run a variant makes that rare.
    """
    stamped = {
        "schema_version": SCHEMA_VERSION,
        **entry,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "entry": uuid.uuid4().hex,
    }
    names = _names(store, prefix)
    if len(names) != len(past):
        return None
    last = int(names[-1].removesuffix(".json")) if names else 0
    path = f"{_folder(prefix)}/{last + 1:06d}.json"
    target = store.local(path)
    if target is not None:
        return stamped if _create(store, path, target, stamped) else None
    if not store.exists(path):
        store.write_json(path, stamped)
    return stamped if store.read_json(path)["entry"] == stamped["entry"] else None


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
    if newer or entry["action"] not in ACTIONS:
        raise UserError(
            "written by a newer ft-dagster",
            file=store.uri(path),
            field="schema_version" if newer else "action",
            value=entry["schema_version" if newer else "action"],
            fix="Upgrade ft-dagster",
        )
    entry.setdefault("production", entry["version"])  # of schema 1, where a release was production at once
    return entry


def _folder(prefix: str) -> str:
    return f"{prefix}/releases"


def _user() -> str:
    """Who runs this process; by number where the host has no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
