"""Group evaluation: base and tuned model on the same questions, and the gate."""

import json
from typing import Any

import dagster as dg

from ft_dagster.assets.adapter import Metadata, stage_asset
from ft_dagster.evaluation.samples import LABELS, read_answers, read_samples, scores_on_the_same
from ft_dagster.evaluation.skills import skills
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.report.plots import as_markdown_image, score_bars
from ft_dagster.report.skills import forgotten_markdown, signs_markdown, skill_table
from ft_dagster.report.tables import markdown_table
from ft_dagster.stages import base_evaluation as base_stage
from ft_dagster.stages import evaluation as stage
from ft_dagster.stages.workspace import Workspace
from ft_dagster.store import Artifact

GROUP = "evaluation"


def _base_evaluation(workspace: Workspace, artifact: Artifact) -> Metadata:
    rows = [[s["role"], s["task"], s["metric"], s["value"], s["questions"]] for s in artifact.figures["scores"]]
    table = markdown_table(["role", "task", "metric", "base", "questions"], rows)
    return {"scores": dg.MetadataValue.md(table), **_label_table(workspace, artifact)}


def _evaluation(workspace: Workspace, artifact: Artifact) -> Metadata:
    before, verdict = workspace.upstream("base_evaluation"), Verdict.from_json(artifact.figures["verdict"])
    rules = verdict.rules
    judgement = "\n".join(f"- **{rule.outcome}**: {rule.sentence}" for rule in rules)
    return {
        "outcome": verdict.outcome,
        "judgement": dg.MetadataValue.md(judgement),
        "scores": dg.MetadataValue.md(as_markdown_image(score_bars(rules))),
        **_skills(workspace, before, artifact),
        "every_score": dg.MetadataValue.md(_both_scores(workspace, before, artifact)),
        **_label_table(workspace, artifact),
        **{f"{rule.task} {rule.metric}": rule.tuned for rule in rules},
    }


def _both_scores(workspace: Workspace, before: Artifact, after: Artifact) -> str:
    """Every score of the tuned model beside the base's on the same questions, those that no gate judges too."""
    base = {(s["role"], s["task"], s["metric"]): s["value"] for s in before.figures["scores"]}
    if workspace.spec.evaluation.limit == "auto":
        samples, tuned = (read_samples(workspace.payload(each)) for each in (before, after))
        same = scores_on_the_same(samples, tuned)
        base = {(score.role, score.task, score.metric): score.value for score in same}
    rows = [
        [s["role"], s["task"], s["metric"], base.get((s["role"], s["task"], s["metric"])), s["value"]]
        for s in after.figures["scores"]
    ]
    return markdown_table(["role", "task", "metric", "base", "tuned"], rows)


def _label_table(workspace: Workspace, artifact: Artifact) -> dict[str, dg.MetadataValue[Any]]:
    """F1 of each label, where the answers are labels and a tenant's words may be shown."""
    file = workspace.evidence(artifact) / LABELS
    if workspace.spec.data.samples != "metadata" or not file.is_file():
        return {}
    labels = json.loads(file.read_text("utf-8"))["labels"]
    rows = [[s["label"], s["questions"], s["precision"], s["recall"], s["f1"]] for s in labels]
    headers = ["label", "questions", "precision", "recall", "F1"]
    return {"labels": dg.MetadataValue.md(markdown_table(headers, rows))}


def _skills(
    workspace: Workspace, before: Artifact, after: Artifact
) -> dict[str, dg.MetadataValue[Any]]:
    """What was forgotten and what was learned, how its answers degenerate, and what it repeats of its data."""
    base, tuned = (read_samples(workspace.payload(each)) for each in (before, after))
    found, answers = skills(base, tuned), read_answers(workspace.evidence(after))
    shown = {
        "skills": skill_table(found),
        "forgotten": forgotten_markdown(found, answers, own_rows=workspace.spec.data.samples == "metadata"),
        "degeneration": signs_markdown(base, tuned, {"general_prompts": "greedy answers"}),
        "regurgitation": signs_markdown(base, tuned, {"regurgitation": "repeated word for word"}),
    }
    return {name: dg.MetadataValue.md(text) for name, text in shown.items()}


base_evaluation = stage_asset(
    base_stage.STAGE, group=GROUP, kinds={"huggingface"}, describe=_base_evaluation
)
evaluation = stage_asset(stage.STAGE, group=GROUP, kinds={"huggingface"}, describe=_evaluation)
