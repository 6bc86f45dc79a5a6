"""Foresees, by the store alone, how weights without some records would come to be.

Only a retrain knows the device and the torch that it has: what is foreseen as RESUMED holds where these are
those of the resume points.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ft_dagster.audit.audit import Audit
from ft_dagster.audit.index.index import Indexed
from ft_dagster.data.files.parquet import rows_of
from ft_dagster.data.mixture.mixture_io import shard_files
from ft_dagster.schema_version import stored_as
from ft_dagster.stage_entries import TRAINING_MIXTURE, TRAINING_PLAN
from ft_dagster.store import Artifact
from ft_dagster.training.checkpoints import MANIFEST
from ft_dagster.training.contract import PLAN_FILE, Plan
from ft_dagster.training.oom_retry import halved
from ft_dagster.training.retrain.course import Course, How, bins_of, first_step_with
from ft_dagster.training.retrain.resume_points import FOLDER

FROM_START: How = "FROM START"
POINTS = f"evidence/{FOLDER}/"


def course_before(audit: Audit, weights: Indexed, rows: Mapping[str, set[tuple[str, int]]]) -> Course:
    """Foresee the course of a retrain without the records that stand in these rows, by the digest of the
    mixture. Where no resume point was kept, nothing but the manifest is read.
    """
    model = audit.artifact(weights)
    steps, kept = int(model.figures["steps"]), points_of(model)
    if not kept:
        return Course(FROM_START, 0, steps, "no resume point was kept (`retention.resume_points`)")
    mixture = audit.index.parent(weights, TRAINING_MIXTURE.name)
    plan = audit.index.parent(weights, TRAINING_PLAN.name)
    if mixture is None or plan is None or not rows.get(mixture.digest):
        return Course(FROM_START, 0, steps, "its mixture or its plan is gone, by which steps are told")
    if audit.artifact(plan).figures["training"].get("share_beginnings", "off") != "off":
        why = "examples share beginnings, so that a mixture with slots is laid out otherwise"
        return Course(FROM_START, 0, steps, why)
    first = _first_step(audit, model, audit.artifact(mixture), audit.artifact(plan), rows[mixture.digest])
    if first is None or first > steps:
        return Course("STANDS", steps, steps, "no step of the training read it")
    before = [step for step in kept if step < first]
    if not before:
        return Course(FROM_START, 0, steps, f"step {first} read it first, before the first resume point")
    said = f"step {first} read it first; where torch and device are those of the resume point"
    return Course("RESUMED", max(before), steps, said)


def points_of(model: Artifact) -> list[int]:
    """Return the steps of the resume points that a training's manifest lists."""
    names = (name for name in model.files if name.startswith(POINTS) and name.endswith(f"/{MANIFEST}"))
    return sorted(int(name.split("/")[-2].rpartition("-")[2]) for name in names)


def _first_step(
    audit: Audit, model: Artifact, mixture: Artifact, plan: Artifact, rows: set[tuple[str, int]]
) -> int | None:
    content = json.loads(audit.stored.file(plan, f"payload/{PLAN_FILE}").read_text("utf-8"))
    planned, seed = stored_as(Plan, content, file=PLAN_FILE), int(content["training"]["seed"])
    if model.figures.get("micro_batch_halved"):
        planned = planned.model_copy(update={"training": halved(planned.training)})
    with tempfile.TemporaryDirectory(prefix="ft_dagster-") as scratch:
        folder = Path(scratch) / "mixture"
        for name in [name for name in mixture.files if name.startswith("payload/")]:
            if name.endswith("mixture.json") or name.startswith("payload/train/"):
                target = folder / name.removeprefix("payload/")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(audit.stored.file(mixture, name), target)
        ordinals = _ordinals(folder, rows)
        return first_step_with(bins_of(folder, planned, seed, Path(scratch)), planned, ordinals)


def _ordinals(folder: Path, rows: set[tuple[str, int]]) -> list[int]:
    batches = (batch for file in shard_files(folder, "train") for batch in rows_of(file, "source", '"row"'))
    pairs = (pair for batch in batches for pair in batch)
    return [ordinal for ordinal, pair in enumerate(pairs) if tuple(pair) in rows]
