"""Records what is released of a variant: the entries of its append-only log (see `log`).

A version is written only when export, evaluation, verdict and certificate speak of the same bytes. Entries
are never changed; each says which version is in production after it:

    release   a new version. It goes into production, or waits as the candidate for who may approve it
    promote   a version goes into production: approved, or forced with a reason
    rollback  an earlier version is in production again, or none is any more
"""

from __future__ import annotations

import getpass
import os
import random
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from ft_dagster.errors import UserError
from ft_dagster.lineage.certificate import Certificate
from ft_dagster.lineage.entry import PROMOTE, RELEASE, ROLLBACK, SCHEMA_VERSION, ReleaseEntry
from ft_dagster.lineage.log import ReleaseLog, adopt, append, folder_of, read_log, recalled_log
from ft_dagster.lineage.served import (
    production_in,
    released,
    rolled_back,
    rolled_back_weights,
    served_in,
    to_go_back_to,
    version_served,
    versions_in,
)
from ft_dagster.lineage.serving import APPROVED, Asks, Finding, of_log, refuse
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

    `approvers`: who alone may put a version into production; none: anyone. `platform`: those of them whom the
    policy names. `asks`: why a version may not be served, by a log and by all else; asked again for each log
    that an entry is to stand in.
    """

    reason: str
    by: str | None = None
    approvers: tuple[str, ...] = ()
    platform: tuple[str, ...] = ()
    asks: Asks = of_log

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

    With approvers it stays a candidate, as do weights that were rolled back in another format; what an
    approver has to decide on needs approvers. A payload that was served before goes into production again,
    unless it was rolled back or must be approved; else its standing entry is returned (see `promote`). Raises
    UserError where the candidate's parts do not all speak of the same weights and of the export's bytes, the
    verdict is no pass, or it may not be served.
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
    refuse(of_bytes(candidate))
    made = candidate.entry(variant, run_id)
    if made.doubt and not request.approvers:
        refuse(of_log([made], made))

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
            waits_for = ("rolled_back", *(APPROVED if request.approvers else ()))
            refuse(f for f in request.asks([*past, entry], entry) if f.rule not in waits_for)
            _same_versions(candidate.held_against, past)
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

    An approver may put the one in production there again, where it lacks what they may decide on. Raises
    UserError: nothing released, no such version, one that retention removed, who asks is not one of the
    approvers, or it may not be served and this person may not decide on it (see `serving`).
    """

    def decide(past: list[ReleaseEntry]) -> tuple[ReleaseEntry, bool]:
        chosen = released(past, version, prefix)
        found, forced = request.asks(past, chosen), force and bool(request.reason)
        stands = chosen.version == production_in(past) and not any(each.rule in APPROVED for each in found)
        if not stands:
            _refuse_others(request, chosen.version)
            _refuse_another_key(store, request)
        refuse(each for each in found if not _is_decided(each, request, forced=forced))
        if stands:
            return (past[-1] if past[-1].action == PROMOTE else chosen), False
        _keep_export(store, prefix, chosen)
        return chosen.then(PROMOTE, chosen.version, forced=force, accepted=_accepted(found)), True

    return _change(store, prefix, request, decide)


def rollback(
    store: Store,
    prefix: str,
    request: ReleaseRequest,
    version: int | None = None,
    *,
    force: bool = False,
    instead_of: int | None = None,
) -> ReleaseEntry:
    """Put what was in production before into production again (None: what was there last, of other weights).

    Nothing is deleted. It needs no approval, and no rule of the policy and no parent's rollback keeps it from
    a version that keeps the one in production from being served as well. `force`: an approver of the policy
    goes back to what today's policy does not allow. `instead_of`: the version that has to be in production by
    then. Raises UserError as `to_go_back_to`, for a version that retention removed, and for one that may not
    be served.
    """

    def decide(past: list[ReleaseEntry]) -> tuple[ReleaseEntry, bool]:
        _refuse_another(past, instead_of)
        target = released(past, to_go_back_to(past, prefix, version), prefix)
        found = request.asks(past, target)
        refuse(_kept_from(found, request, past, force=force))
        _keep_export(store, prefix, target)
        now, accepted = production_in(past), _accepted(found)
        entry = target.then(ROLLBACK, target.version, forced=force, from_version=now, accepted=accepted)
        return entry, True

    return _change(store, prefix, request, decide)


def take_out(
    store: Store, prefix: str, request: ReleaseRequest, *, version: int | None = None
) -> ReleaseEntry:
    """Take what is in production out of it, and serve nothing. It needs no approval, and nothing is deleted.

    `version`: the one that has to be in production by then. Raises UserError where another one is, or none.
    """

    def decide(past: list[ReleaseEntry]) -> tuple[ReleaseEntry, bool]:
        _refuse_another(past, version)
        now = version_served(past, prefix)
        return versions_in(past)[now].then(ROLLBACK, None, from_version=now), True

    return _change(store, prefix, request, decide)


def _refuse_another(past: Sequence[ReleaseEntry], version: int | None) -> None:
    """Raises UserError where a version is named, and another is in production by now."""
    if version is not None and (now := production_in(past)) != version:
        problem = f"another version than {version} is in production by now"
        raise UserError(problem, field="version", value=now, fix="Run it again")


def _kept_from(
    found: Sequence[Finding], request: ReleaseRequest, past: Sequence[ReleaseEntry], *, force: bool
) -> list[Finding]:
    """Return what keeps a rollback from a version, of all that was found against it: what would be worse than
    what is served, and who asks may not decide on.
    """
    served = served_in(past)
    now: Sequence[Finding] = ()
    with suppress(UserError):  # what is to be taken back may be damaged
        now = () if served is None else request.asks(past, served)
    as_bad = {each[:2] for each in now if each.rule in ("policy", "parent")}
    may = {
        "policy": force and request.user in request.platform,
        "parent": request.user in request.approvers,
        **dict.fromkeys(("verdict", "unmeasured", "approval"), True),
    }
    worse = [each for each in found if each[:2] not in as_bad and not may.get(each.rule, False)]
    who = " or ".join(request.platform) or "an approver whom policy.yaml names"
    forced = f"or have {who} go back to it by --force"
    return [each._replace(fix=f"{each.fix}, {forced}") if each.rule == "policy" else each for each in worse]


def _is_decided(finding: Finding, request: ReleaseRequest, *, forced: bool) -> bool:
    """Say whether who asks for a promotion decides by it on what was found; `forced`: with a reason. Who may
    approve at all is asked besides.
    """
    named = finding.rule == "approval" or bool(request.approvers)
    return {"parent": forced and named, "rolled_back": forced}.get(
        finding.rule, named and finding.rule in APPROVED
    )


def _accepted(found: Sequence[Finding]) -> tuple[str, ...]:
    """Return the rollbacks of parents in spite of which a version goes into production."""
    return tuple(each.what for each in found if each.rule == "parent")


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


def _refuse_others(request: ReleaseRequest, version: int) -> None:
    """Raises UserError where who asks is not one of those who put versions into production."""
    if request.approvers and request.user not in request.approvers:
        raise UserError(
            f"{request.user} may not approve version {version}",
            field="release.approvers",
            value=request.user,
            fix=f"Ask {' or '.join(request.approvers)}",
        )


def _refuse_another_key(store: Store, request: ReleaseRequest) -> None:
    """Raises UserError where approvals are signed, and the key of another person would sign this one."""
    trust = store.trust
    if trust is None or not trust.has_approvers or not request.approvers:
        return
    person = None if trust.signer is None else trust.signer.key.person
    if person != request.user:
        raise UserError(
            f"an approval by {request.user} is signed by the key of {request.user}",
            file=trust.file,
            field="signing_key",
            value=None if trust.signer is None else trust.signer.key.name,
            fix=f"Run it where `signing_key` is the approver's key of {request.user}",
        )


def _same_versions(then: Sequence[ReleaseEntry] | None, past: Sequence[ReleaseEntry]) -> None:
    """Raises UserError where another version is served than the one that a candidate was held against, or
    one more was released, so that this would be a later release after the reference.
    """
    now, newest = production_in(past), max(versions_in(past), default=0)
    if then is not None and production_in(then) != now:
        raise UserError(
            "another version went into production meanwhile: it was held against the one before",
            field="version",
            value=now,
            fix="Materialize release_evaluation and release again",
        )
    if then is not None and max(versions_in(then), default=0) != newest:
        raise UserError(
            "another version was released meanwhile: it was judged as the next after the one before",
            field="version",
            value=newest,
            fix="Materialize release_evaluation and release again",
        )


def of_bytes(candidate: ReleaseCandidate) -> Iterator[Finding]:
    """Yield where gate and certificate do not hold for exactly this export.

    Where the certificate fails by drift alone, the verdict on the export's own bytes stands in for it.
    """
    export, evaluation = candidate.export, candidate.evaluation
    certificate, verdict = candidate.certificate, candidate.verdict
    weights = export.inputs.get(FINE_TUNED_MODEL.name)
    same = (
        (
            "weights",
            "the export is of other weights than the evaluation judged",
            weights,
            evaluation.inputs.get(FINE_TUNED_MODEL.name),
        ),
        (
            EVALUATION.name,
            "the export was made for another evaluation",
            evaluation.digest,
            export.inputs.get(EVALUATION.name),
        ),
        (
            "gates",
            "the gates changed after the evaluation",
            candidate.gates,
            evaluation.inputs.get("gates"),
        ),
        ("certificate", "the certificate is of other weights", weights, certificate.judged),
        ("certificate", "the certificate is of another payload", export.digest, certificate.payload),
    )
    for what, problem, expected, found in same:
        if expected is None or expected != found:
            words = f"{problem}: {str(expected)[:12]} is expected"
            yield Finding("bytes", what, words, JUDGED_AGAIN, value=str(found)[:12])
    own = candidate.own_verdict
    judged_itself = certificate.drifted and own is not None and own.passed
    if not certificate.passed and not judged_itself:
        words = f"the certificate of the export does not hold: {'; '.join(certificate.failures)}"
        fix = "Materialize model_export again, in another format where it fails again"
        yield Finding("bytes", "certificate", words, fix)
    if not verdict.passed:
        why = "; ".join(rule.sentence for rule in verdict.broken) or "no rule was judged"
        words = f"the gate does not hold for weights {str(weights)[:12]}: {why}"
        fix = "Train again with other data or settings, or change the gates and evaluate again"
        yield Finding("bytes", "verdict", words, fix)


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
