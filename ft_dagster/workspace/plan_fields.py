"""Names the fields of a declaration that a plan is made from, and those it is chosen by."""

from __future__ import annotations

from typing import Any

from ft_dagster.methods import method_of
from ft_dagster.methods.layers import ALL
from ft_dagster.model_files.weights import CONFIG
from ft_dagster.planning.context import hardware_in_key, ranks_of
from ft_dagster.planning.hardware.catalogue import Hardware
from ft_dagster.planning.methods.resolved import leaves_method_open
from ft_dagster.planning.shapes import known_tensors, shapes_of
from ft_dagster.provenance.digest import sha256_json
from ft_dagster.spec import VariantSpec
from ft_dagster.spec.narrow import narrowed, shown
from ft_dagster.spec.training import TrainingSpec
from ft_dagster.stage_entries import BASE_MODEL
from ft_dagster.store import Artifact
from ft_dagster.training.batches.apart import known_leak, leak_where_packed
from ft_dagster.workspace.input_view import View
from ft_dagster.workspace.keyed_inputs import UNKNOWN, Digest, Unopened

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
    "evaluation.membership",
    "evaluation.reserve",
    "evaluation.task",
    "export.format",
    "gates.refusals",
    "resources.budget_usd",
    "resources.deadline_hours",
)
HARDWARE = ("resources.cpu_ranks", "resources.gpu_kind", "resources.nodes", "resources.sharing")
EXPERTS_UNTRAINED = "all linear layers were trained without the experts, which lie in one tensor a layer"
PACKED_THOUGH_IT_LEAKS = "its examples were packed, and reach each other in this base"
NEIGHBOURS = (BASE_MODEL.name,)  # the tenant's variants on the same base are counted: recorded


def ranked_by(spec: VariantSpec) -> Digest | None:
    """Return what `auto` chooses by; None where the method is declared, or settings of LoRA name it."""
    if not leaves_method_open(spec):
        return None
    declared = shown(narrowed(spec, RANKED))
    return Digest(sha256_json({part: below for part, below in declared.items() if below != {}}))


def hardware_keyed(view: View, hardware: Hardware) -> dict[str, Any]:
    """Return the part of a key that says what is trained on. Where one only looks, the host is that of then,
    and how many processes train is as it is declared.
    """
    if view.then is None:
        return hardware_in_key(hardware)
    then = view.then.spec["hardware"]
    return {**then, "ranks": ranks_of(view.spec, then["kind"])}


def ranks_declared(spec: VariantSpec, name: str) -> tuple[str, ...]:
    """Return the fields that say how many processes train, on GPUs and without any."""
    return ("resources.gpus", "resources.cpu_ranks", "resources.nodes") if name == "ranks" else ()


def leak_in_key(view: View, base: Artifact) -> str | None:
    """Return `leak_where_packed` of a recorded base. Where one only looks: of a plan that packs, as far as
    this host measured the base before.
    """
    if view.then is None:
        return leak_where_packed(view.spec, view.base_folder(base), view.cache)
    if not view.then.figures.get("training", {}).get("packing"):
        raise Unopened
    config = _config_of(base)
    known = None if config is None else known_leak(config, view.cache)
    if known is None:
        raise Unopened
    return known


def leak_kept(leak: str | None) -> bool | None:
    """Return what a key has of it: that a base leaks, and not how that was found."""
    return leak if leak is UNKNOWN or leak is None else True


def experts_in_key(view: View, base: Artifact) -> bool | None:
    """Return True where a plan of this declaration has the experts of the base among all linear layers; None
    elsewhere. Where one only looks: as far as this host read the base's shapes before.
    """
    method = view.spec.method
    may = method.name == "auto" or "target_parameters" in method_of(method.name).settings.model_fields
    if not may or method.given.get("target_modules", ALL) != ALL:
        return None
    if view.then is None:
        return True if shapes_of(view.base_folder(base), view.cache).tensors.experts else None
    config = _config_of(base)
    known = None if config is None else known_tensors(config, view.cache)
    if known is None:
        raise Unopened
    return True if known.experts else None


def _config_of(base: Artifact) -> str | None:
    """Return the sha256 of the config.json of a recorded base."""
    files = base.spec.get("base", {}).get("files", ())
    return next((file["sha256"] for file in files if file["path"] == CONFIG), None)
