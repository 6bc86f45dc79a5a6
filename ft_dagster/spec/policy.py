"""Defines what a platform allows its tenants, as declared in policy.yaml: floors that no declaration can pass
below.

Without the file, and for what it leaves out, the built-in floors hold. `per_tenant` gives a tenant others,
stricter or laxer: the file is the platform's.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from ft_dagster.errors import UserError
from ft_dagster.provenance.digest import sha256_json
from ft_dagster.spec.data import DecontaminateSpec
from ft_dagster.spec.defaults import merge
from ft_dagster.spec.keys import HALF
from ft_dagster.spec.method import MethodName
from ft_dagster.spec.model import SpecModel
from ft_dagster.spec.narrow import shown
from ft_dagster.spec.reference import LEAST, Margin, ReferenceFloors, beyond_reference
from ft_dagster.spec.validation import validate
from ft_dagster.spec.variant import EvaluationSpec, GatesSpec, MembershipAuc, VariantSpec
from ft_dagster.spec.yaml_files import FIELDS, read_yaml

POLICY_FILE = "policy.yaml"
SEE_SCHEMA = "See `ft-dagster schema --policy` for what the field takes"
Share = Annotated[float, Field(ge=0.0, le=1.0)]
MARGINS = (
    *("task_margin", "general_margin", "general_loss_margin"),
    *("regression_margin", "regression_loss_margin", "degeneration_margin", "loss_tail"),
)
# What is declared unless said is the laxest that a floor lets pass.
PROBED_ROWS: int = EvaluationSpec.model_fields["probed_rows"].default
NGRAM: int = DecontaminateSpec.model_fields["ngram"].default


class GateFloors(ReferenceFloors):
    """Sets the laxest values that the gates of a declaration may have."""

    added = (
        *("least_alpha", "loss_tail", "loss_bound", "refusals", "refusals_margin", "refusal_phrases"),
        *("max_membership_auc", *ReferenceFloors.model_fields),
    )

    alpha: Annotated[float, Field(ge=LEAST, lt=0.5)] = Field(0.1, description="Largest gates.alpha")
    least_alpha: Annotated[float, Field(ge=LEAST, lt=0.5)] = Field(
        GatesSpec.model_fields["alpha"].default,
        description="Least gates.alpha where gates.undecided is measured, since harm is tested at it; above "
        "this file's gates.alpha it counts as that",
    )
    task_margin: Share = Field(0.1, description="Largest gates.task_margin")
    general_margin: Margin = Field(0.15, description="Largest gates.general_margin")
    general_loss_margin: Margin = Field(0.3, description="Largest gates.general_loss_margin")
    regression_margin: Margin = Field(0.15, description="Largest gates.regression_margin")
    regression_loss_margin: Margin = Field(0.3, description="Largest gates.regression_loss_margin")
    loss_tail: Margin = Field(0.1, description="Largest gates.loss_tail")
    loss_bound: float = Field(2.0, ge=2.0, le=100.0, description="Least gates.loss_bound")
    regression: Literal["required", "optional"] = Field(
        "required",
        description="optional: gates.regression_margin and gates.reference may be null, which compares no "
        "versions",
    )
    degeneration_margin: Margin = Field(0.3, description="Largest gates.degeneration_margin")
    degeneration: Literal["required", "optional"] = Field(
        "required", description="optional: gates.degeneration_margin may be null, which judges no repetition"
    )
    max_regurgitation: Share | None = Field(
        None, description="Largest gates.max_regurgitation, which must then be declared; null: none needed"
    )
    max_membership_auc: MembershipAuc | None = Field(
        None, description="Largest gates.max_membership_auc, which must then be declared; null: none needed"
    )
    undecided: Literal["fail", "measured"] = Field(
        "fail", description="measured: gates.undecided may be measured, so that too few questions can pass"
    )
    refusals: Literal["required", "optional"] = Field(
        "optional",
        description="required: gates.refusals must be declared, with prompts that the tenant cannot write, "
        "and a base that refuses too little to be judged does not pass",
    )
    refusals_margin: Margin = Field(
        0.15, description="Largest gates.refusals.margin, and gates.refusals.over_margin"
    )
    refusal_phrases: tuple[Annotated[str, Field(min_length=2, max_length=200)], ...] = Field(
        (), description="Phrases at the start of an answer by which it is a refusal, beside the English ones"
    )


class DataFloors(SpecModel):
    """Sets what a declaration must train on besides its own rows."""

    general_share: Annotated[float, Field(gt=0.0, le=0.5)] | None = Field(
        None, description="Least data.general.share, which must then be declared; null: none needed"
    )


class TrainingFloors(SpecModel):
    """Sets what must be measured while a model trains."""

    watch_questions: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="Least training.watch.questions, with a benchmark in evaluation.general that is in no "
        "folder of the tenant's; null: none needed",
    )


class EvaluationFloors(SpecModel):
    """Sets the least that a declaration may ask."""

    added = ("coverage", "ancestors")

    questions: int = Field(50, ge=1, le=1_000_000, description="Least evaluation.limit")
    general: Literal["any", "none"] | tuple[str, ...] = Field(
        "any",
        description="Entries that evaluation.general must name, judged by their main metric; any: one "
        "benchmark at least that is in no folder of the tenant's, or held-out general text (data.general); "
        "none: nothing general need be asked",
    )
    decontaminate: Literal["required", "optional"] = Field(
        "required",
        description="optional: rows that hold the questions may be trained on (data.decontaminate)",
    )
    coverage: float | None = Field(
        None,
        ge=0.3,
        le=1.0,
        description="Largest data.decontaminate.coverage, which must then be declared; null: none needed",
    )
    ancestors: Literal["searched", "optional"] = Field(
        "optional",
        description="searched: nothing is asked of a variant that starts from a release, unless the rows of "
        "all its ancestors could be looked through for the questions, near copies among them",
    )


class Policy(SpecModel):
    """Says what one tenant may declare. An empty list of methods, bases or exports: all."""

    gone: ClassVar[Mapping[str, str]] = {
        "share_probes": "Remove the line: what a probe found is taken for no other variant any more"
    }

    added = ("data", "training", "serving")

    gates: GateFloors = GateFloors()
    evaluation: EvaluationFloors = EvaluationFloors()
    data: DataFloors = DataFloors()
    training: TrainingFloors = TrainingFloors()
    methods: tuple[MethodName, ...] = Field((), description="Methods that may be trained")
    bases: tuple[str, ...] = Field(
        (), description="Patterns that base_model.source must match, a parent's too"
    )
    exports: tuple[Literal["adapter", "merged"], ...] = Field((), description="Formats to export")
    budget_usd: float | None = Field(
        None,
        gt=0,
        le=1e9,
        description="Largest resources.budget_usd, which must then be declared, and cost of a plan with its "
        "probe",
    )
    approvers: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), description="Who alone may put a version into production; release.approvers names some of them"
    )
    serving: Literal["warn", "refuse"] = Field(
        "warn",
        description="What becomes of a version in production that may no longer be served; warn: it is "
        "named; refuse: catalogue, registry and a run of release refuse it besides. Nothing is taken down",
    )

    @property
    def least_probed(self) -> int | None:
        """Return how many training rows must be probed, where a limit of what is repeated is asked for; else
        None.
        """
        return None if self.gates.max_regurgitation is None else PROBED_ROWS

    @property
    def digest(self) -> str:
        """Return the digest of the floors."""
        return sha256_json(shown(self))

    def approvers_of(self, spec: VariantSpec) -> tuple[str, ...]:
        """Return who may put a version of this declaration into production; none: anyone."""
        declared = spec.release.approvers
        if not self.approvers:
            return declared
        return tuple(name for name in declared if name in self.approvers) or self.approvers


class PolicyFile(Policy):
    """Defines the fields of policy.yaml."""

    schema_version: Literal[1] = 1
    per_tenant: dict[Annotated[str, Field(pattern=rf"^{HALF.pattern}$")], Policy] = Field(
        {}, description="By tenant: the same fields, in place of those above"
    )


@dataclass(frozen=True)
class CostLimit:
    """Limits what a plan of one tenant may cost, USD. `set_by`: who says so, in words."""

    usd: float
    set_by: str

    def refusal(self, usd: float | None, file: Path, *, probe_usd: float = 0.0) -> UserError | None:
        """Return the refusal if a probe (`probe_usd`), a training and its evaluation together cost more;
        nothing is refused where no price is known (None).
        """
        if usd is None or usd <= self.usd:
            return None
        tried = f", ${probe_usd:,.2f} of it for what is tried before" if probe_usd else ""
        less = "Try less (plan.probe.share, plan.probe.steps), or train" if probe_usd else "Train"
        return UserError(
            f"by its plan it costs ${usd:,.2f}{tried}, "
            f"and the policy allows ${self.usd:,.2f} ({self.set_by})",
            file=file,
            field="resources.budget_usd",
            fix=f"{less} less (training.num_train_epochs, training.max_steps) or by a cheaper method, see "
            f"the reasons of training_plan, or let the platform raise budget_usd in {POLICY_FILE}",
        )


@dataclass(frozen=True)
class Policies:
    """Holds the policies of a project. `content`: what policy.yaml says for all, `tenants`: what it says for
    one.
    """

    content: dict[str, Any]
    tenants: dict[str, dict[str, Any]]

    def of(self, tenant: str) -> Policy:
        """Return the policy that holds for a tenant."""
        return Policy.model_validate(merge(self.tenants.get(tenant, {}), self.content).content)

    def cost_limit(self, tenant: str) -> CostLimit | None:
        """Return what a plan of a tenant may cost; None: anything."""
        most = self.of(tenant).budget_usd
        return None if most is None else CostLimit(most, self.set_by(tenant, "budget_usd"))

    def set_by(self, tenant: str, rule: str) -> str:
        """Return who set a rule (a dotted field of the policy) for a tenant, in words."""
        if _says(self.tenants.get(tenant, {}), rule):
            return f"{POLICY_FILE}: per_tenant.{tenant}.{rule}"
        return f"{POLICY_FILE}: {rule}" if _says(self.content, rule) else f"built in: {rule}"


@dataclass(frozen=True)
class Breach:
    """Reports that a declaration's `field` is not as the policy's field `rule` allows; `allowed`: what is, in
    words.
    """

    field: str
    value: object
    rule: str
    allowed: str


def load_policies(project: Path) -> Policies:
    """Read policy.yaml, or take the built-in floors where there is none. Raises UserError for all its
    mistakes.
    """
    file = project / POLICY_FILE
    other = file.with_suffix(".yml")
    if os.path.lexists(other):
        raise UserError("is not read, so that no floor in it holds", file=other, fix=f"Name it {POLICY_FILE}")
    fix = f"{FIELDS}; `ft-dagster schema --policy` lists them"
    content = read_yaml(file, empty=True, fix=fix) if os.path.lexists(file) else {}
    said = validate(PolicyFile, content, lambda field: file, SEE_SCHEMA).model_dump(
        mode="json", exclude_unset=True, exclude={"schema_version"}
    )
    tenants = said.pop("per_tenant", {})
    return Policies(said, tenants)


class Checks(NamedTuple):
    """Holds what is known of the YAML files that `evaluation.general` names. `names`: what those of the
    policy's list call their tasks, by entry; `own`: entries of files that the tenant may write, and its file
    of `gates.refusals.prompts`.
    """

    names: Mapping[str, str] = {}
    own: Collection[str] = ()


NO_CHECKS = Checks()


def breaches(policy: Policy, spec: VariantSpec, checks: Checks = NO_CHECKS) -> list[Breach]:
    """Return where a declaration passes below the floors, or asks for what is not allowed. One that starts
    from a release has the source of that beside its `base_model.variant`, where it is known.
    """
    return [*breaches_of_version(policy, spec, checks), *_of_request(policy, spec)]


def breaches_of_version(policy: Policy, spec: VariantSpec, checks: Checks = NO_CHECKS) -> list[Breach]:
    """Return the breaches of what was already judged and made by a declaration: limits of cost and approvers
    no longer apply.
    """
    return [
        *_of_gates(policy.gates, spec),
        *_of_refusals(policy.gates, spec, checks.own),
        *_of_training(policy, spec, checks.own),
        *_of_membership(policy.gates, spec),
        *_of_questions(policy.evaluation, spec, checks.own),
        *_of_metrics(policy.evaluation, spec, checks.names),
        *_of_training_rows(policy.evaluation, spec),
        *_of_making(policy, spec),
    ]


def _of_gates(floors: GateFloors, spec: VariantSpec) -> Iterator[Breach]:
    gates = spec.gates
    for name in ("alpha", *MARGINS):
        value, most = getattr(gates, name), getattr(floors, name)
        if value is not None and value > most:
            yield Breach(f"gates.{name}", value, f"gates.{name}", f"at most {most:g}")
    if gates.loss_bound < floors.loss_bound:
        allowed = f"at least {floors.loss_bound:g} nats"
        yield Breach("gates.loss_bound", gates.loss_bound, "gates.loss_bound", allowed)
    least = min(floors.least_alpha, floors.alpha)
    if gates.undecided == "measured" and gates.alpha < least:
        allowed = f"at least {least:g} where gates.undecided is measured"
        yield Breach("gates.alpha", gates.alpha, "gates.least_alpha", allowed)
    if gates.regression_margin is None and floors.regression == "required":
        yield Breach("gates.regression_margin", None, "gates.regression", "a comparison with production")
    yield from (Breach(*each) for each in beyond_reference(floors, gates, floors.regression))
    if gates.degeneration_margin is None and floors.degeneration == "required":
        yield Breach("gates.degeneration_margin", None, "gates.degeneration", "a margin")
    if gates.undecided == "measured" and floors.undecided == "fail":
        yield Breach("gates.undecided", "measured", "gates.undecided", "fail alone")
    most = floors.max_regurgitation
    if most is not None and (gates.max_regurgitation is None or gates.max_regurgitation > most):
        rule = "gates.max_regurgitation"
        yield Breach(rule, gates.max_regurgitation, rule, f"a limit of at most {most:g}")
    probed = spec.evaluation.probed_rows
    if most is not None and probed < PROBED_ROWS:
        allowed = f"at least {PROBED_ROWS} training rows probed"
        yield Breach("evaluation.probed_rows", probed, "gates.max_regurgitation", allowed)


def _of_refusals(floors: GateFloors, spec: VariantSpec, own: Collection[str]) -> Iterator[Breach]:
    declared, required = spec.gates.refusals, floors.refusals == "required"
    if declared is None:
        if required:
            allowed = f"prompts that must be refused, with a margin of at most {floors.refusals_margin:g}"
            yield Breach("gates.refusals", None, "gates.refusals", allowed)
        return
    for name in ("margin", "over_margin"):
        value = getattr(declared, name)
        if value > floors.refusals_margin:
            allowed = f"at most {floors.refusals_margin:g}"
            yield Breach(f"gates.refusals.{name}", value, "gates.refusals_margin", allowed)
    if required and declared.prompts in own:
        allowed = "the prompts of the package, or a file that the tenant cannot write"
        yield Breach("gates.refusals.prompts", declared.prompts, "gates.refusals", allowed)


def _of_training(policy: Policy, spec: VariantSpec, own: Collection[str]) -> Iterator[Breach]:
    """Yield breaches of what a model is trained on besides its rows, and of what is measured meanwhile. A
    benchmark that the tenant may write watches nothing.
    """
    share, general = policy.data.general_share, spec.data.general
    if share is not None and (general is None or general.share < share):
        declared = None if general is None else general.share
        yield Breach("data.general.share", declared, "data.general_share", f"at least {share:g}")
    least, watched = policy.training.watch_questions, spec.training.watch.questions
    if least is not None and watched < least:
        allowed = f"at least {least:,} questions of each benchmark while it trains"
        yield Breach("training.watch.questions", watched, "training.watch_questions", allowed)
    asked = list(spec.evaluation.general)
    if least is not None and all(entry in own for entry in asked):
        allowed = "a benchmark to watch while it trains, not the tenant's own"
        yield Breach("evaluation.general", asked, "training.watch_questions", allowed)


def _of_membership(floors: GateFloors, spec: VariantSpec) -> Iterator[Breach]:
    """Yield breaches of how well training rows may be told from others. Too few rows pass no gate, so that
    how many are asked is the tenant's to say.
    """
    most, declared, rule = (
        floors.max_membership_auc,
        spec.gates.max_membership_auc,
        "gates.max_membership_auc",
    )
    if most is None:
        return
    if declared is None or declared > most:
        yield Breach(rule, declared, rule, f"a limit of at most {most:g}")
    if not spec.evaluation.membership:
        yield Breach("evaluation.membership", 0, rule, "rows to try it on, such as 500")


def _of_questions(floors: EvaluationFloors, spec: VariantSpec, own: Collection[str]) -> Iterator[Breach]:
    asked = spec.evaluation
    if asked.most is not None and asked.most < floors.questions:
        allowed = f"at least {floors.questions} questions a task, or null for all"
        yield Breach("evaluation.limit", asked.limit, "evaluation.questions", allowed)
    field, rule = "evaluation.general", "evaluation.general"
    others = [entry for entry in asked.general if entry not in own]
    if floors.general == "any" and not others and spec.data.general is None:
        allowed = "at least one general benchmark, not the tenant's own, or general text (data.general)"
        yield Breach(field, list(asked.general), rule, allowed)
    elif not isinstance(floors.general, str):
        missing = [name for name in floors.general if name not in asked.general]
        if missing:
            yield Breach(field, list(asked.general), rule, f"a list with {', '.join(missing)}")


def _of_metrics(floors: EvaluationFloors, spec: VariantSpec, names: Mapping[str, str]) -> Iterator[Breach]:
    """Yield each benchmark of the platform's list, by either of its names, that is judged by another metric
    than its main one.
    """
    listed = () if isinstance(floors.general, str) else floors.general
    for name in dict.fromkeys(name for entry in listed for name in (entry, names.get(entry, entry))):
        metric = spec.gates.metrics.get(name)
        if metric is not None:
            yield Breach(f"gates.metrics.{name}", metric, "evaluation.general", "its main metric")


def _of_training_rows(floors: EvaluationFloors, spec: VariantSpec) -> Iterator[Breach]:
    """Yield breaches of the rows that hold the questions: who was trained on them shows no fall, whatever was
    forgotten.
    """
    declared, most = spec.data.decontaminate, floors.coverage
    required = floors.decontaminate == "required"
    if not (spec.evaluation.task or spec.evaluation.general):
        return
    if not declared.enabled and (required or most is not None):
        rule = "evaluation.decontaminate" if required else "evaluation.coverage"
        yield Breach("data.decontaminate.enabled", False, rule, "true")
    if declared.ngram > NGRAM and required:
        allowed = f"at most {NGRAM} words"
        yield Breach("data.decontaminate.ngram", declared.ngram, "evaluation.decontaminate", allowed)
    share = declared.coverage
    if most is not None and (share is None or share > most):
        yield Breach("data.decontaminate.coverage", share, "evaluation.coverage", f"at most {most:g}")


def _of_making(policy: Policy, spec: VariantSpec) -> Iterator[Breach]:
    """Yield breaches of methods, bases and formats."""
    method, (source, parent) = spec.method.name, (spec.base_model.source, spec.base_model.variant)
    if policy.methods and method not in ("auto", *policy.methods):
        yield Breach("method.name", method, "methods", f"{', '.join(policy.methods)} or auto")
    if policy.bases and source and not any(_is_base(source, pattern) for pattern in policy.bases):
        field, made = ("base_model.variant", "a release made of ") if parent else ("base_model.source", "")
        yield Breach(field, source, "bases", f"{made}what matches {', '.join(policy.bases)}")
    if policy.exports and spec.export.format not in policy.exports:
        yield Breach("export.format", spec.export.format, "exports", ", ".join(policy.exports))


def _of_request(policy: Policy, spec: VariantSpec) -> Iterator[Breach]:
    """Yield breaches of money and approvers."""
    budget, most = spec.resources.budget_usd, policy.budget_usd
    if most is not None and (budget is None or budget > most):
        yield Breach("resources.budget_usd", budget, "budget_usd", f"a budget of at most {most:g}")
    others = [name for name in spec.release.approvers if name not in policy.approvers]
    if policy.approvers and others:
        yield Breach("release.approvers", others, "approvers", f"some of {', '.join(policy.approvers)}")


def _is_base(source: str, pattern: str) -> bool:
    """Say whether a base as it is written matches, and leads nowhere else: ours/../theirs is not below
    ours.
    """
    return fnmatchcase(source, pattern) and ".." not in source.split("/")


def _says(content: dict[str, Any], rule: str) -> bool:
    here: Any = content
    for name in rule.split("."):
        if not isinstance(here, dict) or name not in here:
            return False
        here = here[name]
    return True
