"""What a variant's plan is made from, out of its project and store: hardware, base, neighbours, facts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from ft_dagster.data.derived import base_folder, new_token_ids_of, parent_artifact
from ft_dagster.errors import UserError
from ft_dagster.evaluation.arithmetic import computes_bf16
from ft_dagster.launch.inventory import Inventory
from ft_dagster.planning.cost.learned import Finished, finished
from ft_dagster.planning.facts import Facts
from ft_dagster.planning.hardware.catalogue import Hardware, load_catalogue, of_cpu
from ft_dagster.planning.shapes import dimensions, linear_shapes
from ft_dagster.planning.survey import PlanContext
from ft_dagster.spec import Declarations, VariantKey, VariantSpec
from ft_dagster.store import Artifact, Store, read_head
from ft_dagster.training.contract import Parent


@dataclass(frozen=True)
class Site:
    """Where a variant lives."""

    project: Path
    store: Store
    cache: Path
    key: VariantKey


class Counts(NamedTuple):
    """Of one epoch of the training split. `general_share`: of the trained tokens."""

    examples: int
    tokens: int
    trained_tokens: int
    general_share: float
    max_length: int


def hardware_of(spec: VariantSpec, inventory: Inventory, project: Path) -> Hardware:
    """What a training of `spec` gets of a host: its GPUs or shares of them, or its processes' of the CPU."""
    if inventory.kind == "gpu":
        devices = inventory.named(spec.resources.gpu_kind) or inventory.devices
        found = load_catalogue(project).found(replace(inventory, devices=devices))
        parts = inventory.shares if spec.resources.sharing == "shared" else 1
        memory = None if found.memory_bytes is None else found.memory_bytes // parts
        return replace(found, count=spec.resources.gpus, memory_bytes=memory)
    cores = spec.resources.cpu_slots or len(inventory.devices)
    return of_cpu(cores, spec.resources.cpu_ranks, inventory.memory_bytes)


def keyed(hardware: Hardware) -> dict[str, Any]:
    """What of the hardware a plan depends on, so that another kind of host plans anew; not its price."""
    memory = hardware.memory_bytes
    if hardware.kind == "cpu":
        kind, bf16 = "cpu", computes_bf16("cpu")
        memory = None if memory is None else memory // 10**8 * 10**8  # like hosts differ by what kernels keep
    else:
        kind, bf16 = "cuda", hardware.bf16
    return {"kind": kind, "ranks": hardware.count, "memory": memory, "bf16": bf16}


def sharing(site: Site, spec: VariantSpec) -> list[VariantKey]:
    """The declared variants on this one's base, itself among them; a broken declaration counts for none."""
    found = [site.key]
    declarations = Declarations(site.project)
    for key in declarations:
        if key == site.key:
            continue
        try:
            if declarations.declared(key).spec.base_model == spec.base_model:
                found.append(key)
        except UserError:
            continue
    return found


def plan_context(site: Site, spec: VariantSpec, base: Artifact, hardware: Hardware) -> PlanContext:
    """What a survey reads beside the declaration: the base's shapes, its variants, their trainings."""
    neighbours = sharing(site, spec)
    return PlanContext(
        base_folder(site.store, base, site.project, site.cache),
        hardware,
        variants=len(neighbours),
        new_token_ids=tuple(new_token_ids_of(site.store, base, site.cache)),
        parent=_parent(site, base),
        budget_usd=spec.resources.budget_usd,
        deadline_hours=spec.resources.deadline_hours,
        serving="copies" if spec.export.format == "merged" else "adapters",
        base=base.digest,
        finished=_finished(site.store, neighbours),
    )


def facts_of(counts: Counts, parameters: int, base_bytes: int, folder: Path, hardware: Hardware) -> Facts:
    """`parameters`, `base_bytes`: of the base as stored, in `folder`."""
    known = keyed(hardware)
    return Facts(
        **counts._asdict(),
        parameters=parameters,
        base_bytes=base_bytes,
        linear_shapes=linear_shapes(folder),
        **dimensions(folder)._asdict(),
        device_kind=known["kind"],
        ranks=known["ranks"],
        device_memory=known["memory"],
        bf16=known["bf16"],
    )


def counts_of(mixture: Artifact) -> Counts:
    """As a training_mixture counted them."""
    train = mixture.figures["splits"]["train"]
    return Counts(
        train["examples"],
        train["tokens"],
        train["trained_tokens"],
        mixture.figures["general_share"]["realized"],
        mixture.predicate["spec"]["max_length"],
    )


def _parent(site: Site, base: Artifact) -> Parent | None:
    """The adapter that stays frozen beneath, whatever method the plan comes to."""
    parent = base.figures.get("parent")
    if not parent or parent["mode"] != "stack":
        return None
    adapter = parent_artifact(site.store, base, "model_export")
    return Parent(adapter=adapter.folder(site.store, site.cache) / "payload", digest=adapter.digest)


def _finished(store: Store, keys: list[VariantKey]) -> tuple[Finished, ...]:
    """The newest training of each of these variants, where it was measured."""
    heads = (read_head(store, f"tenants/{k.tenant}/{k.variant}", "fine_tuned_model") for k in keys)
    known = (finished(head.figures) for head in heads if head is not None)
    return tuple(one for one in known if one is not None)
