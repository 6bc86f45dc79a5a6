"""Names the fields of a declaration that a plan is made from, and those it is chosen by."""

from __future__ import annotations

from pathlib import Path

from ft_dagster.methods import method_of
from ft_dagster.model_files.weights import CONFIG
from ft_dagster.planning.survey import leaves_method_open
from ft_dagster.provenance.digest import sha256_json
from ft_dagster.spec import VariantSpec
from ft_dagster.spec.narrow import narrowed, shown
from ft_dagster.spec.training import TrainingSpec
from ft_dagster.stage_entries import BASE_MODEL
from ft_dagster.training.batches.apart import leak_of
from ft_dagster.workspace.keyed_inputs import Digest

ACTS_ON_NO_WEIGHT = ("report_to", "checkpoint_minutes")
TRAINING = tuple(f"training.{name}" for name in TrainingSpec.model_fields if name not in ACTS_ON_NO_WEIGHT)
PLANNED = (
    "objective",
    "base_model.new_tokens",
    "method",
    *TRAINING,
    "resources.gpus",
    "resources.cpu_slots",
)
# They rank methods, so they are in the key where the plan chooses one; else they only shape the estimate.
RANKED = (
    "data.general",
    "evaluation.general",
    "evaluation.limit",
    "evaluation.task",
    "export.format",
    "resources.budget_usd",
    "resources.deadline_hours",
)
HARDWARE = ("resources.cpu_ranks", "resources.gpu_kind", "resources.nodes", "resources.sharing")
NEIGHBOURS = (BASE_MODEL.name,)  # the tenant's variants on the same base are counted: recorded


def ranked_by(spec: VariantSpec) -> Digest | None:
    """Return what `auto` chooses by; None where the method is declared, or settings of LoRA name it."""
    return Digest(sha256_json(shown(narrowed(spec, RANKED)))) if leaves_method_open(spec) else None


def leak_where_packed(spec: VariantSpec, base: Path, cache: Path) -> str | None:
    """Say why packed examples of a base, a model folder, reach each other; None where they do not, or where
    the declaration lets none be packed.
    """
    may_pack = spec.training.packing and (spec.method.name == "auto" or method_of(spec.method.name).packs)
    return leak_of(base / CONFIG, cache) if may_pack else None
