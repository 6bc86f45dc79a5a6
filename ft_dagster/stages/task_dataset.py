"""Reads the tenant's rows: validates, deduplicates, decontaminates against the evaluation, and splits them.

Base-agnostic: nothing is rendered or tokenized yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ft_dagster.data.sources.fingerprint import Frozen
from ft_dagster.data.sources.formats import BESIDE, moved_columns
from ft_dagster.data.sources.locations import DeclaredAt
from ft_dagster.provenance.digest import sha256_json
from ft_dagster.records.record_tree import FIGURES
from ft_dagster.spec import VariantSpec
from ft_dagster.stage_entries import DECLARATION, EVALUATION_TEXTS, TASK_DATASET
from ft_dagster.stages import evaluation_texts
from ft_dagster.store import Artifact, Attempt
from ft_dagster.workspace.build_context import BuildContext
from ft_dagster.workspace.input_view import View
from ft_dagster.workspace.keyed_inputs import Derived, Digest, recorded
from ft_dagster.workspace.stage import Check, Stage
from ft_dagster.workspace.workspace import Workspace


@dataclass(frozen=True)
class DatasetInputs:
    """Names the inputs. `sources`: digest of `fingerprints`, of the files as they were declared. `moved`:
    columns declared to be a turn that were once read under their own name, too.
    """

    spec: VariantSpec
    sources: Derived[Digest]
    evaluation_texts: Artifact | None
    moved: Derived[list[str] | None] = None
    fingerprints: list[Any] = recorded(default_factory=list)


def inputs(view: View) -> DatasetInputs:
    spec, sources, tasks = view.spec, view.frozen("sources"), view.frozen("tasks")
    guarded = spec.data.decontaminate.enabled and (tasks["task"] or tasks["general"])
    texts = view.made(evaluation_texts.STAGE) if guarded else None
    moved = {name for source in spec.data.sources for name in moved_columns(source.fields)}
    beside = sorted(moved & set(BESIDE["alpaca"])) or None
    return DatasetInputs(spec, Digest(sha256_json(sources)), texts, beside, sources)


def build(inputs: DatasetInputs, context: BuildContext, attempt: Attempt) -> dict[str, object]:
    from ft_dagster.data.rows.dataset import build_task_dataset
    from ft_dagster.records.sealed_rows import bind_records

    texts = inputs.evaluation_texts
    file = None if texts is None else context.payload(texts) / evaluation_texts.TEXTS
    figures = build_task_dataset(
        inputs.spec, context.project, file, attempt.payload, context.say,
        evidence=attempt.evidence, asked=DeclaredAt(context.declared_in, roots=context.roots),
        frozen=Frozen(inputs.fingerprints, context.cache, context.erased),
    )  # fmt: skip
    return {**figures, FIGURES: bind_records(attempt.evidence, context.record_keys).to_json()}


def judge(workspace: Workspace, artifact: Artifact) -> list[Check]:
    dropped, read = sum(artifact.figures["dropped"].values()), artifact.figures["read"]
    said = f"{dropped:,} of {read:,} rows dropped"
    return [Check("rows_kept", dropped * 2 <= read, said, {"dropped": dropped, "read": read})]


STAGE = Stage(
    TASK_DATASET,
    reads=(DECLARATION, EVALUATION_TEXTS),
    fields=("data.sources", "data.splits", "data.deduplicate", "data.decontaminate", "data.max_malformed"),
    inputs=inputs,
    build=build,
    checks={"rows_kept": "Rows remain to train on, and the share that was dropped is below a half"},
    judge=judge,
)
