"""Builds the group planning: how the variant will be trained, what that occupies, and why."""

import json
from typing import Any

import dagster as dg

from ft_dagster.assets.adapter import stage_asset
from ft_dagster.assets.giving_way import HOURS
from ft_dagster.assets.page import Page, lines, table
from ft_dagster.assets.partitions import Graph
from ft_dagster.assets.without_training import without_training
from ft_dagster.data.rows.dataset_figures import DatasetFigures
from ft_dagster.planning.estimate import Estimate
from ft_dagster.planning.looks_left import look_lines
from ft_dagster.report.charts.svg import Bar, bar_picture
from ft_dagster.report.figures import size
from ft_dagster.report.sentences.summaries import plan_summary
from ft_dagster.report.tables.recommendation import (
    AGAINST,
    COLUMNS,
    cost_rows,
    ranking_rows,
    reasons_markdown,
)
from ft_dagster.stage_entries import BASE_MODEL, TASK_DATASET
from ft_dagster.stages import training_plan as stage
from ft_dagster.store import Artifact
from ft_dagster.versions.plan_warnings import plan_warnings
from ft_dagster.workspace.next_look import look_ahead
from ft_dagster.workspace.workspace import Workspace

SHOWN = {"method": "method", "fits": "fits", "GB": "GB a device", "time": "train, judge", "against": AGAINST}
SHOWN_AT = tuple((*COLUMNS, AGAINST).index(name) for name in SHOWN.values())  # the report has all


def _training_plan(workspace: Workspace, artifact: Artifact) -> Page:
    estimate = stage.estimate_of(workspace, artifact)
    row, plan = estimate.planned_row, estimate.plan
    known = {HOURS: row.hours, "cost_usd": row.cost_usd}
    test_rows = DatasetFigures.of(workspace.upstream(TASK_DATASET.name)).test_rows
    base = workspace.base_folder(workspace.upstream(BASE_MODEL.name))
    warnings = plan_warnings(workspace, workspace.spec, estimate, test_rows, base)
    entries = {
        "warnings": lines(warnings),
        "next look": lines(look_lines(look_ahead(workspace, workspace.spec), workspace.spec)),
        **without_training(workspace),
        "ranking": table([*SHOWN], [[row[place] for place in SHOWN_AT] for row in ranking_rows(estimate)]),
        "plan": table(["field", "value", "why"], _reasons(estimate)),
        "cost": table(
            ["figure", "value"],
            [
                ("device", estimate.on),
                ("the tenant's variants of this base", str(estimate.variants)),
                *cost_rows(estimate),
            ],
        ),
        "storage": table(["on disk", "tensors alone"], _storage(estimate)),
        "why": dg.MetadataValue.md(reasons_markdown(estimate)),
        "method": plan.name,
        "steps": estimate.steps,
        **{name: value for name, value in known.items() if value is not None},
        "memory_gb": float(f"{plan.memory_bytes.total / 1e9:.4g}"),
    }
    held = {each.method: estimate.memory_bytes[each.method].total for each in estimate.ranking}
    parts = [Bar(method, bytes, size(bytes)) for method, bytes in held.items()]
    device, near = estimate.device_bytes, _near(estimate)
    of = "" if device is None else f" of {size(device)}{' (red)' if near else ''}"
    picture = bar_picture(parts, f"memory on one device{of}, by method", device if near else None)
    return Page(plan_summary(estimate, warnings), entries, picture)


def _near(estimate: Estimate) -> bool:
    """Say whether the device's memory can be drawn on the scale of what the methods hold."""
    most = max(held.total for held in estimate.memory_bytes.values())
    return estimate.device_bytes is not None and estimate.device_bytes < 3 * most


def _reasons(estimate: Estimate) -> list[list[Any]]:
    return [[r.field, _shown(r.value), r.reason] for r in estimate.plan.reasons]


def _storage(estimate: Estimate) -> list[list[Any]]:
    storage = estimate.storage
    return [
        ["a checkpoint: weights", size(storage.checkpoint_weights_bytes)],
        ["a checkpoint: optimizer states", size(storage.checkpoint_optimizer_bytes)],
        [
            f"at most {storage.checkpoints_at_most} checkpoints while it trains",
            size(storage.checkpoints_bytes),
        ],
        *(
            [["kept to resume from without erased records, at most", size(storage.resume_points_bytes)]]
            if storage.resume_points_bytes
            else []
        ),
        ["released as an adapter, in fp32 and without its tokenizer", size(storage.adapter_bytes)],
        ["released whole", size(storage.whole_bytes)],
    ]


def _shown(value: Any) -> str | None:
    return None if value is None else value if isinstance(value, str) else json.dumps(value)


def planning_assets(graph: Graph) -> list[dg.AssetsDefinition]:
    return [stage_asset(graph, stage.STAGE, group="planning", kinds={"json"}, describe=_training_plan)]
