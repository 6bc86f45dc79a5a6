"""Group planning: how the variant will be trained, what that occupies, and why."""

import json
from typing import Any

import dagster as dg

from ft_dagster.assets.adapter import Metadata, stage_asset
from ft_dagster.planning.advice import release_warnings
from ft_dagster.planning.cost.training_cost import asking_in_batches, unseen_margins
from ft_dagster.planning.estimate import Estimate
from ft_dagster.report.plots import as_markdown_image, memory_bars
from ft_dagster.report.recommendation import cost_markdown, ranking_markdown, reasons_markdown
from ft_dagster.report.tables import markdown_table, size
from ft_dagster.stages import training_plan as stage
from ft_dagster.stages.plan_context import variants_on_base
from ft_dagster.stages.workspace import Workspace
from ft_dagster.store import Artifact


def _training_plan(workspace: Workspace, artifact: Artifact) -> Metadata:
    estimate = stage.estimate_of(workspace, artifact)
    row = estimate.planned_row
    known = {"hours": row.hours, "cost_usd": row.cost_usd, "days_to_candidate": row.days_to_candidate}
    warnings = _warnings(workspace, estimate)
    return {
        "method": estimate.plan.name,
        "steps": estimate.steps,
        "trainable_parameters": estimate.trainable_parameters,
        "memory_bytes": estimate.plan.memory_bytes.total,
        **{name: value for name, value in known.items() if value is not None},
        "warnings": dg.MetadataValue.md("\n".join(f"- {line}" for line in warnings) or "none"),
        "ranking": dg.MetadataValue.md(ranking_markdown(estimate)),
        "memory": dg.MetadataValue.md(as_markdown_image(memory_bars(estimate))),
        "why": dg.MetadataValue.md(reasons_markdown(estimate)),
        "plan": dg.MetadataValue.md(_reasons_table(estimate)),
        "cost": dg.MetadataValue.md(cost_markdown(estimate)),
        "storage": dg.MetadataValue.md(_storage_table(estimate)),
    }


def _warnings(workspace: Workspace, estimate: Estimate) -> list[str]:
    """Those of the plan, and of what is declared now about judging and serving."""
    spec = workspace.spec
    seconds = _seconds_per_question(workspace)
    unseen = unseen_margins(spec.gates, spec.evaluation, seconds)
    variants = len(variants_on_base(workspace.project, workspace.key, spec))
    method = estimate.plan.name
    return [
        *estimate.warnings,
        *release_warnings(spec, method, estimate.storage, variants),
        *unseen,
        *asking_in_batches(spec.gates, spec.evaluation, seconds),
    ]  # fmt: skip


def _seconds_per_question(workspace: Workspace) -> float | None:
    """Of one model, in the newest evaluation of this variant; None before the first."""
    before = workspace.head("evaluation")
    if before is None or not before.figures.get("questions"):
        return None
    return float(before.figures["seconds"] / before.figures["questions"])


def _reasons_table(estimate: Estimate) -> str:
    rows = [[r.field, _shown(r.value), r.origin, r.reason] for r in estimate.plan.reasons]
    return markdown_table(["field", "value", "from", "why"], rows)


def _storage_table(estimate: Estimate) -> str:
    storage = estimate.storage
    rows = [
        ["a checkpoint: weights", size(storage.checkpoint_weights_bytes)],
        ["a checkpoint: optimizer states", size(storage.checkpoint_optimizer_bytes)],
        [
            f"at most {storage.checkpoints_at_most} checkpoints while it trains",
            size(storage.checkpoints_bytes),
        ],
        ["released as an adapter", size(storage.adapter_bytes)],
        ["released whole", size(storage.whole_bytes)],
    ]
    return markdown_table(["on disk", "tensors alone"], rows)


def _shown(value: Any) -> str | None:
    return None if value is None else value if isinstance(value, str) else json.dumps(value)


training_plan = stage_asset(stage.STAGE, group="planning", kinds={"json"}, describe=_training_plan)
