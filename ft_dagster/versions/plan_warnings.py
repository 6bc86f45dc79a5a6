"""Warns of what a person should know before a plan is trained, of judging and serving too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from ft_dagster.errors import UserError
from ft_dagster.evaluation.tasks.tasks import shots
from ft_dagster.gate.groups import BY_SIZE, Counting, groups_of
from ft_dagster.gate.judged_by import GROUPS, with_largest
from ft_dagster.gate.level import level_of
from ft_dagster.gate.memorization.membership_rules import few_held_out
from ft_dagster.gate.power import is_judged_by_loss, texts_of_losses, too_few_rows
from ft_dagster.gate.sentences import out_of_reach, wanted, would_decide
from ft_dagster.gate.verdict_words import slowest_rule
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.planning.advice import release_warnings
from ft_dagster.planning.cost.training_cost import asking_in_batches, unseen_margins
from ft_dagster.planning.estimate import Estimate
from ft_dagster.planning.longest_example import beyond_context
from ft_dagster.spec import VariantSpec
from ft_dagster.stage_entries import EVALUATION, FINE_TUNED_MODEL, TASK_DATASET
from ft_dagster.stages import evaluation_texts
from ft_dagster.store import Artifact
from ft_dagster.training.training_figures import TrainingFigures
from ft_dagster.training.watch.falls import EVALUATIONS, least_questions, looks_of
from ft_dagster.training.watch.spectrum import ABOUT_RANK
from ft_dagster.workspace.known_groups import group_sizes
from ft_dagster.workspace.plan_context import variants_on_base
from ft_dagster.workspace.workspace import Workspace


def plan_warnings(
    workspace: Workspace, spec: VariantSpec, estimate: Estimate, test_rows: int, base_folder: Path
) -> list[str]:
    """Return the warnings, one line each. If an evaluation measured how answers differ, it says how many
    questions would decide; before the first, an assumption about them does. `test_rows`: of the test split;
    `base_folder`: of the base's files.
    """
    variants = variants_on_base(workspace.project, workspace.key, spec)
    served = release_warnings(spec, estimate.plan.name, estimate.storage, len(variants))
    judged = workspace.head(EVALUATION.name)
    seconds = (
        workspace.context.past.seconds_per_question(variants) if spec.evaluation.limit == "auto" else None
    )
    batches = asking_in_batches(spec.gates, spec.evaluation, seconds)
    trained = workspace.head(FINE_TUNED_MODEL.name)
    before = [] if trained is None else rank_of_before(TrainingFigures.of(trained), estimate.plan.name)
    few = (*too_few_rows(spec, test_rows), *few_held_out(spec, test_rows))
    asked = (*few, *_questions(judged, spec, test_rows))
    return [
        *beyond_context(spec, base_folder),
        *estimate.warnings,
        *before,
        *served,
        *asked,
        *batches,
        *idle_limit(spec),
        *too_few_groups(workspace, spec),
    ]


def too_few_groups(workspace: Workspace, spec: VariantSpec) -> list[str]:
    """Warn that the groups of the test split are too few for a rule of the variant's own, whatever is
    trained: each of them is one unit, or by size the largest of all rows counts.
    """
    import numpy as np

    gates, dataset = spec.gates, workspace.head(TASK_DATASET.name)
    if dataset is None or spec.evaluation.task:
        return []
    splits = group_sizes(workspace.context, dataset)
    every = {size for counts in splits.values() for size in counts}
    if max(every, default=1) == 1 or not splits["test"]:
        return []
    sizes, counting = np.repeat([*splits["test"]], [*splits["test"].values()]), BY_SIZE
    by_group = gates.weights == "group" or len(every) == 1
    if by_group:
        sizes = np.ones(len(sizes))
    else:
        counting = Counting.of(with_largest(gates, {GROUPS: max(every)}))
    largest = f"{counting.largest_of(sizes):,.0f}"
    how = (
        "each of them one unit" if by_group else f"of which by size the largest of all rows counts {largest}"
    )
    more = "" if by_group else ", or declare gates.weights: group"
    asked = len(sizes) // spec.evaluation.sets
    where = "the test split has" if spec.evaluation.sets == 1 else "a set of evaluation.reserve has about"
    return [
        f"{where} {asked:,} groups, {how}: gates.{field} stays undecided whatever is "
        f"trained; with about {least:,} groups like these it can be decided{more}"
        for field, margin, bound in _own_margins(spec)
        if (least := groups_of(sizes, counting, margin, bound, level_of(gates.alpha)).least or 0) > asked
    ]


def _own_margins(spec: VariantSpec) -> Iterator[tuple[str, float, float]]:
    """Yield the margins of the variant's own task: field, margin, and what an answer can change by."""
    gates, loss = spec.gates, is_judged_by_loss(spec.gates, spec.evaluation)
    bound = gates.loss_bound if loss else 1.0
    yield "task_margin", gates.task_margin, bound
    if gates.regression_margin is not None:
        field = "regression_loss_margin" if loss else "regression_margin"
        yield field, getattr(gates, field), bound


def idle_limit(spec: VariantSpec) -> list[str]:
    """Warn of a limit on general questions that are too few to show a fall at any look."""
    training, benchmarks = spec.training, len(spec.evaluation.general)
    watch, looks = training.watch, looks_of(training.on_bad_rate, training.evaluations or EVALUATIONS)
    least, asked = least_questions(looks), watch.questions * benchmarks
    if watch.benchmark_limit is None or asked >= least:
        return []
    return [
        f"training.watch.benchmark_limit cannot act: {asked} questions show no fall at 5% over {looks} "
        f"looks, and {least} are the least; ask more (training.watch.questions), or look less often "
        "(training.evaluations)"
    ]


def rank_of_before(trained: TrainingFigures, method: str) -> list[str]:
    """Return what the singular values of the version before say about the rank, where it was taught by
    `method`.
    """
    if trained.method != method:
        return []
    return [f"of the version before: {line}" for line in trained.advice if line.startswith(ABOUT_RANK)]


def _questions(judged: Artifact | None, spec: VariantSpec, test_rows: int) -> tuple[str, ...]:
    losses = texts_of_losses(spec.gates, spec.evaluation, general=spec.data.general is not None)
    texts = [loss.sentence for loss in losses]
    if judged is None or "verdict" not in judged.figures:
        return (*unseen_margins(spec.gates, spec.evaluation, test_rows), *texts)
    verdict = Verdict.from_json(judged.figures["verdict"])
    known = any(rule.tail is not None for rule in verdict.rules)
    return (*still_undecided(verdict, spec.evaluation.limit), *(() if known else texts))


def still_undecided(verdict: Verdict, limit: int | Literal["auto"] | None) -> tuple[str, ...]:
    """Return what would decide the rules that the newest verdict left undecided; none where `limit` asks
    enough.
    """
    slowest = slowest_rule(verdict.rules)
    if slowest is None or (verdict.passed and out_of_reach(slowest)):
        return ()
    undecided = ", ".join(
        f"{rule.task} {rule.metric}" for rule in verdict.rules if rule.outcome == "undecided"
    )
    measured = f"as its newest evaluation measured, {would_decide(slowest)} {undecided}"
    if out_of_reach(slowest):
        return (f"{measured}; allow a larger fall (gates)",)
    if slowest.rule == "membership":  # whatever the limit
        return (f"{measured}; it had {slowest.questions:,}",)
    if slowest.rule == "general_loss":  # whatever the limit
        return (f"{measured}; the corpus held out {slowest.units or slowest.questions:,}",)
    if limit == "auto" or (limit is not None and limit >= wanted(slowest)):
        return ()
    asked = "evaluation.limit asks all there are" if limit is None else f"evaluation.limit is {limit:,}"
    return (f"{measured}; {asked}",)


def few_shot_lines(workspace: Workspace) -> tuple[str, ...]:
    """Return a sentence for each task with examples; none for tasks whose texts were not read yet."""
    try:
        texts = evaluation_texts.read_for(workspace)
    except UserError:
        return ()
    tasks = {} if texts is None else texts.figures.get("examples", {})
    declared = workspace.spec.evaluation.num_fewshot
    found = {
        (task, part["sampler"], count): None
        for task, parts in tasks.items()
        for part in parts
        if (count := shots(part["num_fewshot"], declared))
    }
    return tuple(_drawn(*each) for each in found)


def _drawn(task: str, sampler: str, count: int) -> str:
    if sampler == "first_n":
        return (
            f"{task} has the same {count} examples before all questions (first_n): where base and method "
            "allow it they are computed once (docs/gates.md#few-shot-examples)"
        )
    how = "lm-eval's default" if sampler == "default" else f"sampler {sampler}"
    return (
        f"{task} draws {count} examples anew for each question ({how}): nothing is shared, and a question "
        f"takes about {count + 1} times as long as without them"
    )
