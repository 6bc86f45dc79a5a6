"""Decides whether a version may be served today: the one answer for release, promotion, rollback and
publishing.

It asks today's policy how the version was judged and made, and the logs of the releases that it starts from
whether one was rolled back. That export, evaluation, verdict and certificate speak of the same bytes is asked
when a version is written (`lineage.release.check_bytes`), and who serves it hashes them again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from ft_dagster.errors import UserError, UserErrors
from ft_dagster.lineage.release import export_of, history
from ft_dagster.lineage.served import aliases, refuse_rolled_back, released
from ft_dagster.models.derived import named_source, rolled_back_beneath
from ft_dagster.settings import Settings
from ft_dagster.spec import VariantKey, VariantSpec
from ft_dagster.spec.policy import POLICY_FILE, Checks, breaches_of_version
from ft_dagster.spec.variant import EvaluationSpec, GatesSpec
from ft_dagster.stage_entries import BASE_MODEL, EVALUATION, TASK_DATASET, TRAINING_MIXTURE, TRAINING_PLAN
from ft_dagster.stages.judging.export_lineage import PARTS, artifacts_of, frozen_declarations
from ft_dagster.store import Artifact, Store
from ft_dagster.training.contract import PLAN_FILE
from ft_dagster.workspace.policy import own_files, task_names

JUDGED_BY = (TASK_DATASET.name, TRAINING_MIXTURE.name, EVALUATION.name)  # whose keys say what a policy asks
OTHER = "Serve another version"


@dataclass(frozen=True)
class Version:
    """Describes the version to serve. `name`: in errors. `spec`: the declaration that it was judged by;
    `made_of`: its artifacts, by stage; `format`: of its export.
    """

    name: str
    spec: VariantSpec
    made_of: Mapping[str, Artifact]
    format: str

    def artifact(self, stage: str) -> Artifact:
        """Raises UserError where it is gone."""
        if stage not in self.made_of:
            gone = f"the {stage} of {self.name} is gone: today's policy cannot be asked"
            raise UserError(gone, fix="Restore it from a backup, or run the variant again")
        return self.made_of[stage]


def may_serve(settings: Settings, key: VariantKey, version: Version) -> str | None:
    """Return why a named approver has to decide on a version; None where nobody has to. Raises UserError for
    all that today's policy does not let be served of it.
    """
    store, policies = settings.open_store(key.tenant), settings.policies()
    policy, spec, base = policies.of(key.tenant), version.spec, version.artifact(BASE_MODEL.name)
    changes: dict[str, Any] = {"export": spec.export.model_copy(update={"format": version.format})}
    if policy.methods:
        name = str(_plan(settings, store, version)["method"]["name"])
        changes["method"] = spec.method.model_copy(update={"name": name})
    if policy.training.watch_questions is not None:
        asked = _plan(settings, store, version)["training"]["watch"]["questions"]
        watch = spec.training.watch.model_copy(update={"questions": asked})
        changes["training"] = spec.training.model_copy(update={"watch": watch})
    if policy.bases:
        source = named_source(store, base)
        changes["base_model"] = spec.base_model.model_copy(update={"source": source})
    spec = spec.model_copy(update=changes)
    checks = Checks(
        task_names(settings, key.tenant, policy, spec, lambda field: settings.project / POLICY_FILE),
        own_files(settings.roots(key.tenant), spec),
    )
    found = [
        UserError(
            f"{version.name} is not as the policy demands: {breach.allowed} "
            f"({policies.set_by(key.tenant, breach.rule)})",
            field=breach.field,
            value="nothing" if breach.value is None else breach.value,
            fix=f"{OTHER}, or let the platform set {breach.rule} in {POLICY_FILE}",
        )
        for breach in breaches_of_version(policy, spec, checks)
    ]
    if found:
        raise UserErrors.of(found)
    back = next(rolled_back_beneath(store, base), None)
    return None if back is None else f"{back.words}: {back.why}"


def version_in(settings: Settings, key: VariantKey, version: int | None) -> Version:
    """Return a version of the release log (None: the newest), the bytes of its export hashed again. Raises
    UserError for another one, and where what it was made of is gone.
    """
    store = settings.open_store(key.tenant)
    entry = released(history(store, key.prefix), version, key.prefix)
    export = export_of(store, key.prefix, entry.version, settings.cache_folder)
    made, name = artifacts_of(store, key.prefix, export, entry), f"version {entry.version} of {key}"
    return Version(name, _judged_by(store, key, made), made, entry.format)


def refuse_unserved(settings: Settings, key: VariantKey, version: int | None) -> int | None:
    """Return the version to publish (None: the one in production, None where none is). Raises UserError for
    one that may not be served: by today's policy, as it was rolled back, or where an approver would have to
    decide.
    """
    past = history(settings.open_store(key.tenant), key.prefix)
    serving = aliases(past)["production"]
    version = serving if version is None else version
    if version is None:
        return None
    doubt = may_serve(settings, key, version_in(settings, key, version))
    refuse_rolled_back(past, version)
    if doubt and version != serving:
        fix = f"{OTHER}, or have an approver put it into production first"
        raise UserError(doubt, field="version", value=version, fix=fix)
    return version


def _judged_by(store: Store, key: VariantKey, made: Mapping[str, Artifact]) -> VariantSpec:
    """Return the declaration that a version was judged by: what the keys of its rows and its evaluation say,
    and for the rest what was frozen last.
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
    gone = "how it was judged is gone: no declaration of it is in the store"
    raise UserError(gone, value=str(key), fix="Restore it from a backup, or run the variant again")


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


def _plan(settings: Settings, store: Store, version: Version) -> dict[str, Any]:
    """Return what the weights were trained by."""
    folder = version.artifact(TRAINING_PLAN.name).folder(store, settings.cache_folder)
    content: dict[str, Any] = json.loads((folder / "payload" / PLAN_FILE).read_text("utf-8"))
    return content
