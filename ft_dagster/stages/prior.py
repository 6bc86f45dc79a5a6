"""What a probe of another variant found, for a variant that leaves method or rate open and tries nothing.

Of the same base, objective and kind of answer, and of the same tenant unless the policy lets both tell their
figures (`share_probes`). Taken once for a mixture: what stands under the key is
kept, and where a plan of the mixture stands without any, it stays so. No plan is made anew because another
variant tried.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.lineage.ancestors import find_digest
from ft_dagster.planning.prior import Prior, leaves_method_open
from ft_dagster.planning.probe import FILE as FOUND
from ft_dagster.planning.probe import span_of_rates
from ft_dagster.planning.shapes import dimensions
from ft_dagster.planning.survey import same_family
from ft_dagster.planning.trials import ProbeResult
from ft_dagster.provenance.stage_versions import STAGE_VERSIONS
from ft_dagster.spec import Declarations, VariantKey, VariantSpec
from ft_dagster.spec.narrow import narrowed
from ft_dagster.spec.policy import load_policies
from ft_dagster.stages.hands import Hands
from ft_dagster.stages.inputs import key_parts, recorded
from ft_dagster.stages.stage import Stage
from ft_dagster.stages.view import View
from ft_dagster.stages.workspace import Desk, Workspace
from ft_dagster.store import Artifact, Attempt, Place, find_artifact, read_head
from ft_dagster.store.committed import all_committed

FILE, NAME, PLAN, PROBE = "prior.json", "prior", "training_plan", "probe"
UNNAMED = "a variant of another tenant"  # which is not named
KEYED = ("objective", "method.name", "evaluation.kind")


@dataclass(frozen=True)
class PriorInputs:
    spec: VariantSpec
    training_mixture: Artifact
    base_model: Artifact
    found: Prior | None = recorded(default=None)


def inputs(view: View) -> PriorInputs:
    base, mixture = view.upstream("base_model"), view.upstream("training_mixture")
    return PriorInputs(narrowed(view.spec, KEYED), mixture, base, prior_of(view, view.spec, base))


def build(inputs: PriorInputs, hands: Hands, attempt: Attempt) -> dict[str, Any]:
    if inputs.found is None:
        raise UserError("the probe that the plan goes by is gone", fix="Run it again")
    content = inputs.found.to_json()
    (attempt.payload / FILE).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", "utf-8")
    return content


def taken(view: View) -> Artifact | None:
    """What was taken for this mixture, or is to be now; None where there is nothing."""
    base, mixture = view.upstream("base_model"), view.upstream("training_mixture")
    stands = standing(view, view.spec, mixture, base)
    return stands or (view.made(STAGE) if to_be_taken(view, view.spec, mixture, base) else None)


def standing(desk: Desk, spec: VariantSpec, mixture: Artifact, base: Artifact) -> Artifact | None:
    """What was taken for a mixture."""
    parts = key_parts(PriorInputs(narrowed(spec, KEYED), mixture, base))
    return find_artifact(desk.store, Place(desk.key.prefix, NAME, parts.key(NAME, STAGE_VERSIONS[NAME])))


def to_be_taken(desk: Desk, spec: VariantSpec, mixture: Artifact, base: Artifact) -> Prior | None:
    """What is there to be taken now; None where a plan of the mixture stands, made without."""
    newest = read_head(desk.store, desk.key.prefix, PLAN)
    if newest is not None and is_without(newest, spec, mixture.digest, base.digest):
        return None
    found = prior_of(desk, spec, base)
    return None if found is None or _is_planned(desk, spec, mixture, base) else found


def read_prior(hands: Hands | Workspace, artifact: Artifact | None) -> Prior | None:
    """What was taken; None where nothing was."""
    if artifact is None:
        return None
    file = hands.payload(artifact) / FILE
    return Prior.from_json(json.loads(file.read_text("utf-8")), file=file)


def prior_of(desk: Desk, spec: VariantSpec, base: Artifact) -> Prior | None:
    """What the newest probe found, of those by which the newest plans of other variants were made, the
    tenant's own before others'; of two of one second the first by name. One that tried nothing which may be
    open here is passed over.
    """
    tenant = desk.key.tenant
    newest = sorted(_probes(desk, spec, base), key=lambda each: _age(each, tenant), reverse=True)
    for key, probe in newest:
        theirs = key.tenant != tenant
        with suppress(*_away(theirs)):
            prior = _found_by(desk, probe, None if theirs else str(key), base)
            by_method = prior.method_tried and leaves_method_open(spec)
            if by_method or prior.learning_rate is not None:
                return prior
    return None


def _age(found: tuple[VariantKey, Artifact], tenant: str) -> tuple[bool, str]:
    key, probe = found
    return key.tenant == tenant, str(probe.predicate["created"])


def _away(theirs: bool) -> tuple[type[Exception], ...]:
    """Errors of a variant that are said to who asks for that one."""
    return (UserError, PermissionError) if theirs else (UserError,)


def _probes(desk: Desk, spec: VariantSpec, base: Artifact) -> Iterator[tuple[VariantKey, Artifact]]:
    """Of variants that declare a probe and answers of the same kind: what is best for labels is not for SQL.
    One whose declaration or part of the store is damaged has none, nor has another tenant's that this one may
    not read, or whose method it may not train. By their manifests alone.
    """
    declarations, policies = Declarations(desk.project), cache(load_policies(desk.project).of)
    own = policies(desk.key.tenant)
    for key in declarations:
        theirs = key.tenant != desk.key.tenant
        shared = own.share_probes == policies(key.tenant).share_probes == "platform"
        if key == desk.key or (theirs and not shared):
            continue
        with suppress(*_away(theirs)):
            other = declarations.declared(key).spec
            if other.plan.probe is None or other.evaluation.kind != spec.evaluation.kind:
                continue
            plan = read_head(desk.store, key.prefix, PLAN)
            digest = None if plan is None else plan.inputs.get(PROBE)
            found = None if digest is None else find_digest(desk.store, (key.prefix,), PROBE, digest)
            if found is None or not _is_about(found, spec, base):
                continue
            if not (theirs and own.methods) or found.figures["method"] in own.methods:
                yield key, found


def _found_by(desk: Desk, probe: Artifact, variant: str | None, base: Artifact) -> Prior:
    """By its arms, whatever was declared: what is the same in all of them was not found. The rate that
    another tenant found (`variant`: None) is held to what a probe may try.
    """
    file = desk.payload(probe) / FOUND
    result = ProbeResult.from_json(json.loads(file.read_text("utf-8")), file=file)
    arms = [each for tried in result.rounds for each in tried]
    method, rate = str(result.method), result.learning_rate
    if len({arm.learning_rate for arm in arms if arm.method == method}) < 2:
        rate = None
    if variant is None and rate is not None:
        width = dimensions(desk.base_folder(base)).hidden_size
        low, high = span_of_rates(method, width, probe.spec["spec"]["objective"])
        rate = min(max(rate, low), high)
    several, digest = len({arm.method for arm in arms}) > 1, "" if variant is None else probe.digest
    return Prior(variant or UNNAMED, digest, method, rate, result.sentence, several)


def _is_about(probe: Artifact, spec: VariantSpec, base: Artifact) -> bool:
    """Whether it found something on this base for this objective, and for a method that may be taken."""
    same = probe.inputs.get("base_model") == base.digest and probe.spec["spec"]["objective"] == spec.objective
    method = probe.figures["method"]
    taken = spec.method.name == "auto" or (method is not None and same_family(spec.method.name, method))
    return same and method is not None and taken


def _is_planned(desk: Desk, spec: VariantSpec, mixture: Artifact, base: Artifact) -> bool:
    """Whether the variant has a plan that was made without."""
    folder = f"{desk.key.prefix}/{PLAN}"
    places = [Place(desk.key.prefix, PLAN, key) for key in desk.store.names(folder)]
    plans = (each for each in all_committed(desk.store, places) if isinstance(each, Artifact))
    return any(is_without(plan, spec, mixture.digest, base.digest) for plan in plans)


def is_without(plan: Artifact, spec: VariantSpec, mixture: str, base: str) -> bool:
    """Whether a plan is of what the key of a prior has, left something open, and was made without any."""
    made_of, declared = plan.inputs, plan.spec.get("spec", plan.spec)  # 0.1 had no parts
    same_data = (made_of.get("training_mixture"), made_of.get("base_model")) == (mixture, base)
    if not same_data or {NAME, PROBE} & made_of.keys():
        return False
    then = declared["objective"], declared["method"]["name"]
    was_open = then[1] == "auto" or declared["training"].get("learning_rate") is None
    return was_open and then == (spec.objective, spec.method.name)


STAGE = Stage(
    NAME,
    reads=("declaration", "base_model", "training_mixture"),
    fields=(*KEYED, "method"),
    inputs=inputs,
    build=build,
    on_demand=True,
)
