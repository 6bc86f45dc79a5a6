"""Builds the group evaluation: base and tuned model on the same questions, and the gate."""

import json
from typing import Any

import dagster as dg

from ft_dagster.assets.adapter import stage_asset
from ft_dagster.assets.page import Page, table
from ft_dagster.assets.partitions import Graph
from ft_dagster.errors import UserError
from ft_dagster.evaluation.own_checks import FIGURE, shown
from ft_dagster.evaluation.skills import Skill, skills
from ft_dagster.gate.memorization.memorization import memorization_lines
from ft_dagster.gate.prompted import Prompted
from ft_dagster.gate.rule_figures import metric_name
from ft_dagster.gate.samples import (
    LABELS,
    Sample,
    Score,
    means,
    on_the_same,
    read_aggregates,
    read_answers,
    read_samples,
)
from ft_dagster.gate.verdict_words import verdict_word
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.report.changed_answers import CHANGED, changed_in
from ft_dagster.report.charts.svg import Bar, bar_picture, interval_pictures, measured
from ft_dagster.report.figures import is_share, percent, score
from ft_dagster.report.sentences.ancestors import FIGURE as ANCESTORS
from ft_dagster.report.sentences.ancestors import ancestor_lines
from ft_dagster.report.sentences.base_name import base_name
from ft_dagster.report.sentences.next_step import Result
from ft_dagster.report.sentences.prompted import PROMPTED, Beside, prompted_rows
from ft_dagster.report.sentences.summaries import (
    PAGE_RULES,
    base_scores_summary,
    evaluation_summary,
    page_rules_rows,
)
from ft_dagster.report.tables.refusals import EXAMPLES, JUDGED, REFUSALS, example_rows, refusal_rows
from ft_dagster.report.tables.skills import LOST, SIGNS, SKILLS, lost_rows, signs_rows, skill_rows
from ft_dagster.stage_entries import BASE_EVALUATION, BASE_MODEL, TASK_DATASET
from ft_dagster.stages import base_evaluation as base_stage
from ft_dagster.stages import evaluation as stage
from ft_dagster.store import Artifact
from ft_dagster.versions.refusals_judged import judged_rows
from ft_dagster.workspace.workspace import Workspace

GROUP = "evaluation"


def describe_base(workspace: Workspace, artifact: Artifact) -> Page:
    payload = workspace.payload(artifact)
    found = [*means(read_samples(payload)), *read_aggregates(payload)]
    scores = [s._replace(task=_called(artifact, s)) for s in found]
    rows = [[s.task, _metric(s), score(s.metric, s.value), s.questions] for s in scores]
    shown = {"scores": table(["task", "metric", "base", "questions"], rows)}
    first = {s.task: s.value for s in reversed(scores) if is_share(s.metric, [s.value])}
    parts = [Bar(task, value, percent(value)) for task, value in first.items()]
    entries = {**shown, **_label_table(workspace, artifact), **_engine(artifact)}
    return Page(
        base_scores_summary(scores), entries, bar_picture(parts, "the base's first score in each task")
    )


def _metric(found: Score) -> str:
    return metric_name(found.metric, higher_is_better=found.higher_is_better)


def describe_evaluation(workspace: Workspace, artifact: Artifact) -> Page:
    before, verdict = workspace.upstream(BASE_EVALUATION.name), Verdict.from_json(artifact.figures["verdict"])
    rules = verdict.rules
    base, tuned = (read_samples(workspace.payload(each)) for each in (before, artifact))
    found = skills(base, tuned, artifact.figures.get(FIGURE))
    first = {
        "base": base_name(workspace.store, workspace.upstream(BASE_MODEL.name)),
        **_answers(workspace, before, artifact),
    }
    entries = {
        "outcome": verdict_word(verdict),
        "rules": table(PAGE_RULES, page_rules_rows(rules)),
        "with_examples": table(PROMPTED, prompted_rows(_with_examples(workspace, tuned))),
        **_skills(workspace, found, artifact),
        **_refusals(workspace, artifact),
        "degeneration": table(SIGNS, signs_rows(base, tuned, "general_prompts")),
        "regurgitation": table(SIGNS, signs_rows(base, tuned, "regurgitation")),
        **_memorization(artifact),
        "every_score": table(["task", "metric", "base", "tuned"], _both_scores(workspace, before, artifact)),
        **_label_table(workspace, artifact),
        "questions": artifact.figures["questions"],
        **_ancestors(artifact),
        **_engine(artifact),
        **{f"{rule.task} {rule.metric}": float(f"{rule.tuned:.4g}") for rule in measured(rules)},
    }
    result = Result(str(workspace.key), verdict, workspace.spec.evaluation.limit)
    picture = interval_pictures(rules)
    return Page(evaluation_summary(result), entries, picture, first)


def _refusals(workspace: Workspace, artifact: Artifact) -> dict[str, Any]:
    """Show what base and tuned model refused, where that is judged."""
    rows, examples = refusal_rows(artifact.figures), example_rows(artifact.figures)
    if not rows:
        return {}
    shown = {"refusals": table(REFUSALS, rows), "refusal_examples": table(EXAMPLES, examples)}
    try:
        payload = workspace.payload(artifact)
        judged = judged_rows(workspace.settings, workspace.key, workspace.spec, artifact, payload)
    except UserError as error:
        return {**shown, "judgements": str(error)}
    return {**shown, **({"judgements": table(JUDGED, judged)} if judged else {})}


def _answers(workspace: Workspace, before: Artifact, after: Artifact) -> dict[str, Any]:
    """Return a few answers of base and tuned, better and worse, where a tenant's rows may be shown."""
    changed = changed_in(
        after.figures,
        [(workspace.payload(each), workspace.evidence(each)) for each in (before, after)],
        own_rows=workspace.spec.data.samples == "metadata",
    )
    if changed is None:
        return {}
    rows = {"before_and_after": table(CHANGED, changed.rows)} if changed.rows else {}
    return {"answers": f"{changed.sentence}.", **rows}


def _with_examples(workspace: Workspace, tuned: list[Sample]) -> list[Beside]:
    """Return what the base reaches with examples in its prompt; on the test split beside the tuned model."""
    base, dataset = workspace.upstream(BASE_MODEL.name), workspace.upstream(TASK_DATASET.name)
    found = workspace.context.past.with_examples(base, dataset)
    return [
        Beside.of(Prompted.from_json(each.figures), read_samples(workspace.payload(each)), tuned)
        for each in found
    ]


def _called(artifact: Artifact, found: Score) -> str:
    return shown(artifact.figures, found.role, found.task)


def _ancestors(artifact: Artifact) -> dict[str, str]:
    """Return what of the questions each ancestor was trained on; nothing without ancestors."""
    lines = ancestor_lines(artifact.figures.get(ANCESTORS, ()))
    return {ANCESTORS: "\n".join(lines)} if lines else {}


def _engine(artifact: Artifact) -> dict[str, str]:
    """Return what wrote the answers, and why it is no other where it might be; of older evaluations
    nothing.
    """
    names = ("engine", "engine_reason")
    return {name: artifact.figures[name] for name in names if name in artifact.figures}


def _memorization(artifact: Artifact) -> dict[str, str]:
    lines = memorization_lines(artifact.figures)
    return {"memorization": f"{'. '.join(lines)}."} if lines else {}


def _both_scores(workspace: Workspace, before: Artifact, after: Artifact) -> list[list[Any]]:
    """Return every score of the tuned model beside the base's on the same questions, also what no gate
    judges.
    """
    folders = [workspace.payload(each) for each in (before, after)]
    samples, asked = map(read_samples, folders)
    sides = [
        {(one.role, one.task, one.metric): one for one in (*means(side), *read_aggregates(folder))}
        for side, folder in zip((on_the_same(samples, asked), asked), folders, strict=True)
    ]
    return [
        [
            _called(after, one),
            _metric(one),
            *(score(one.metric, side[name].value if name in side else None) for side in sides),
        ]
        for name, one in sides[1].items()
    ]


def _label_table(workspace: Workspace, artifact: Artifact) -> dict[str, dg.MetadataValue[Any]]:
    """Return the F1 of each label, where the answers are labels and a tenant's words may be shown."""
    file = workspace.evidence(artifact) / LABELS
    if workspace.spec.data.samples != "metadata" or not file.is_file():
        return {}
    labels = json.loads(file.read_text("utf-8"))["labels"]
    shares = ("precision", "recall", "f1")
    rows = [[s["label"], s["questions"], *(percent(s[name]) for name in shares)] for s in labels]
    return {"labels": table(["label", "questions", "precision", "recall", "F1"], rows)}


def _skills(workspace: Workspace, found: list[Skill], after: Artifact) -> dict[str, dg.MetadataValue[Any]]:
    """Show what was forgotten and what was learned, with questions that were right before and are wrong
    now.
    """
    own = workspace.spec.data.samples == "metadata"
    lost = lost_rows(found, read_answers(workspace.evidence(after)), own_rows=own)
    return {"skills": table(SKILLS, skill_rows(found)), "forgotten": table(LOST, lost)}


def evaluation_assets(graph: Graph) -> list[dg.AssetsDefinition]:
    kinds = {"huggingface"}
    return [
        stage_asset(graph, base_stage.STAGE, group=GROUP, kinds=kinds, describe=describe_base),
        stage_asset(graph, stage.STAGE, group=GROUP, kinds=kinds, describe=describe_evaluation),
    ]
