"""Plans a variant before its graph has run: from a sample of its sources where there is no mixture yet."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any

from ft_dagster.data.mixture.mixture_figures import MixtureFigures
from ft_dagster.data.rendering.known_tokenizer import KnownTokenizer
from ft_dagster.data.rows.dataset_io import read_split
from ft_dagster.errors import UserError
from ft_dagster.launch.choice import refuse_lacking
from ft_dagster.lineage.stale import StaleKind
from ft_dagster.model_files.weights import measure_weights, weight_files
from ft_dagster.models.base import resolve_base
from ft_dagster.planning.context import counts_of, facts_of, hardware_in_key, hardware_of
from ft_dagster.planning.estimate import Estimate
from ft_dagster.planning.hardware.catalogue import Hardware
from ft_dagster.planning.looks_left import NextLook, look_lines
from ft_dagster.planning.packed_rows import counted_lengths
from ft_dagster.planning.plan import make_plan
from ft_dagster.planning.probe import leaves_open
from ft_dagster.planning.survey import Say
from ft_dagster.report.sentences.ancestors import ancestor_lines
from ft_dagster.settings import Settings
from ft_dagster.spec import Declared, VariantKey
from ft_dagster.stage_entries import (
    BASE_MODEL,
    PROMPTED_BASE,
    TASK_DATASET,
    TRAINING_MIXTURE,
)
from ft_dagster.stages import probe, training_plan
from ft_dagster.stages.declaration import freeze
from ft_dagster.stages.judging.declared_metrics import refuse_metrics
from ft_dagster.store import Artifact, find_artifact
from ft_dagster.training.batches.apart import leak_where_packed
from ft_dagster.versions.look import FoundNow
from ft_dagster.versions.now import difference
from ft_dagster.versions.plan_warnings import few_shot_lines, plan_warnings
from ft_dagster.versions.prompted import stands_of_base
from ft_dagster.versions.sample import ROWS, Counted, sample
from ft_dagster.versions.version_artifacts import newest_artifacts
from ft_dagster.workspace.judging_devices import judges_among, refuse_unheld
from ft_dagster.workspace.left_out import overlap_found
from ft_dagster.workspace.next_look import look_ahead
from ft_dagster.workspace.plan_context import context_of, context_without_base
from ft_dagster.workspace.policy import refuse_declared, too_dear
from ft_dagster.workspace.rendered_prompts import notes_on_prompts
from ft_dagster.workspace.stage import Stage
from ft_dagster.workspace.workspace import Workspace, named_in


@dataclass(frozen=True)
class Preview:
    """Holds a plan that is not kept. `basis`: what `examples`, `tokens` and `test_rows` rest on.

    `warnings`: the estimate's, and those about how it would be judged and served. `look`: the evaluation
    after the training, and `looks` in sentences. `with_examples`: what the base reaches with examples in its
    prompt, where it was asked so. `few_shot`: how the declared tasks' examples are drawn.
    """

    variant: str
    basis: str
    examples: int
    tokens: int
    test_rows: int
    estimate: Estimate
    warnings: tuple[str, ...]
    look: NextLook
    looks: tuple[str, ...]
    with_examples: tuple[str, ...] = ()
    few_shot: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        own = {name: value for name, value in vars(self).items() if name not in ("estimate", "looks")}
        lists = {name: list(own[name]) for name in ("warnings", "with_examples", "few_shot")}
        return {**self.estimate.to_json(), **own, **lists, "look": self.look.to_json()}


def plan_variant(
    settings: Settings, key: VariantKey, hardware: Hardware | None = None, say: Say = lambda line: None
) -> Preview:
    """Return a plan as it would be made now, on this host or on `hardware`; nothing is kept. `say`: takes a
    line at the beginning of each step.

    Raises UserError, also for what this host can never lend.
    """
    workspace = Workspace(settings, key)
    declared = workspace.declared()
    refuse_declared(workspace)
    refuse_metrics(workspace, {*declared.spec.evaluation.task, *declared.spec.evaluation.general})
    with named_in(declared.file):
        return _planned(workspace, declared, hardware, say)


def _planned(workspace: Workspace, declared: Declared, named: Hardware | None, say: Say) -> Preview:
    spec, project = declared.spec, workspace.project
    today = _AsDeclared(workspace.settings, workspace.key, looking=True)
    if named is None:
        refuse_lacking(workspace.settings, workspace.leases, declared.key, spec)
    hardware = named or hardware_of(spec, workspace.trains_on(spec.resources), project)
    judges = judges_among(named) if named else workspace.judges(spec)
    say("looks at what was made before")
    base, mixture = _recorded(today, declared)
    if base is not None:
        folder = workspace.base_folder(base)
        parameters, stored = base.figures["parameters"], base.figures["weights_bytes"]
        context = context_of(workspace.context, spec, base, mixture, hardware)
    elif spec.base_model.variant is not None:
        raise UserError(
            "starts from another variant's release, which no run has taken up yet",
            field="base_model.variant",
            value=spec.base_model.variant,
            fix="Materialize base_model of this variant first",
        )
    else:
        say(f"reads the base model {spec.base_model.source}")
        folder = resolve_base(
            spec.base_model,
            project,
            workspace.cache,
            declared_in=declared.file,
            roots=workspace.roots,
            bound=bool(workspace.settings.policies().of(declared.key.tenant).bases),
        ).folder
        parameters, stored, _ = measure_weights(folder, weight_files(folder))
        context = context_without_base(workspace.context, spec, folder, hardware)
    context = replace(context, judges=judges)
    tokenizer = KnownTokenizer(folder, workspace.cache)
    if mixture is None:
        data = sample(declared, project, tokenizer, workspace.roots, say=say)
    else:
        data = _counted(workspace, mixture)
        lengths = counted_lengths(workspace.payload(mixture), MixtureFigures.of(mixture), spec.training)
        context = replace(context, lengths=lengths)
    probed = today.stands(probe.STAGE, hardware) if mixture and leaves_open(spec) else None
    tried = probe.read_result(workspace, probed)
    context = replace(context, probed_hours=probe.hours_taken(probed))
    say("tries whether packed examples stay apart on this base")
    leak = leak_where_packed(spec, folder, workspace.cache)
    facts = facts_of(data.counts, parameters, stored, folder, hardware, leak=leak, cache=workspace.cache)
    plan = make_plan(spec, facts, context, tried, say)
    if named is None:
        refuse_unheld(plan.estimate.judged_on, declared.file)
    dear = too_dear(workspace, plan.estimate.predicted, hardware)
    if dear and named is None and mixture:
        standing = today.stands(training_plan.STAGE, hardware)
        dear = None if standing and training_plan.is_carried_out(workspace, standing) else dear
    refused = () if dear is None else (f"a run will be refused: {dear.problem}",)
    notes = notes_on_prompts(workspace, spec, data.rows, tokenizer)
    judged = plan_warnings(workspace, spec, plan.estimate, data.test_rows, folder)
    warnings = (*refused, *notes, *_of_ancestors(workspace), *judged)
    sizes = data.counts.examples, data.counts.tokens, data.test_rows
    asked, look = tuple(_with_examples(today, declared)), look_ahead(workspace, spec, data.test_rows)
    said = look_lines(look, spec), asked, few_shot_lines(today)
    return Preview(str(declared.key), data.basis, *sizes, plan.estimate, warnings, look, *said)


@dataclass(frozen=True)
class _AsDeclared(Workspace):
    """Opens the workspace of a run that began now."""

    @cached_property
    def frozen(self) -> dict[str, Any]:
        return freeze(self.declared(), self.project, self.cache, self.roots)

    def stands(self, stage: Stage[Any], hardware: Hardware) -> Artifact | None:
        """Return the artifact of a stage that trains, on this hardware, if it and what it is made from
        stand.
        """
        try:
            recipe, made_from = self.recipe(stage)
        except UserError:
            return None
        same = made_from.hardware == hardware_in_key(hardware)
        return find_artifact(self.store, recipe.place) if same else None


def _recorded(workspace: _AsDeclared, declared: Declared) -> tuple[Artifact | None, Artifact | None]:
    """Return the newest base and mixture, each where it is still that of the declaration as it is now. The
    next run takes up what a parent released since.
    """
    if workspace.head(BASE_MODEL.name) is None:
        return None, None
    now = FoundNow(workspace.frozen["tasks"], sources=workspace.frozen["sources"])

    def newest(stage: str, *causes: StaleKind) -> Artifact | None:
        version = newest_artifacts(workspace.store, workspace.prefix, stage)
        found = difference(workspace, declared, version, now, exact=True)
        return None if any(cause.kind in causes for cause in found) else version.artifacts.get(stage)

    base = newest(BASE_MODEL.name, "field")
    return base, base and newest(TRAINING_MIXTURE.name, "field", "source", "task", "stage")


def _of_ancestors(workspace: Workspace) -> list[str]:
    """Return what of the questions the ancestors were trained on, as it was looked for last; a run looks
    before it trains.
    """
    newest = overlap_found(workspace)
    return [] if newest is None else ancestor_lines(newest.figures["ancestors"])


def _with_examples(workspace: _AsDeclared, declared: Declared) -> list[str]:
    """Return what the base reaches with examples of the rows as declared; none where it was not asked, or the
    store is damaged, which a run says.
    """
    if not workspace.store.names(f"{workspace.prefix}/{PROMPTED_BASE.name}"):
        return []
    now = FoundNow(workspace.frozen["tasks"], sources=workspace.frozen["sources"])
    return stands_of_base(workspace, declared, now)


def _counted(workspace: Workspace, mixture: Artifact) -> Counted:
    basis, dataset = (
        f"the newest training_mixture, {mixture.digest[:12]}",
        workspace.upstream(TASK_DATASET.name),
    )
    rows = tuple(islice(read_split(workspace.payload(dataset) / "train.parquet"), ROWS))
    return Counted(counts_of(mixture), basis, dataset.figures["rows"]["test"], rows)
