"""Records what is released of a variant: the entries of its append-only log (see `log`).

A version is written only when export, evaluation, verdict and certificate speak of the same bytes. Entries
are never changed; each says which version is in production after it:

    release   a new version. It goes into production, or waits as the candidate for who may approve it
    promote   a version goes into production: approved, or forced with a reason
    rollback  an earlier version is in production again
"""

from __future__ import annotations

import getpass
import os
import random
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from ft_dagster.errors import UserError
from ft_dagster.lineage.certificate import Certificate
from ft_dagster.lineage.entry import PROMOTE, RELEASE, ROLLBACK, SCHEMA_VERSION, ReleaseEntry
from ft_dagster.lineage.log import ReleaseLog, adopt, append, folder_of, read_log, recalled_log
from ft_dagster.lineage.served import (
    production_in,
    refuse_rolled_back,
    released,
    rolled_back,
    rolled_back_weights,
    served_in,
    to_go_back_to,
    versions_in,
)
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.provenance.digest import sha256_json
from ft_dagster.stage_entries import EVALUATION, FINE_TUNED_MODEL, MODEL_EXPORT
from ft_dagster.store.artifacts import Artifact, Place, find_artifact, refuse_removed, verify_artifact
from ft_dagster.store.blobs import Store
from ft_dagster.store.removal import keep

TRIES = 30  # of an entry, while others write theirs
JUDGED_AGAIN = "Materialize evaluation, model_export, release_evaluation and release again, in that order"
Decide = Callable[[list[ReleaseEntry]], tuple[ReleaseEntry, bool]]  # the entry, and whether it is new


@dataclass(frozen=True)
class ReleaseCandidate:
    """Describes what may become a version: an export, and all that speaks for it.

    `verdict`: derived again from the evaluation's samples; `gates`: the digest of the
    gates as declared now; `certificate`: that of the export; `own_verdict`: the one on the export's own
    bytes, where it drifted from the weights that were judged; `unmeasured`: why it could not be held against
    the version in production, where it could not; `held_against`: the log by which it was (None: it was not).
    """

    export: Artifact
    evaluation: Artifact
    verdict: Verdict
    gates: str
    certificate: Certificate
    own_verdict: Verdict | None = None
    unmeasured: str | None = None
    held_against: Sequence[ReleaseEntry] | None = None

    def entry(self, variant: str, run_id: str | None) -> ReleaseEntry:
        """Return its entry as version 1, before it is signed and numbered."""
        return ReleaseEntry(
            action=RELEASE,
            variant=variant,
            version=1,
            production=1,
            export=self.export.digest,
            export_key=self.export.place.key,
            format=self.certificate.format,
            weights=self.export.inputs[FINE_TUNED_MODEL.name],
            evaluation=self.evaluation.digest,
            by="",
            reason="",
            at="",
            verdict=sha256_json(self.verdict.to_json()),
            gates=self.gates,
            run_id=run_id,
            unmeasured=self.unmeasured,
            export_manifest=self.export.manifest,
            evaluation_manifest=self.evaluation.manifest,
            certificate=_listed(self.export, "evidence/certificate.json"),
        )


def _listed(artifact: Artifact, name: str) -> str | None:
    """Return the sha256 of one of an artifact's files; None where it has none of this name."""
    file = artifact.files.get(name)
    return None if file is None else file.sha256


@dataclass(frozen=True)
class ReleaseRequest:
    """Names who asks for a change of what is served, and why; `by` None: the user of this process.

    `approvers`: who alone may put a version into production; none: anyone. `doubt`: why one of them has to
    decide on it, a rollback too; None: nobody has to.
    """

    reason: str
    by: str | None = None
    approvers: tuple[str, ...] = ()
    doubt: str | None = None

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
    """Append a version and return its entry. One payload is one version, however often it is released.

    With approvers it stays a candidate, as do weights that were rolled back in another format; what is in
    doubt, or could not be measured against production, needs approvers. A payload that was served before goes
    into production again, unless it was rolled back or must be approved; else its standing entry is returned
    (see `promote`). Raises UserError where the candidate's parts do not all speak of the same weights and of
    the export's bytes, or the verdict is no pass.
    """
    return _change(store, prefix, request, _recording(candidate, request, variant, run_id), recalled_log)


def standing_release(
    store: Store,
    prefix: str,
    candidate: ReleaseCandidate,
    request: ReleaseRequest,
    *,
    variant: str,
    run_id: str | None,
) -> ReleaseEntry:
    """Return what `record_release` would return, where it would write nothing. Raises UserError where it
    would.
    """
    entry, new = _recording(candidate, request, variant, run_id)(history(store, prefix))
    if new:
        raise UserError(f"{variant} has another release by now", fix="Run it")
    return entry


def _recording(
    candidate: ReleaseCandidate, request: ReleaseRequest, variant: str, run_id: str | None
) -> Decide:
    """Return what a log becomes by a candidate. Raises UserError, see `record_release`."""
    check_bytes(candidate)
    made = candidate.entry(variant, run_id)
    _approve(request, made.doubt)

    def decide(past: list[ReleaseEntry]) -> tuple[ReleaseEntry, bool]:
        versions, serving = versions_in(past), production_in(past)
        same = [old for old in versions.values() if old.export == made.export]
        if same:
            entry, new = _again(same, past, request)
        else:
            version = max(versions, default=0) + 1
            waits = bool(request.approvers) or made.weights in rolled_back_weights(past)
            entry, new = replace(made, version=version, production=serving if waits else version), True
        if new:
            _approve(request, request.doubt)
            _same_production(candidate.held_against, past)
        return entry, new

    return decide


def _again(
    same: Sequence[ReleaseEntry], past: Sequence[ReleaseEntry], request: ReleaseRequest
) -> tuple[ReleaseEntry, bool]:
    """Return what a payload becomes that has versions (older logs gave it several), and whether that is
    new.
    """
    serving = production_in(past)
    standing = next((old for old in same if old.version == serving), same[-1])
    stays = standing.version in (serving, max(versions_in(past))) or standing.version in rolled_back(past)
    if stays or request.approvers:
        return standing, False
    return standing.then(PROMOTE, standing.version), True


def promote(
    store: Store, prefix: str, version: int | None, request: ReleaseRequest, *, force: bool = False
) -> ReleaseEntry:
    """Put a version (None: the newest, the candidate) into production; its entry, the standing one if it is.

    Every version passed its gate when it was written. Raises UserError: nothing released, no such version,
    one that retention removed, who asks is not one of the approvers, or its weights were rolled back and it
    is not forced with a reason.
    """

    def decide(past: list[ReleaseEntry]) -> tuple[ReleaseEntry, bool]:
        chosen = released(past, version, prefix)
        if chosen.version == production_in(past):
            return (past[-1] if past[-1].action == PROMOTE else chosen), False
        _approve(request, chosen.doubt or request.doubt, chosen.version)
        if not (force and request.reason):
            refuse_rolled_back(past, chosen.version)
        _keep_export(store, prefix, chosen)
        return chosen.then(PROMOTE, chosen.version, forced=force), True

    return _change(store, prefix, request, decide)


def rollback(store: Store, prefix: str, request: ReleaseRequest, version: int | None = None) -> ReleaseEntry:
    """Put what was in production before into production again (None: what was there last, of other weights).

    Nothing is deleted. Raises UserError as `to_go_back_to`, for a version that retention removed, and in
    doubt unless one of the approvers asks.
    """

    def decide(past: list[ReleaseEntry]) -> tuple[ReleaseEntry, bool]:
        target = released(past, to_go_back_to(past, prefix, version), prefix)
        if request.doubt:
            _approve(request, request.doubt, target.version)
        _keep_export(store, prefix, target)
        return target.then(ROLLBACK, target.version, from_version=production_in(past)), True

    return _change(store, prefix, request, decide)


def _keep_export(store: Store, prefix: str, entry: ReleaseEntry) -> None:
    """Keep what is to be served, and so all that it was made from. Raises UserError: retention removed it."""
    place = Place(prefix, MODEL_EXPORT.name, entry.export_key)
    found = find_artifact(store, place)
    if found is None or found.digest != entry.export:
        refuse_removed(store, place, entry.export)
    elif not keep(store, found):
        raise UserError(
            f"version {entry.version} is being removed by retention",
            file=store.uri(found.path),
            fix="Name another version, or run the variant: it is made again",
        )


def _approve(request: ReleaseRequest, doubt: str | None, version: int | None = None) -> None:
    """Raises UserError where nobody is named who may decide on what is in doubt, and where it is not one of
    them who puts a version into production.
    """
    if doubt and not request.approvers:
        fix = "Mend what it says, or name in release.approvers who decides: it then waits for them"
        raise UserError(doubt, field="release.approvers", fix=fix)
    if version is not None and request.approvers and request.user not in request.approvers:
        raise UserError(
            f"{request.user} may not approve version {version}",
            field="release.approvers",
            value=request.user,
            fix=f"Ask {' or '.join(request.approvers)}",
        )


def _same_production(then: Sequence[ReleaseEntry] | None, past: Sequence[ReleaseEntry]) -> None:
    """Raises UserError where another version is served than the one that a candidate was held against."""
    now = production_in(past)
    if then is not None and production_in(then) != now:
        raise UserError(
            "another version went into production meanwhile: it was held against the one before",
            field="version",
            value=now,
            fix="Materialize release_evaluation and release again",
        )


def check_bytes(candidate: ReleaseCandidate) -> None:
    """Raises UserError unless the gate and the certificate hold for exactly this export.

    Where the certificate fails by drift alone, the verdict on the export's own bytes stands in for it.
    """
    export, evaluation = candidate.export, candidate.evaluation
    certificate, verdict = candidate.certificate, candidate.verdict
    weights = export.inputs.get(FINE_TUNED_MODEL.name)
    _same(
        "the export is of other weights than the evaluation judged",
        weights,
        evaluation.inputs.get(FINE_TUNED_MODEL.name),
    )
    _same("the export was made for another evaluation", evaluation.digest, export.inputs.get(EVALUATION.name))
    _same("the gates changed after the evaluation", candidate.gates, evaluation.inputs.get("gates"))
    _same("the certificate is of other weights", weights, certificate.judged)
    _same("the certificate is of another payload", export.digest, certificate.payload)
    own = candidate.own_verdict
    judged_itself = certificate.drifted and own is not None and own.passed
    if not certificate.passed and not judged_itself:
        raise UserError(
            "the certificate of the export does not hold",
            value="; ".join(certificate.failures),
            fix="Materialize model_export again, in another format where it fails again",
        )
    if not verdict.passed:
        why = "; ".join(rule.sentence for rule in verdict.broken) or "no rule was judged"
        raise UserError(
            f"the gate does not hold for weights {str(weights)[:12]}: {why}",
            fix="Train again with other data or settings, or change the gates and evaluate again",
        )


def history(store: Store, prefix: str) -> list[ReleaseEntry]:
    """Return all entries, oldest first, see `recalled_log`. Raises UserError for one that cannot be read, is
    missing or was changed.
    """
    return recalled_log(store, prefix).entries


def production(store: Store, prefix: str) -> ReleaseEntry | None:
    """Return the release entry of the version that is served; None before the first."""
    return served_in(history(store, prefix))


def export_of(store: Store, prefix: str, version: int | None, cache: Path) -> Artifact:
    """Return the export of a version (None: the newest), its bytes hashed again. Raises UserError."""
    entry = released(history(store, prefix), version, prefix)
    place = Place(prefix, MODEL_EXPORT.name, entry.export_key)
    found = find_artifact(store, place)
    if found is None or found.digest != entry.export:
        refuse_removed(store, place, entry.export)
        raise UserError(
            f"the export of version {entry.version} is not in the store",
            file=store.uri(place.path),
            fix="Restore it from a backup, or name another version",
        )
    verify_artifact(store, found, cache)
    return found


def _same(problem: str, expected: str | None, found: str | None) -> None:
    if expected is None or expected != found:
        raise UserError(
            f"{problem}: {str(expected)[:12]} is expected", value=str(found)[:12], fix=JUDGED_AGAIN
        )


def _change(
    store: Store,
    prefix: str,
    request: ReleaseRequest,
    decide: Decide,
    read: Callable[[Store, str], ReleaseLog] = read_log,
) -> ReleaseEntry:
    """Append what `decide` makes of the log, signed and dated, where it says that it is new; else what
    stands. Where another writer was faster, it is asked again about the log as it then is.

    Raises UserError where that does not end, see `adopt`.
    """
    for tried in range(TRIES):
        log = read(store, prefix)
        entry, new = decide(log.entries)
        if not new:
            return entry
        appended = append(store, prefix, log, _signed(entry, request))
        if appended:
            return appended
        time.sleep(random.uniform(0, min(0.5, 0.01 * 2**tried)))
    if adopted := adopt(store, prefix, log, _signed(entry, request)):
        return adopted
    raise UserError(
        f"others were faster {TRIES} times, or the store does not list what is in it",
        file=store.uri(folder_of(prefix)),
        fix="Look who writes to this log, and run it again",
    )


def _signed(entry: ReleaseEntry, request: ReleaseRequest) -> ReleaseEntry:
    return replace(
        entry,
        by=request.user,
        reason=request.reason,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        entry=uuid.uuid4().hex,
        schema_version=SCHEMA_VERSION,
    )


def _user() -> str:
    """Return who runs this process; by number where the host has no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
