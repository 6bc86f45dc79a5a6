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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.lineage.entry import PROMOTE, RELEASE, ROLLBACK, SCHEMA_VERSION, ReleaseEntry, broken_entry
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.provenance.digest import sha256_json
from ft_dagster.store.artifacts import Artifact, Place, find_artifact, verify_artifact
from ft_dagster.store.blobs import Store

WEIGHTS = "fine_tuned_model"  # the input of export and evaluation that names the weights
JUDGED_AGAIN = "Materialize evaluation, model_export and release again, in that order"


@dataclass(frozen=True)
class ReleaseCandidate:
    """What may become a version: an export, and all that speaks for it.

    `verdict`: derived again from the evaluation's samples; `gates`: the digest of the
    gates as declared now; `certificate`: that of the export; `own_verdict`: the one on the export's own
    bytes, where it drifted from the weights that were judged; `unmeasured`: why it could not be held against
    the version in production, where it could not.
    """

    export: Artifact
    evaluation: Artifact
    verdict: Verdict
    gates: str
    certificate: Mapping[str, Any]
    own_verdict: Verdict | None = None
    unmeasured: str | None = None

    def entry(self, variant: str, run_id: str | None) -> ReleaseEntry:
        """Its entry as version 1, before it is signed and numbered."""
        return ReleaseEntry(
            action=RELEASE,
            variant=variant,
            version=1,
            production=1,
            export=self.export.digest,
            export_key=self.export.place.key,
            format=self.certificate["format"],
            weights=self.export.inputs[WEIGHTS],
            evaluation=self.evaluation.digest,
            by="",
            reason="",
            at="",
            verdict=sha256_json(self.verdict.to_json()),
            gates=self.gates,
            run_id=run_id,
            unmeasured=self.unmeasured,
        )


@dataclass(frozen=True)
class ReleaseRequest:
    """Who asks for a change of what is served, and why; `by` None: the user of this process.

    `approvers`: who alone may put a version into production; none: anyone.
    """

    reason: str
    by: str | None = None
    approvers: tuple[str, ...] = ()

    @property
    def user(self) -> str:
        return self.by or _user()


def record_release(
    store: Store,
    prefix: str,
    candidate: ReleaseCandidate,
    request: ReleaseRequest,
    *,
    variant: str,
    run_id: str | None,
) -> ReleaseEntry:
    """Append a version and return its entry; the standing one where the same payload is in production or the
    newest version.

    With approvers it stays a candidate; one that could not be measured against production needs them. A
    payload that was rolled back is not released again: the entry of its version is returned, and production
    stays as it is (see `promote`). Raises UserError where the candidate's parts do not all speak of the same
    weights and of the export's bytes, or the verdict is no pass.
    """
    check_bytes(candidate)
    _need_approvers(candidate.unmeasured, request)
    made = candidate.entry(variant, run_id)
    while True:
        past = history(store, prefix)
        versions = _versions(past)
        same = [old for old in versions.values() if old.export == made.export]
        serving = _in_production(past)
        if serving is not None and versions[serving].export == made.export:
            return versions[serving]
        if same and (same[-1].version == max(versions) or same[-1].version in rolled_back(past)):
            return same[-1]
        version = max(versions, default=0) + 1
        serving = serving if request.approvers else version
        entry = replace(made, version=version, production=serving)
        appended = _append(store, prefix, past, entry, request)
        if appended:
            return appended


def promote(
    store: Store, prefix: str, version: int | None, request: ReleaseRequest, *, force: bool = False
) -> ReleaseEntry:
    """Put a version (None: the newest, the candidate) into production; its entry, the standing one if it is.

    Every version passed its gate when it was written. Raises UserError: nothing released, no such version,
    who asks is not one of the approvers, or it was rolled back and is not forced with a reason.
    """
    while True:
        past = history(store, prefix)
        chosen = _named(past, version, prefix)
        if chosen.version == _in_production(past):
            return past[-1] if past[-1].action == PROMOTE else chosen
        if request.approvers and request.user not in request.approvers:
            raise UserError(
                f"{request.user} may not approve version {chosen.version}",
                field="release.approvers",
                value=request.user,
                fix=f"Ask {' or '.join(request.approvers)}",
            )
        _need_approvers(chosen.unmeasured, request)
        if chosen.version in rolled_back(past) and not (force and request.reason):
            raise _gone(chosen.version, rolled_back(past)[chosen.version])
        entry = chosen.then(PROMOTE, chosen.version, forced=force)
        appended = _append(store, prefix, past, entry, request)
        if appended:
            return appended


def rollback(store: Store, prefix: str, request: ReleaseRequest, version: int | None = None) -> ReleaseEntry:
    """Put an earlier version into production (None: the one before). Nothing is deleted.

    Raises UserError: nothing in production, none before it, no such version, or one that is no earlier.
    """
    while True:
        past = history(store, prefix)
        target = to_go_back_to(past, prefix, version)
        chosen, now = _named(past, target, prefix), _in_production(past)
        entry = chosen.then(ROLLBACK, target, from_version=now)
        appended = _append(store, prefix, past, entry, request)
        if appended:
            return appended


def _need_approvers(unmeasured: str | None, request: ReleaseRequest) -> None:
    """Raises UserError where nobody is named who may decide on what could not be measured."""
    if unmeasured and not request.approvers:
        raise UserError(
            f"nothing passes unmeasured: {unmeasured}",
            field="release.approvers",
            fix="Restore it from a backup, or name in release.approvers who decides: it then waits for them",
        )


def check_bytes(candidate: ReleaseCandidate) -> None:
    """Raises UserError unless the gate and the certificate hold for exactly this export.

    Where the certificate fails by drift alone, the verdict on the export's own bytes stands in for it.
    """
    export, evaluation = candidate.export, candidate.evaluation
    certificate, verdict = candidate.certificate, candidate.verdict
    weights = export.inputs.get(WEIGHTS)
    _same(
        "the export is of other weights than the evaluation judged", weights, evaluation.inputs.get(WEIGHTS)
    )
    _same("the export was made for another evaluation", evaluation.digest, export.inputs.get("evaluation"))
    _same("the gates changed after the evaluation", candidate.gates, evaluation.inputs.get("gates"))
    _same("the certificate is of other weights", weights, certificate.get("judged"))
    _same("the certificate is of another payload", export.digest, certificate.get("payload"))
    own = candidate.own_verdict
    judged_itself = certificate.get("drifted") is True and own is not None and own.passed
    if certificate.get("passed") is not True and not judged_itself:
        raise UserError(
            "the certificate of the export does not hold",
            value="; ".join(certificate.get("failures", [])) or None,
            fix="Materialize model_export again, in another format where it fails again",
        )
    if not verdict.passed:
        why = "; ".join(rule.sentence for rule in verdict.broken) or "no rule was judged"
        raise UserError(
            f"the gate does not hold for weights {str(weights)[:12]}: {why}",
            fix="Train again with other data or settings, or change the gates and evaluate again",
        )


def history(store: Store, prefix: str) -> list[ReleaseEntry]:
    """All entries, oldest first. Raises UserError for one that this version cannot read."""
    return [_read(store, f"{_folder(prefix)}/{name}") for name in _names(store, prefix)]


def production(store: Store, prefix: str) -> ReleaseEntry | None:
    """The release entry of the version that is served; None before the first."""
    past = history(store, prefix)
    version = _in_production(past)
    return None if version is None else _versions(past)[version]


def candidate(store: Store, prefix: str) -> ReleaseEntry | None:
    """The release entry of the newest version; None before the first."""
    versions = _versions(history(store, prefix))
    return versions[max(versions)] if versions else None


def aliases(past: Sequence[ReleaseEntry]) -> dict[str, int | None]:
    """The versions that are served, and that would be next."""
    return {"production": _in_production(past), "candidate": max(_versions(past), default=None)}


def export_of(store: Store, prefix: str, version: int | None, cache: Path) -> Artifact:
    """The export of a version (None: the newest), its bytes hashed again. Raises UserError."""
    entry = _named(history(store, prefix), version, prefix)
    found = find_artifact(store, Place(prefix, "model_export", entry.export_key))
    if found is None or found.digest != entry.export:
        raise UserError(
            f"the export of version {entry.version} is not in the store",
            file=store.uri(f"{prefix}/model_export/{entry.export_key}"),
            fix="Restore it from a backup, or name another version",
        )
    verify_artifact(store, found, cache)
    return found


def to_go_back_to(past: Sequence[ReleaseEntry], prefix: str, version: int | None) -> int:
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
    if _named(past, target, prefix).version >= now:
        raise UserError(
            f"version {now} is in production, and a rollback goes back",
            field="version",
            value=target,
            fix="Name an earlier version, or promote this one",
        )
    if target in rolled_back(past):
        raise _gone(target, rolled_back(past)[target])
    return target


def rolled_back(past: Sequence[ReleaseEntry]) -> dict[int, str]:
    """Version -> why it was rolled back, of those that were not promoted since."""
    found: dict[int, str] = {}
    for entry in past:
        if entry.action == ROLLBACK and entry.from_version is not None:
            found[entry.from_version] = entry.reason
        elif entry.action == PROMOTE:
            found.pop(entry.version, None)
    return found


def _versions(past: Sequence[ReleaseEntry]) -> dict[int, ReleaseEntry]:
    return {entry.version: entry for entry in past if entry.action == RELEASE}


def _in_production(past: Sequence[ReleaseEntry]) -> int | None:
    return past[-1].production if past else None


def _before(past: Sequence[ReleaseEntry], now: int) -> int | None:
    """The version that was served before `now` came into production, of those not rolled back."""
    served = [entry.production for entry in past if entry.production is not None]
    first = served.index(now)
    gone = rolled_back(past)
    return next((version for version in reversed(served[:first]) if version not in gone), None)


def _named(past: Sequence[ReleaseEntry], version: int | None, prefix: str) -> ReleaseEntry:
    versions = _versions(past)
    if not versions:
        raise _nothing(prefix)
    if version is None:
        return versions[max(versions)]
    if version not in versions:
        known = ", ".join(str(number) for number in sorted(versions))
        raise UserError("no such version", field="version", value=version, fix=f"Released are {known}")
    return versions[version]


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
    store: Store, prefix: str, past: Sequence[ReleaseEntry], entry: ReleaseEntry, request: ReleaseRequest
) -> ReleaseEntry | None:
    """Write the entry, signed and dated, under the number after `past`; None where another writer was faster.

    In a folder the number is taken by an exclusive create. Elsewhere the entry read back decides between
    two writers; one run a variant makes that rare.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    stamped = replace(
        entry,
        by=request.user,
        reason=request.reason,
        at=now,
        entry=uuid.uuid4().hex,
        schema_version=SCHEMA_VERSION,
    )
    names = _names(store, prefix)
    if len(names) != len(past):
        return None
    last = int(names[-1].removesuffix(".json")) if names else 0
    path = f"{_folder(prefix)}/{last + 1:06d}.json"
    target = store.local(path)
    if target is not None:
        return stamped if _create(store, path, target, stamped) else None
    if not store.exists(path):
        store.write_json(path, stamped.to_json())
    return stamped if _read(store, path).entry == stamped.entry else None


def _create(store: Store, path: str, target: Path, entry: ReleaseEntry) -> bool:
    """Write `target` whole, and never over another's; whether it was free."""
    draft = f".{entry.entry}"
    store.write_json(f"{path.rpartition('/')[0]}/{draft}", entry.to_json())
    try:
        os.link(target.with_name(draft), target)
    except FileExistsError:
        return False
    finally:
        target.with_name(draft).unlink()
    return True


def _names(store: Store, prefix: str) -> list[str]:
    """The entries' file names, oldest first; files without a number are not entries."""
    names = store.names(_folder(prefix))
    return [name for name in names if name.endswith(".json") and name.removesuffix(".json").isdigit()]


def _read(store: Store, path: str) -> ReleaseEntry:
    try:
        content = store.read_json(path)
    except ValueError:
        raise broken_entry(store.uri(path)) from None
    return ReleaseEntry.from_json(content, file=store.uri(path))


def _folder(prefix: str) -> str:
    return f"{prefix}/releases"


def _user() -> str:
    """Who runs this process; by number where the host has no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
