"""Checks a declaration against what the platform allows: before hours are spent, and again at each judgement.

A gate that cannot hold whatever is trained is said at the same place.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ft_dagster.data.rows.dataset_figures import DatasetFigures
from ft_dagster.errors import UserError, UserErrors
from ft_dagster.evaluation.refusal_prompts import FIELD, prompts_file, read_prompts
from ft_dagster.evaluation.tasks.tasks import is_file_entry, names_of
from ft_dagster.gate.power import FIRST, SUCCESSORS, HopelessGate, SinceReference, hopeless_gates
from ft_dagster.lineage.graph import StoredGraph, input_of
from ft_dagster.lineage.release import history
from ft_dagster.lineage.reserves import joined_sets
from ft_dagster.lineage.served import served_in
from ft_dagster.lineage.tries import count
from ft_dagster.models.derived import named_source, released_parent
from ft_dagster.objectives import OBJECTIVES
from ft_dagster.planning.context import hardware_of
from ft_dagster.planning.cost.learned import Predicted
from ft_dagster.planning.hardware.catalogue import Hardware
from ft_dagster.roots import Roots
from ft_dagster.settings import FILE as SETTINGS_FILE
from ft_dagster.settings import Settings
from ft_dagster.spec import Declared, VariantSpec
from ft_dagster.spec.declarations import DEFAULTS
from ft_dagster.spec.policy import POLICY_FILE, Breach, Checks, Policies, Policy, breaches
from ft_dagster.spec.validation import nearest
from ft_dagster.stage_entries import BASE_MODEL, EVALUATION_TEXTS, TASK_DATASET, TRAINING_MIXTURE
from ft_dagster.store import Artifact
from ft_dagster.workspace.references import after_references, beneath
from ft_dagster.workspace.workspace import Workspace

FileOf = Callable[[str], Path]


def problems(settings: Settings, declared: Declared) -> list[UserError]:
    """Return all that a run of this declaration would be refused for by the platform, or by its own gate."""
    spec, tenant, file_of = declared.spec, declared.key.tenant, _file_of(settings, declared)
    source = with_source(settings, declared, settings.policies().of(tenant))
    found = _beyond(settings, tenant, source, file_of)
    known, unread = _prompts(spec, settings.project, file_of(FIELD), settings.roots(tenant))
    return [*found, *unread, *_offload(settings, tenant, spec, file_of), *_hopeless(spec, file_of, known)]


def _prompts(
    spec: VariantSpec, project: Path, declared_in: Path, roots: Roots
) -> tuple[dict[str, int], list[UserError]]:
    """Count the prompts of a kind in the file of `gates.refusals`, the fewer ones, or return why it cannot be
    asked.
    """
    declared = spec.gates.refusals
    if declared is None:
        return {}, []
    try:
        file = prompts_file(declared, project, declared_in, roots)
        kinds = Counter(prompt.kind for prompt in read_prompts(file))
    except UserError as error:
        return {}, [error]
    return {"refusals": min(kinds.values())}, []


def unknown_targets(settings: Settings, declared: Declared) -> list[UserError]:
    """Return names of `notify` that the platform does not know: nobody would be told, and no run is
    refused.
    """
    known = sorted(settings.notifications.targets)
    said = f"Known: {', '.join(known)}" if known else f"The platform declares them in {SETTINGS_FILE}"
    return [
        UserError(
            "no such target in notifications.targets",
            file=_file_of(settings, declared)("notify"),
            field="notify",
            value=name,
            fix=nearest(name, known, said),
        )
        for name in declared.spec.notify
        if name not in known
    ]


def _file_of(settings: Settings, declared: Declared) -> FileOf:
    """Return a function that says which file has a field: the declaration's own, or what all tenants
    share.
    """
    shared = f"tenants/{DEFAULTS}"
    return lambda field: settings.project / shared if declared.origins.get(field) == shared else declared.file


def refuse_declared(workspace: Workspace) -> None:
    """Raises UserError for the problems of the declaration as it is now."""
    _raise(problems(workspace.settings, workspace.declared()))


def refuse_frozen(workspace: Workspace, spec: VariantSpec | None = None) -> Policy:
    """Return today's policy. Raises UserError where the declaration, as it was frozen, passes below its
    floors, or starts from a release on a base that they do not allow; `spec`: another than that.
    """
    settings, tenant, spec = workspace.settings, workspace.key.tenant, spec or workspace.spec
    policy, base = settings.policies().of(tenant), workspace.head(BASE_MODEL.name)
    if spec.base_model.variant is not None and base is not None and policy.bases:
        spec = _on(spec, named_source(workspace.store, base))
    _raise(_beyond(settings, tenant, spec, lambda field: workspace.declared_in))
    return policy


class LeftOut(NamedTuple):
    """Counts what is not asked since an ancestor was trained on it: own test rows, questions by task.
    `documents`: of the held-out texts that are left, `tests`: the file of test rows that are; None where all
    are. `by`: who was trained on it.
    """

    own: int = 0
    tasks: Mapping[str, int] = {}
    documents: int | None = None
    tests: Path | None = None
    by: str = ""


def refuse_few_questions(workspace: Workspace, left_out: LeftOut) -> None:
    """Raises UserError for gates that the questions there are, now that the rows are split, cannot decide."""
    _raise(_too_few(workspace, left_out, lambda rule: rule.rule not in SUCCESSORS))


def refuse_successor(workspace: Workspace, left_out: LeftOut) -> None:
    """Raises UserError where they are too few for what is trained next: for the try that its evaluation will
    be, or to hold it against the versions before.
    """
    gates, past = workspace.spec.gates, history(workspace.store, workspace.key.prefix)
    served = served_in(past)
    tries = 1 if workspace.trial is not None else count(workspace.store, workspace.prefix).next
    below = beneath(workspace.store, workspace.upstream(BASE_MODEL.name))
    look = (tries, after_references(workspace, gates, below))
    acts = {"regression": served is not None}
    _raise(_too_few(workspace, left_out, lambda rule: acts.get(rule.rule, True), look))


def _too_few(
    workspace: Workspace,
    left_out: LeftOut,
    wanted: Callable[[HopelessGate], bool],
    look: tuple[int, SinceReference] = (1, FIRST),
) -> list[UserError]:
    """Return those of the wanted rules that the questions there are cannot decide at this `look`: its try,
    and what would be released after the references.
    """
    spec, (known, there) = workspace.spec, counted_questions(workspace, workspace.spec, left_out)
    rules = hopeless_gates(
        spec.gates, spec.evaluation, known, there, look[0], release=look[1], texts=spec.data.held_out
    )
    found = _as_errors(filter(wanted, rules), spec, lambda field: workspace.declared_in)
    for error in found if left_out.by else ():
        error.problem += f"; what {left_out.by} was trained on is not asked"
    return found


def counted_questions(
    workspace: Workspace, spec: VariantSpec, left_out: LeftOut | None = None
) -> tuple[dict[str, int], dict[str, int]]:
    """Count the questions there are, now that the rows are split: of a rule (task, general_loss, refusals),
    and of each task, by its entry, where that is known; without what is `left_out`.
    """
    from ft_dagster.data.mixture.mixture_io import held_out_documents
    from ft_dagster.data.rows.dataset_io import smallest_set

    left_out = left_out or LeftOut()
    texts = left_out.documents
    if texts is None:
        texts = held_out_documents(workspace.payload(workspace.upstream(TRAINING_MIXTURE.name)))
    known, _ = _prompts(spec, workspace.project, workspace.declared_in, workspace.roots)
    known |= {"general_loss": texts} if texts else {}
    rows, asked = workspace.upstream(TASK_DATASET.name), spec.evaluation
    if not asked.task:
        known["task"] = DatasetFigures.of(rows).test_rows - left_out.own
    if asked.reserve is not None:
        tests = left_out.tests or workspace.payload(rows) / "test.parquet"
        known["task"] = smallest_set(tests, asked.sets, joined=joined_sets(workspace.store, workspace.prefix))
    return known, _questions_there(workspace, rows, (*asked.task, *asked.general), left_out.tasks)


def _questions_there(
    workspace: Workspace, rows: Artifact, entries: Iterable[str], left_out: Mapping[str, int]
) -> dict[str, int]:
    """Count the questions of each of these tasks, by its entry: of those that the rows were looked through
    for, without those of a task that are not asked.
    """
    texts = input_of(StoredGraph(workspace.store), rows, EVALUATION_TEXTS.name)
    if texts is None:
        return {}
    asked_by, counts = workspace.declared_in, texts.figures["by_task"]
    names = names_of(entries, workspace.project, asked_by=asked_by, roots=workspace.roots)
    return {entry: counts[name] - left_out.get(name, 0) for entry, name in names.items() if name in counts}


def refuse_method(workspace: Workspace, method: str) -> None:
    """Raises UserError where a plan came to a method that the policy does not allow."""
    policies, tenant = workspace.settings.policies(), workspace.key.tenant
    allowed = policies.of(tenant).methods
    if allowed and method not in allowed:
        breach = Breach("method.name", method, "methods", ", ".join(allowed))
        raise _as_error(breach, policies, tenant, workspace.declared_in)


def too_dear(
    workspace: Workspace, predicted: Predicted, hardware: Hardware | None = None
) -> UserError | None:
    """Return an error where a probe, a training and its evaluation, as a plan estimates them, cost more USD
    than the policy allows, at today's price of `hardware` (None: of what trains here).
    """
    limit = workspace.settings.policies().cost_limit(workspace.key.tenant)
    if limit is None:
        return None
    spec = workspace.spec
    devices = hardware or hardware_of(spec, workspace.trains_on(spec.resources), workspace.project)
    usd, tried = predicted.usd(devices.usd_per_hour), predicted.probe_usd(devices.usd_per_hour)
    return limit.refusal(usd, workspace.declared_in, probe_usd=tried)


def refuse_dear(workspace: Workspace, plan: Artifact) -> None:
    """Raises UserError where what a plan foretells costs more than the policy allows."""
    if dear := too_dear(workspace, Predicted.from_json(plan.figures["predicted"])):
        raise dear


def with_source(settings: Settings, declared: Declared, policy: Policy) -> VariantSpec:
    """Return a declaration with the source of the release that it starts from, where the policy asks; as it
    is where there is none yet, which is said where the base is made.
    """
    key, base = declared.key, declared.spec.base_model
    if base.variant is not None and policy.bases:
        store = settings.open_store(key.tenant)
        with suppress(UserError):
            return _on(declared.spec, named_source(store, released_parent(store, key, base).base))
    return declared.spec


def _on(spec: VariantSpec, source: str) -> VariantSpec:
    """Return the declaration with a source for its base."""
    return spec.model_copy(update={"base_model": spec.base_model.model_copy(update={"source": source})})


def _beyond(settings: Settings, tenant: str, spec: VariantSpec, file_of: FileOf) -> list[UserError]:
    policies, unread = settings.policies(), list[UserError]()
    policy, names = policies.of(tenant), dict[str, str]()
    try:
        names = task_names(settings, tenant, policy, spec, file_of)
    except UserError as error:  # whatever it calls itself, nothing is judged by it
        unread.append(error)
    found = breaches(policy, spec, Checks(names, own_files(settings.roots(tenant), spec)))
    return [*unread, *(_as_error(breach, policies, tenant, file_of(breach.field)) for breach in found)]


def own_files(roots: Roots, spec: VariantSpec) -> tuple[str, ...]:
    """Return what general questions and refusals are judged by that the tenant with these roots may write."""
    declared = spec.gates.refusals
    prompts = () if declared is None or declared.prompts is None else (declared.prompts,)
    own = tuple(each for each in prompts if roots.is_own(roots.project / each))
    return (*own_entries(roots, spec.evaluation.general), *own)


def own_entries(roots: Roots, entries: Iterable[str]) -> tuple[str, ...]:
    """Return the entries that are YAML files which the tenant with these roots may write."""
    return tuple(each for each in entries if is_file_entry(each) and roots.is_own(roots.project / each))


def task_names(
    settings: Settings, tenant: str, policy: Policy, spec: VariantSpec, file_of: FileOf
) -> dict[str, str]:
    """Return what the YAML files that policy and declaration name as general benchmarks call their tasks;
    nothing where no gate names a metric. Raises UserError where one cannot be read.
    """
    listed, field = policy.evaluation.general, "evaluation.general"
    if isinstance(listed, str) or not spec.gates.metrics:
        return {}
    files = [entry for entry in listed if entry in spec.evaluation.general and is_file_entry(entry)]
    roots = settings.roots(tenant)
    return names_of(files, settings.project, field=field, asked_by=file_of(field), roots=roots)


def _as_error(breach: Breach, policies: Policies, tenant: str, file: Path) -> UserError:
    return UserError(
        f"not as the policy demands: {breach.allowed} ({policies.set_by(tenant, breach.rule)})",
        file=file,
        field=breach.field,
        value="nothing" if breach.value is None else breach.value,
        fix=f"Declare what it demands, or let the platform set {breach.rule} in {POLICY_FILE}",
    )


def _offload(settings: Settings, tenant: str, spec: VariantSpec, file_of: FileOf) -> Iterator[UserError]:
    path, field = spec.training.deepspeed.nvme_path, "training.deepspeed.nvme_path"
    if path is not None and not settings.roots(tenant).may_offload(path):
        yield UserError(
            "not a folder that the platform lends",
            file=file_of(field),
            field=field,
            value=path,
            fix="Name one below host.offload_folders of ft_dagster.yaml, or let the platform add it",
        )


def _hopeless(spec: VariantSpec, file_of: FileOf, known: Mapping[str, int]) -> Iterator[UserError]:
    """Yield gates that no training can pass, each with what would make it passable."""
    if OBJECTIVES[spec.objective].judged_by == "questions" and not spec.evaluation.task:
        yield UserError(
            f"no gate passes for objective {spec.objective} without factual questions: perplexity falls when "
            "style is learned",
            file=file_of("evaluation.task"),
            field="evaluation.task",
            fix="Declare lm-eval tasks that ask facts of the domain",
        )
    yield from _as_errors(
        hopeless_gates(spec.gates, spec.evaluation, known, texts=spec.data.held_out), spec, file_of
    )
    gates, asked = spec.gates, spec.evaluation
    if gates.max_regurgitation is not None and not asked.probed_rows and not asked.canaries:
        yield UserError(
            "no gate passes: nothing is probed for what it limits",
            file=file_of("gates.max_regurgitation"),
            field="gates.max_regurgitation",
            value=gates.max_regurgitation,
            fix="Declare evaluation.probed_rows or evaluation.canaries, or leave the limit out",
        )
    if gates.max_membership_auc is not None and not asked.membership:
        yield UserError(
            "no gate passes: no row is asked for what it limits",
            file=file_of("gates.max_membership_auc"),
            field="gates.max_membership_auc",
            value=gates.max_membership_auc,
            fix="Declare evaluation.membership, such as 500, or leave the limit out",
        )


def _as_errors(rules: Iterable[HopelessGate], spec: VariantSpec, file_of: FileOf) -> list[UserError]:
    """Return the rules that are asked too few questions to pass, of those that are asked at all."""
    return [
        UserError(
            rule.sentence,
            file=file_of(rule.field),
            field=rule.field,
            value=rule.value,
            fix=_way_out(rule, spec),
        )
        for rule in rules
        if spec.data.general is not None or "general_loss" not in (rule.rule, rule.of)
    ]


def _way_out(rule: HopelessGate, spec: VariantSpec) -> str:
    """Return what would let a rule decide; of the test split also in rows of the data set."""
    most, share = spec.evaluation.most, spec.data.splits.test
    own = "task" in (rule.rule, rule.of) and not spec.evaluation.task
    if not own or not share or (most is not None and most < rule.least):
        return rule.fix
    sets = spec.evaluation.sets
    rows = math.ceil(sets * (rule.least - rule.asked) / share)
    fewer = f"; so would fewer sets than {sets} (evaluation.reserve)" if sets > 1 else ""
    return f"{rule.fix}. Some {rows:,} more rows would do, {100 * share:.3g}% of which are test rows{fewer}"


def _raise(errors: list[UserError]) -> None:
    if errors:
        raise UserErrors.of(errors)
