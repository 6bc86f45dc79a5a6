"""Decides whether a version may be served today: the one answer for release, promotion, rollback, publishing,
catalogue, registry, status and reports.

What it says are findings (`lineage.serving`): other bytes than were judged and certified, what today's policy
does not allow, a record whose erasure was asked for, a release that it was made on and that was rolled back,
its own log, and who approved it. Who
serves a version hashes its bytes first (`export_of`); here manifests and the certificate are read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from pydantic import ValidationError

from ft_dagster.errors import UserError
from ft_dagster.gate.samples import OWN
from ft_dagster.lineage.certificate import Certificate
from ft_dagster.lineage.entry import ReleaseEntry
from ft_dagster.lineage.erasures import read_erasures, states
from ft_dagster.lineage.frozen import frozen_declarations
from ft_dagster.lineage.graph import released_evaluation, released_export
from ft_dagster.lineage.release import ReleaseCandidate, ReleaseRequest, history, of_bytes
from ft_dagster.lineage.served import production_in, released, served_in
from ft_dagster.lineage.serving import Finding, Standing, accepted, of_log, refuse
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.models.derived import named_source, rolled_back_beneath
from ft_dagster.settings import Settings
from ft_dagster.spec import Declarations, VariantKey, VariantSpec
from ft_dagster.spec.policy import POLICY_FILE, Checks, Policies, breaches_of_version
from ft_dagster.spec.variant import EvaluationSpec, GatesSpec
from ft_dagster.stage_entries import (
    BASE_MODEL,
    EVALUATION,
    FINE_TUNED_MODEL,
    TASK_DATASET,
    TRAINING_MIXTURE,
    TRAINING_PLAN,
)
from ft_dagster.stages.ancestry import RULE, unsearched_version
from ft_dagster.stages.judging.export_lineage import PARTS, artifacts_of
from ft_dagster.store import Artifact, Store
from ft_dagster.strict_json import loads
from ft_dagster.training.contract import PLAN_FILE
from ft_dagster.workspace.policy import own_files, task_names

JUDGED_BY = (TASK_DATASET.name, TRAINING_MIXTURE.name, EVALUATION.name)  # whose keys say what a policy asks
LEARNS = (FINE_TUNED_MODEL.name, TRAINING_MIXTURE.name)  # by which a version learned a record
OTHER = "Serve another version"
RESTORE = "Restore it from a backup, or run the variant again"
CERTIFICATE = "evidence/certificate.json"
OWN_ANSWERS = f"evidence/{OWN}/payload/"  # of an export that was evaluated by itself
BY_LOG = Verdict(True, "pass", ())  # nothing enters a log by another


@dataclass(frozen=True)
class Today:
    """Holds what the versions of a variant are held against. `spec`: its declaration, None where that is
    invalid or gone.
    """

    settings: Settings
    key: VariantKey
    store: Store
    policies: Policies
    spec: VariantSpec | None

    @classmethod
    def of(
        cls,
        settings: Settings,
        key: VariantKey,
        declarations: Declarations | None = None,
        policies: Policies | None = None,
    ) -> Today:
        """Read what is not given as it is now. Raises UserError for a policy that cannot be read."""
        spec, declared = None, declarations or Declarations(settings.project)
        with suppress(UserError):
            spec = declared.declared(key).spec
        return cls(settings, key, settings.open_store(), policies or settings.policies(), spec)

    @property
    def approvers(self) -> tuple[str, ...]:
        """Return who may approve a version; the policy's where the declaration is invalid or gone."""
        policy = self.policies.of(self.key.tenant)
        return policy.approvers if self.spec is None else policy.approvers_of(self.spec)

    @property
    def refuses(self) -> bool:
        """Say whether the policy withholds a version in production that may no longer be served."""
        return self.policies.of(self.key.tenant).serving == "refuse"


@dataclass(frozen=True)
class Version:
    """Describes the version to serve. `name`: in errors. `spec`: the declaration that it was judged by, None
    where that is gone; `made_of`: its artifacts, by stage; `format`: of its export; `entry`: its release in
    `past`, the log, None where it is in none yet.
    """

    name: str
    spec: VariantSpec | None
    made_of: Mapping[str, Artifact]
    format: str
    entry: ReleaseEntry | None = None
    past: Sequence[ReleaseEntry] = ()

    def artifact(self, stage: str) -> Artifact:
        """Raises UserError where it is gone."""
        if stage not in self.made_of:
            raise UserError(f"the {stage} of {self.name} is gone", fix=RESTORE)
        return self.made_of[stage]


def may_serve(version: Version, today: Today) -> tuple[Finding, ...]:
    """Return all that keeps a version from being served today, by any rule; nothing where it may be. What
    nobody may decide on comes first.
    """
    entry = version.entry
    made = (*_of_policy(version, today), *_of_erasures(version, today), *_of_parents(version, today))
    if entry is None:
        return made
    return (*_of_bytes(today.store, entry), *made, *of_log(version.past, entry, today.approvers))


def findings_in(today: Today, past: Sequence[ReleaseEntry], entry: ReleaseEntry) -> tuple[Finding, ...]:
    """Return what keeps a version of a log from being served today."""
    return may_serve(version_in(today, past, entry), today)


def in_production(today: Today) -> Standing | None:
    """Return the version in production that may no longer be served; None where it may be, or none is there.
    Raises UserError for a log that does not hold.
    """
    return unserved_in(today, history(today.store, today.key.prefix))


def unserved_in(today: Today, past: Sequence[ReleaseEntry]) -> Standing | None:
    """Return the same by a log that was read."""
    entry = served_in(past)
    found = () if entry is None else findings_in(today, past, entry)
    return Standing(str(today.key), entry.version, found, today.refuses) if entry and found else None


def unserved_of(settings: Settings) -> Callable[[VariantKey], Standing | None]:
    """Return a function that says of a variant what `in_production` does; policies and declarations are read
    once for all, when it is called first.
    """
    declarations, policies = Declarations(settings.project), cache(settings.policies)
    return lambda key: in_production(Today.of(settings, key, declarations, policies()))


def refuse_unserved(settings: Settings, key: VariantKey, version: int | None) -> int | None:
    """Return the version to publish (None: the one in production, None where none is). Raises UserError for
    one that may not be served today, the one in production too.
    """
    today = Today.of(settings, key)
    past = history(today.store, key.prefix)
    entry = served_in(past) if version is None else released(past, version, key.prefix)
    if entry is None:
        return None
    refuse(findings_in(today, past, entry))
    return entry.version


def asked_today(settings: Settings, key: VariantKey, reason: str, by: str | None) -> ReleaseRequest:
    """Return a request that asks of each version what keeps it from being served by then: policy, declaration
    and the logs beneath are read anew for each log that an entry is to stand in.
    """
    today = Today.of(settings, key)

    def asks(past: Sequence[ReleaseEntry], entry: ReleaseEntry) -> Sequence[Finding]:
        return findings_in(Today.of(settings, key), past, entry)

    return ReleaseRequest(reason, by, today.approvers, today.policies.of(key.tenant).approvers, asks)


def version_in(today: Today, past: Sequence[ReleaseEntry], entry: ReleaseEntry) -> Version:
    """Return a version of a log, with what it was made of as far as that is there."""
    entry = released(past, entry.version, today.key.prefix)  # of a promotion: the release that it is of
    store, prefix, made = today.store, today.key.prefix, dict[str, Artifact]()
    export = released_export(store, prefix, entry)
    if export is not None:
        made = artifacts_of(store, prefix, export, entry)
    spec, name = _judged_by(store, today.key, made), f"version {entry.version} of {today.key}"
    return Version(name, spec, made, entry.format, entry, past)


def _of_bytes(store: Store, entry: ReleaseEntry) -> Iterator[Finding]:
    """Yield where export, evaluation, verdict and certificate of a release do not speak of the same bytes."""
    prefix, version = f"tenants/{entry.variant.replace('.', '/')}", f"version {entry.version}"
    export, judged = released_export(store, prefix, entry), released_evaluation(store, prefix, entry)
    if export is None:
        yield Finding("bytes", "export", f"the export of {version} is not in the store", RESTORE)
        return
    verdict = None if judged is None else _verdict_of(judged, entry)
    if judged is None or verdict is None:
        words = f"the evaluation that {version} was released by is not in the store, or cannot be read"
        yield Finding("verdict", EVALUATION.name, words, RESTORE)
        return
    try:
        certificate = Certificate.from_json(loads(export.read(store, CERTIFICATE)), file=CERTIFICATE)
    except (UserError, ValueError) as error:
        words = error.problem if isinstance(error, UserError) else "not the certificate of an export"
        yield Finding("bytes", "certificate", f"the certificate of {version}: {words}", RESTORE)
        return
    gates, own = judged.inputs.get("gates", ""), None
    if any(name.startswith(OWN_ANSWERS) for name in export.files):
        own = BY_LOG
    yield from of_bytes(ReleaseCandidate(export, judged, verdict, gates, certificate, own))


def _verdict_of(judged: Artifact, entry: ReleaseEntry) -> Verdict | None:
    """Return the verdict by which a version was released; None where it cannot be read. An evaluation of
    equal bytes that was judged by other gates says nothing of it.
    """
    said = judged.figures.get("verdict")
    if said is None or judged.inputs.get("gates") != entry.gates:
        return BY_LOG
    try:
        return Verdict.from_json(said)
    except (UserError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _of_policy(version: Version, today: Today) -> Iterator[Finding]:
    """Yield what today's policy does not allow of how a version was judged and made."""
    policies, tenant = today.policies, today.key.tenant
    policy = policies.of(tenant)
    try:
        spec, checks = _as_made(version, today)
        unsearched = _unsearched(version, today)
    except UserError as error:
        words = f"{version.name} cannot be held against today's policy: {error.problem}"
        yield Finding("policy", "unknown", words, error.fix)
        return
    for breach in breaches_of_version(policy, spec, checks):
        yield Finding(
            "policy",
            breach.rule,
            f"{version.name} is not as the policy demands: {breach.allowed} "
            f"({policies.set_by(tenant, breach.rule)})",
            f"{OTHER}, or let the platform set {breach.rule} in {POLICY_FILE}",
            breach.field,
            "nothing" if breach.value is None else breach.value,
        )
    if unsearched:
        fix = f"{OTHER}, or let the platform set {RULE} to optional in {POLICY_FILE}"
        yield Finding("policy", RULE, f"{version.name} is {unsearched}", fix, "base_model.variant")


def _unsearched(version: Version, today: Today) -> str:
    """Say what of its ancestors' training was not looked through, where today's policy demands that. Raises
    UserError where it demands it and what says so is gone.
    """
    policies, tenant = today.policies, today.key.tenant
    if policies.of(tenant).evaluation.ancestors != "searched":
        return ""
    base, judged = version.artifact(BASE_MODEL.name), version.artifact(EVALUATION.name)
    return unsearched_version(policies, tenant, base, judged)


def _as_made(version: Version, today: Today) -> tuple[VariantSpec, Checks]:
    """Return the declaration by which a version was judged, with the method, base and format of which it was
    made, and what its tasks are called. Raises UserError where a policy asks for what is gone.
    """
    settings, store, tenant, spec = today.settings, today.store, today.key.tenant, version.spec
    policy = today.policies.of(tenant)
    if spec is None:
        raise UserError(
            "no declaration of it is in the store, so that it is not known how it was judged", fix=RESTORE
        )
    changes: dict[str, Any] = {"export": spec.export.model_copy(update={"format": version.format})}
    if policy.methods:
        name = str(_plan(store, version)["method"]["name"])
        changes["method"] = spec.method.model_copy(update={"name": name})
    if policy.training.watch_questions is not None:
        asked = _plan(store, version)["training"]["watch"]["questions"]
        watch = spec.training.watch.model_copy(update={"questions": asked})
        changes["training"] = spec.training.model_copy(update={"watch": watch})
    if policy.bases:
        source = named_source(store, version.artifact(BASE_MODEL.name))
        changes["base_model"] = spec.base_model.model_copy(update={"source": source})
    spec = spec.model_copy(update=changes)
    names = task_names(settings, tenant, policy, spec, lambda field: settings.project / POLICY_FILE)
    return spec, Checks(names, own_files(settings.roots(tenant), spec))


def _of_erasures(version: Version, today: Today) -> Iterator[Finding]:
    """Yield the requests that have a version in quarantine."""
    try:
        asked = states(read_erasures(today.store, today.key.tenant))
    except UserError as error:
        words = f"whether an erasure has {version.name} in quarantine is not known: {error.problem}"
        yield Finding("erasure", "unknown", words, error.fix or RESTORE)
        return
    digests = {version.made_of[stage].digest for stage in LEARNS if stage in version.made_of}
    served, entry = production_in(version.past), version.entry
    weights = "" if entry is None else entry.weights
    now = weights if entry is not None and entry.version == served else ""
    for state in asked:
        if state.quarantines({*digests, weights}, datetime.now(UTC).date(), served=now):
            request = state.asked
            words = f"{version.name} learned from a record whose erasure was asked for on {request.at[:10]}"
            words += f" (request {request.request}, due {request.due})"
            fix = f"`ft-dagster run {today.key}` without the record in its sources; serve that"
            yield Finding("erasure", request.request, words, fix)


def _of_parents(version: Version, today: Today) -> Iterator[Finding]:
    """Yield the releases that a version was made on and that were rolled back, unless an approver of today
    put it into production all the same.
    """
    fix = (
        f"`ft-dagster run {today.key}` trains it on what is served now; or an approver named in "
        f"release.approvers or {POLICY_FILE} serves it by --force with a --reason"
    )
    try:
        back = list(rolled_back_beneath(today.store, version.artifact(BASE_MODEL.name)))
    except UserError as error:
        words = f"whether a release beneath {version.name} was rolled back is not known: {error.problem}"
        back, unknown = [], Finding("parent", "unknown", words, error.fix)
        if "unknown" not in _accepted(version, today):
            yield unknown
    for each in back:
        if each.mark not in _accepted(version, today):
            yield Finding("parent", each.mark, f"{each.words}: {each.why}", fix)


def _accepted(version: Version, today: Today) -> set[str]:
    return set() if version.entry is None else accepted(version.past, version.entry, today.approvers)


def _judged_by(store: Store, key: VariantKey, made: Mapping[str, Artifact]) -> VariantSpec | None:
    """Return the declaration that a version was judged by: what the keys of its rows and its evaluation say,
    and for the rest what was frozen last; None where none can be read.
    """
    told: dict[str, Any] = {}
    for artifact in (made[stage] for stage in JUDGED_BY if stage in made):
        for part in PARTS:
            for name, value in (artifact.spec.get(part) or {}).items():
                told[name] = {**told.get(name, {}), **value} if isinstance(value, dict) else value
    for content in frozen_declarations(store, key.prefix):
        try:
            return VariantSpec.model_validate(_said(content["spec"], told))
        except ValidationError:
            continue  # of another time
    return None


def _said(declared: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """Return a declaration with the values that keys record of how a version was judged in place of its own.
    Keys leave out a later field at its default.
    """
    content = {**declared, "data": {**declared["data"], **told.get("data", {})}}
    content["objective"] = told.get("objective", declared["objective"])
    for name, kind in (("gates", GatesSpec), ("evaluation", EvaluationSpec)):
        if name in told:
            first = {field: value for field, value in declared[name].items() if field not in kind.added}
            content[name] = {**first, **told[name]}
    return content


def _plan(store: Store, version: Version) -> dict[str, Any]:
    """Return what the weights were trained by."""
    plan = version.artifact(TRAINING_PLAN.name)
    content: dict[str, Any] = json.loads(plan.read(store, f"payload/{PLAN_FILE}"))
    return content
